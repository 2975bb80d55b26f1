//! `--pretrained` against a server on this machine: redirects, a cut in the middle, wrong bytes, no
//! network.
//!
//! Mutations caught: the hash not compared; no limit of the time without a byte.

#[path = "test_folder/test_folder.rs"]
mod test_folder;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Output;
use std::sync::{Arc, Mutex};

use sha2::{Digest as _, Sha256};
use test_folder::{TestFolder, code, error, refused, said};

/// How the server behaves.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    /// Sends the first half, and the rest when it is asked for.
    Cuts,
    /// Sends the first half, and then nothing, with the line open; the rest when it is asked for.
    Stalls,
    /// Names the hash of another file.
    Lies,
    /// Knows no file.
    Missing,
}

/// A server of one file; its address and the requests that it got.
fn serve(bytes: Arc<Vec<u8>>, manner: Manner) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let log = Arc::new(Mutex::new(Vec::new()));
    let requests = Arc::clone(&log);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { break };
            let (bytes, requests) = (Arc::clone(&bytes), Arc::clone(&requests));
            std::thread::spawn(move || answer(stream, &bytes, manner, &requests));
        }
    });
    (address, log)
}

fn answer(
    mut stream: TcpStream,
    bytes: &[u8],
    manner: Manner,
    requests: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    for line in BufReader::new(stream.try_clone()?).lines() {
        let line = line?;
        if line.is_empty() {
            break;
        }
        head.push(line);
    }
    let from = head.iter().find_map(|line| {
        let line = line.to_lowercase();
        line.strip_prefix("range: bytes=")?.trim_end_matches('-').parse::<usize>().ok()
    });
    let path = head[0].split(' ').nth(1).unwrap().to_owned();
    requests.lock().unwrap().push(format!("{path} {from:?}"));
    if manner == Manner::Missing {
        return stream.write_all(
            b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        );
    }
    if path.contains("/resolve/") {
        let hash = if manner == Manner::Lies { b"another file" } else { bytes };
        let hash: String = Sha256::digest(hash).iter().map(|byte| format!("{byte:02x}")).collect();
        let head = format!(
            "HTTP/1.1 302 Found\r\nLocation: /lfs/file\r\nX-Linked-Etag: \"{hash}\"\r\nContent-Length: 0\r\n\
             Connection: close\r\n\r\n"
        );
        return stream.write_all(head.as_bytes());
    }
    let from = from.unwrap_or(0);
    let rest = &bytes[from..];
    let status = if from > 0 { "206 Partial Content" } else { "200 OK" };
    let range = format!("Content-Range: bytes {from}-{}/{}\r\n", bytes.len() - 1, bytes.len());
    let range = if from > 0 { &range } else { "" };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\n{range}Connection: close\r\n\r\n",
        rest.len()
    );
    stream.write_all(head.as_bytes())?;
    let half = from == 0 && [Manner::Cuts, Manner::Stalls].contains(&manner);
    stream.write_all(&rest[..if half { rest.len() / 2 } else { rest.len() }])?;
    if half && manner == Manner::Stalls {
        std::thread::sleep(std::time::Duration::from_mins(1));
    }
    Ok(())
}

fn train(place: &TestFolder, run: &str, server: &str) -> Output {
    let words = [
        "train",
        "data",
        "--model",
        "mobilenetv1_100",
        "--pretrained",
        "--img-size",
        "32",
        "--epochs",
        "1",
        "--output",
        "out",
        "--no-report",
        "--experiment",
        run,
    ];
    place
        .command(&words)
        .env("KINDLING_WEIGHTS_URL", server)
        .env("KINDLING_WEIGHTS_TIMEOUT", "2")
        .env("XDG_CACHE_HOME", place.path("cache"))
        .output()
        .unwrap()
}

#[test]
fn published_weights_are_fetched_checked_and_kept() {
    let place = TestFolder::new("published");
    let own = ["train", "data", "--model", "mobilenetv1_100", "--img-size", "32", "--epochs", "1"];
    let more = ["--output", "out", "--no-report", "--experiment", "own"];
    assert_eq!(code(&place.run(&[&own[..], &more].concat())), 0);
    let words = ["convert", "out/train/own/model_best.ckpt", "own.safetensors", "--names", "timm"];
    assert_eq!(code(&place.run(&words)), 0);
    let bytes = Arc::new(std::fs::read(place.path("own.safetensors")).unwrap());
    let kept =
        place.path("cache/kindling/weights/mobilenetv1_100.ra4_e3600_r224_in1k.model.safetensors");

    let (missing, _) = serve(Arc::clone(&bytes), Manner::Missing);
    let curl = "fetch it elsewhere with `curl -L -o mobilenetv1_100.ra4_e3600_r224_in1k.model.safetensors https://";
    refused(&train(&place, "r", &missing), 8, &["no such file (404)", curl, "put it at"]);
    // Nobody listens there.
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    refused(&train(&place, "r", &format!("http://{closed}")), 8, &[curl]);
    let (lies, _) = serve(Arc::clone(&bytes), Manner::Lies);
    refused(&train(&place, "r", &lies), 6, &["SHA-256", "nothing was kept"]);
    assert!(!kept.exists());

    let (cuts, requests) = serve(Arc::clone(&bytes), Manner::Cuts);
    let output = train(&place, "r", &cuts);
    assert_eq!(code(&output), 0, "{}", error(&output));
    assert!(error(&output).contains("going on where it was cut"), "{}", error(&output));
    assert!(std::fs::read(&kept).unwrap() == *bytes, "the file");
    let log = requests.lock().unwrap().clone();
    assert_eq!(log.len(), 4, "{log:?}");
    assert_eq!(log[3], format!("/lfs/file Some({})", bytes.len() / 2));
    assert!(said(&output).contains("the classifier is kept"), "{}", said(&output));
    assert!(said(&output).contains("from trained weights"), "{}", said(&output));

    // A line on which nothing comes any more.
    std::fs::remove_file(&kept).unwrap();
    let (stalls, requests) = serve(Arc::clone(&bytes), Manner::Stalls);
    let output = train(&place, "stalled", &stalls);
    assert_eq!(code(&output), 0, "{}", error(&output));
    assert!(error(&output).contains("nothing came for 2 seconds"), "{}", error(&output));
    assert!(std::fs::read(&kept).unwrap() == *bytes, "the file");
    let log = requests.lock().unwrap().clone();
    assert_eq!(log.last().unwrap(), &format!("/lfs/file Some({})", bytes.len() / 2));

    // It is there now, for a new run and for one that goes on.
    let output = train(&place, "again", &format!("http://{closed}"));
    assert_eq!(code(&output), 0, "{}", error(&output));
    assert_eq!(code(&place.run(&["train", "--resume", "out/train/r", "--epochs", "2"])), 0);
    let list = place
        .command(&["models", "--weights", "--json"])
        .env("XDG_CACHE_HOME", place.path("cache"))
        .output()
        .unwrap();
    let rows: serde_json::Value = serde_json::from_str(&said(&list)).unwrap();
    let cached: Vec<&serde_json::Value> =
        rows.as_array().unwrap().iter().filter(|row| row["cached"] == true).collect();
    assert_eq!(cached.len(), 1);
    assert_eq!(cached[0]["model"], "mobilenetv1_100");
}
