//! Downloads from servers that cut, ignore or mistake ranges, and by two at once. A server on this
//! machine plays each of them.
//!
//! Mutations caught, each alone: Content-Range not compared; a file that is complete begun anew at
//! 416; a longer one kept at 416; a whole answer appended to the part; no lock; the attempts counted
//! although each brings more; the hash that the server named forgotten.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use sha2::{Digest as _, Sha256};
use train::download::Download;
use train::error::ErrorKind;

/// What a request asks for: its path, and the offset of its range.
type Request = (String, Option<usize>);

/// A server that answers every request with the bytes of `answer`; its address and its log.
fn serve(
    answer: impl Fn(&Request, usize) -> Vec<u8> + Send + Sync + 'static,
) -> (String, Arc<Mutex<Vec<Request>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let log = Arc::new(Mutex::new(Vec::new()));
    let (requests, answer) = (Arc::clone(&log), Arc::new(answer));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { break };
            let request = read(&stream);
            let number = requests.lock().unwrap().len();
            requests.lock().unwrap().push(request.clone());
            let answer = Arc::clone(&answer);
            std::thread::spawn(move || stream.write_all(&answer(&request, number)));
        }
    });
    (address, log)
}

fn read(stream: &TcpStream) -> Request {
    let lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let head: Vec<String> = lines.map(Result::unwrap).take_while(|line| !line.is_empty()).collect();
    let from = head.iter().find_map(|line| {
        let line = line.to_lowercase();
        line.strip_prefix("range: bytes=")?.trim_end_matches('-').parse().ok()
    });
    (head[0].split(' ').nth(1).unwrap().to_owned(), from)
}

/// An answer whose body may be shorter than it says.
fn answer(status: &str, headers: &str, length: usize, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{headers}Connection: close\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

fn part(from: usize, all: &[u8]) -> Vec<u8> {
    let range = format!("Content-Range: bytes {from}-{}/{}\r\n", all.len() - 1, all.len());
    answer("206 Partial Content", &range, all.len() - from, &all[from..])
}

fn content() -> Vec<u8> {
    (0..200_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn download(address: &str, sha256: String) -> Download {
    let (url, sha256): (&str, &str) = (format!("{address}/file").leak(), sha256.leak());
    Download { name: "a file", megabytes: 0.2, sha256, url }
}

/// A folder of its own, removed on drop.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("kindling-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("file.bin")
    }

    /// The file as it is while it is fetched, with a beginning.
    fn begun(&self, bytes: &[u8]) {
        std::fs::write(self.0.join("file.part"), bytes).unwrap();
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[track_caller]
fn fetched(download: &Download, path: &Path) {
    download.fetch(path).unwrap();
    assert!(std::fs::read(path).unwrap() == content(), "the file");
    assert!(!path.with_extension("part").exists());
}

fn offsets(log: &Mutex<Vec<Request>>) -> Vec<Option<usize>> {
    log.lock().unwrap().iter().map(|(_, from)| *from).collect()
}

#[test]
fn a_server_that_knows_no_ranges_sends_all_again() {
    let folder = Folder::new("no-ranges");
    folder.begun(&content()[..70_000]);
    let (address, log) = serve(|_, _| answer("200 OK", "", content().len(), &content()));
    fetched(&download(&address, hash(&content())), &folder.file());
    assert_eq!(offsets(&log), [Some(70_000)]);
}

#[test]
fn another_part_than_was_asked_for_is_not_appended() {
    for other in [0, 60_000, 80_000] {
        let folder = Folder::new(&format!("other-part-{other}"));
        folder.begun(&content()[..70_000]);
        let (address, log) = serve(move |(_, from), _| match from {
            Some(_) => part(other, &content()),
            None => answer("200 OK", "", content().len(), &content()),
        });
        fetched(&download(&address, hash(&content())), &folder.file());
        assert_eq!(offsets(&log), [Some(70_000), None]);
    }
    // Without the header nobody knows which part it is.
    let folder = Folder::new("no-header");
    folder.begun(&content()[..70_000]);
    let (address, _) = serve(|(_, from), _| match from {
        Some(_) => answer("206 Partial Content", "", 80_000, &content()[..80_000]),
        None => answer("200 OK", "", content().len(), &content()),
    });
    fetched(&download(&address, hash(&content())), &folder.file());
}

#[test]
fn a_part_that_the_server_has_not_is_complete_or_of_another_file() {
    let unsatisfiable = || {
        let range = format!("Content-Range: bytes */{}\r\n", content().len());
        answer("416 Range Not Satisfiable", &range, 0, &[])
    };
    let folder = Folder::new("complete");
    folder.begun(&content());
    let (address, log) = serve(move |_, _| unsatisfiable());
    fetched(&download(&address, hash(&content())), &folder.file());
    assert_eq!(offsets(&log), [Some(content().len())]);

    let folder = Folder::new("longer");
    folder.begun(&[content(), vec![0; 10]].concat());
    let (address, log) = serve(move |(_, from), _| match from {
        Some(_) => unsatisfiable(),
        None => answer("200 OK", "", content().len(), &content()),
    });
    fetched(&download(&address, hash(&content())), &folder.file());
    assert_eq!(offsets(&log), [Some(content().len() + 10), None]);
}

/// Ten cuts are many, but each attempt brings more; four that bring nothing are the end.
#[test]
fn attempts_go_on_while_they_bring_more() {
    let folder = Folder::new("cuts");
    let (address, log) = serve(|(_, from), _| {
        let from = from.unwrap_or(0);
        let whole = match from {
            0 => answer("200 OK", "", content().len(), &content()),
            from => part(from, &content()),
        };
        let cut = (whole.len() - (content().len() - from) + 35_000).min(whole.len());
        whole[..cut].to_vec()
    });
    fetched(&download(&address, hash(&content())), &folder.file());
    assert_eq!(log.lock().unwrap().len(), 6);

    let folder = Folder::new("nothing");
    let (address, log) = serve(|_, _| answer("200 OK", "", content().len(), &[]));
    let error = download(&address, hash(&content())).fetch(&folder.file()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::File);
    assert!(error.message.contains("fetch it elsewhere with `curl"), "{error}");
    assert_eq!(log.lock().unwrap().len(), 4);
}

#[test]
fn two_at_once_fetch_it_once() {
    let folder = Folder::new("twice");
    let (address, log) = serve(|_, _| {
        std::thread::sleep(std::time::Duration::from_millis(300));
        answer("200 OK", "", content().len(), &content())
    });
    let download = download(&address, hash(&content()));
    let path = folder.file();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| fetched(&download, &path));
        }
    });
    assert_eq!(log.lock().unwrap().len(), 1);
}

/// Where no hash is known the server's counts, and is remembered for the file in the cache.
#[test]
fn the_hash_that_the_server_names_is_remembered() {
    let folder = Folder::new("named");
    let named = |tag: &str| {
        let tag = tag.to_owned();
        serve(move |(path, _), _| match path.as_str() {
            "/file" => answer(
                "302 Found",
                &format!("Location: /stored\r\nX-Linked-Etag: {tag}\r\n"),
                0,
                &[],
            ),
            _ => answer("200 OK", "", content().len(), &content()),
        })
        .0
    };
    // A tag that is no SHA-256 says nothing of the file.
    let error = download(&named("\"0123abcd\""), String::new()).fetch(&folder.file()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Checkpoint);
    assert!(error.message.contains("one that the server names"), "{error}");
    let download = download(&named(&format!("\"{}\"", hash(&content()))), String::new());
    fetched(&download, &folder.file());
    download.fetch(&folder.file()).unwrap();
    let mut damaged = content();
    damaged[5] ^= 1;
    std::fs::write(folder.file(), damaged).unwrap();
    let error = download.fetch(&folder.file()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Checkpoint);
    assert!(error.message.contains("remove the file to have it fetched again"), "{error}");
}
