//! Files from the network: fetched with progress, resumed where they were cut, checked by their
//! hash.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest as _, Sha256};
use ureq::http::header::{CONTENT_LENGTH, CONTENT_RANGE, LOCATION, RANGE};
use ureq::tls::{RootCerts, TlsConfig};

use crate::err;
use crate::error::{Error, ErrorKind};
use crate::files::{create_folders, write_atomically};

/// Replaces scheme and host of every address: a mirror, or a server of a closed network.
const MIRROR: &str = "KINDLING_WEIGHTS_URL";

/// Redirects that are followed.
const REDIRECTS: usize = 5;

/// Attempts in a row that bring nothing new. Each goes on where the one before was cut.
const ATTEMPTS: usize = 4;

/// Time without a byte after which a connection counts as cut.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Seconds in place of [`TIMEOUT`], for slow lines and for tests.
const TIMEOUT_VARIABLE: &str = "KINDLING_WEIGHTS_TIMEOUT";

/// Blocks of a body that wait for the disk, 64 KiB each.
const BLOCKS: usize = 16;

/// A file that somebody published.
#[derive(Clone, Copy, Debug)]
pub struct Download {
    /// What it is called in messages.
    pub name: &'static str,
    /// Size in megabytes.
    pub megabytes: f64,
    /// The first digits of its SHA-256; empty where the server names it.
    pub sha256: &'static str,
    /// Address.
    pub url: &'static str,
}

impl Download {
    /// Fetches the file to `path` if it is not there.
    ///
    /// # Errors
    /// [`ErrorKind::File`]: the network or the disk, with the line that fetches the file elsewhere;
    /// [`ErrorKind::Checkpoint`]: what came is another file.
    pub fn fetch(&self, path: &Path) -> Result<(), Error> {
        if path.exists() {
            return self.checked(path);
        }
        create_folders(path.parent().unwrap_or(Path::new(".")))?;
        err!("fetching {} ({:.0} MB) from {}", self.name, self.megabytes, self.url);
        let part = path.with_extension("part");
        let failed = |why: String| {
            Error::file(format!(
                "{}: {why}; fetch it elsewhere with `curl -L -o {} {}` and put it at {}",
                self.url,
                path.file_name().unwrap_or_default().to_string_lossy(),
                self.url,
                path.display()
            ))
        };
        let options =
            || OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&part);
        let mut file = options().map_err(|e| failed(format!("{}: {e}", part.display())))?;
        // Another process may be fetching the same file: the later one waits and finds it.
        file.lock().map_err(|e| failed(format!("{}: {e}", part.display())))?;
        if path.exists() {
            return Ok(());
        }
        let wanted = self.attempts(&mut file).map_err(&failed)?;
        let found = digest(&mut file).map_err(|e| failed(format!("{}: {e}", part.display())))?;
        if wanted.is_empty() || !found.starts_with(&wanted) {
            // Emptied and not removed: another process may be waiting for this very file.
            let _ = file.set_len(0);
            return Err(Error {
                kind: ErrorKind::Checkpoint,
                message: format!(
                    "{}: its SHA-256 is {found} where {} was expected: the file is damaged, or another one; \
                     nothing was kept",
                    self.url,
                    if wanted.is_empty() { "one that the server names" } else { &wanted }
                ),
            });
        }
        if self.sha256.is_empty() {
            write_atomically(&named_hash(path), found.as_bytes())?;
        }
        file.sync_all()
            .and_then(|()| std::fs::rename(&part, path))
            .map_err(|e| failed(e.to_string()))?;
        err!("kept as {}", path.display());
        Ok(())
    }

    /// Fetches into `file` in as many attempts as it takes; returns the first digits of the
    /// SHA-256. Attempts that bring the file further are not counted.
    fn attempts(&self, file: &mut File) -> Result<String, String> {
        let (mut attempt, mut longest, mut trust) = (0, 0, RootCerts::WebPki);
        loop {
            match self.download(file, &trust) {
                Ok(wanted) => return Ok(wanted),
                // A company's proxy, whose certificate the system's store may hold.
                Err(Fault::Untrusted(_)) if matches!(trust, RootCerts::WebPki) => {
                    trust = RootCerts::PlatformVerifier;
                }
                Err(Fault::Cut(why)) => {
                    let length = file.metadata().map_or(0, |file| file.len());
                    attempt = if length > longest { 1 } else { attempt + 1 };
                    longest = longest.max(length);
                    if attempt >= ATTEMPTS {
                        return Err(why);
                    }
                    err!("note: {why}; going on where it was cut");
                    std::thread::sleep(Duration::from_millis(200 << attempt));
                }
                Err(Fault::Refused(why) | Fault::Untrusted(why)) => return Err(why),
            }
        }
    }

    /// A file that is there, if it is the one: somebody may have put it there by hand.
    fn checked(&self, path: &Path) -> Result<(), Error> {
        let found = File::open(path).and_then(|mut file| digest(&mut file));
        let found =
            found.map_err(|e| Error::file(format!("{}: cannot read: {e}", path.display())))?;
        // Where the server named the hash, it was written beside the file.
        let wanted = match self.sha256 {
            "" => std::fs::read_to_string(named_hash(path)).unwrap_or_default(),
            known => known.to_owned(),
        };
        match found.starts_with(wanted.trim()) {
            true => Ok(()),
            false => Err(Error::checkpoint(format!(
                "{}: its SHA-256 is {found} where {wanted} was expected: remove the file to have it \
                 fetched again",
                path.display(),
            ))),
        }
    }

    /// Fetches what is missing at the end of `file`; returns the first digits of the SHA-256.
    fn download(&self, file: &mut File, trust: &RootCerts) -> Result<String, Fault> {
        let timeout = timeout();
        let agent = ureq::Agent::new_with_config(
            ureq::Agent::config_builder()
                .max_redirects(0)
                .http_status_as_error(false)
                .tls_config(TlsConfig::builder().root_certs(trust.clone()).build())
                .timeout_connect(Some(timeout))
                .timeout_recv_response(Some(timeout))
                .build(),
        );
        let mut url = mirrored(self.url, std::env::var(MIRROR).ok().as_deref());
        let mut wanted = self.sha256.to_owned();
        for _ in 0..=REDIRECTS {
            let have = file.seek(SeekFrom::End(0)).map_err(|e| Fault::Refused(e.to_string()))?;
            let mut request = agent.get(&url);
            if have > 0 {
                request = request.header(RANGE, format!("bytes={have}-"));
            }
            let answer = request.call().map_err(|error| match error {
                error if error.to_string().contains("invalid peer certificate") => {
                    Fault::Untrusted(error.to_string())
                }
                ureq::Error::Io(_) | ureq::Error::Timeout(_) => Fault::Cut(error.to_string()),
                error => Fault::Refused(error.to_string()),
            })?;
            let header = |name: &str| answer.headers().get(name)?.to_str().ok().map(str::to_owned);
            // Hugging Face names the hash of a large file where it redirects to it.
            if let (true, Some(tag)) = (wanted.is_empty(), header("x-linked-etag")) {
                wanted = sha256_of(&tag);
            }
            let range = header(CONTENT_RANGE.as_str()).and_then(|text| ContentRange::parse(&text));
            match answer.status().as_u16() {
                206 if range.and_then(|range| range.first) != Some(have) => {
                    empty(file)?;
                    return Err(Fault::Cut(
                        "the server sent another part than was asked for".into(),
                    ));
                }
                200 | 206 => {
                    // A server that knows no ranges sends all of it.
                    let done = if answer.status().as_u16() == 206 { have } else { empty(file)? };
                    let length = header(CONTENT_LENGTH.as_str()).and_then(|text| text.parse().ok());
                    let body = Blocks::new(answer.into_body().into_reader(), timeout);
                    self.copy(&body, file, done, length)?;
                    return Ok(wanted);
                }
                301 | 302 | 303 | 307 | 308 => {
                    let to = header(LOCATION.as_str())
                        .ok_or_else(|| Fault::Refused("a redirect to nowhere".into()))?;
                    url = absolute(&url, &to);
                }
                // All of it was there already; the hash will tell.
                416 if range.and_then(|range| range.length) == Some(have) => {
                    return Ok(wanted);
                }
                // What is there is longer than the file: it is another one.
                416 => {
                    empty(file)?;
                    return Err(Fault::Cut("the server has no such part".into()));
                }
                404 => return Err(Fault::Refused("the server has no such file (404)".into())),
                500..=599 => {
                    return Err(Fault::Cut(format!("the server answers {}", answer.status())));
                }
                other => return Err(Fault::Refused(format!("the server answers {other}"))),
            }
        }
        Err(Fault::Refused("too many redirects".into()))
    }

    fn copy(
        &self,
        body: &Blocks,
        file: &mut File,
        done: u64,
        length: Option<u64>,
    ) -> Result<(), Fault> {
        let style =
            "{prefix} {bar:24.cyan/dim} {bytes}/{total_bytes} · {bytes_per_sec} · {eta} left";
        let bar = ProgressBar::new(done + length.unwrap_or((self.megabytes * 1e6) as u64));
        bar.set_style(
            ProgressStyle::with_template(style).expect("a valid template").progress_chars("━━─"),
        );
        bar.set_prefix("fetching");
        bar.set_position(done);
        let mut got = 0;
        while let Some(block) = body.next()? {
            file.write_all(&block).map_err(|e| Fault::Refused(e.to_string()))?;
            got += block.len() as u64;
            bar.set_position(done + got);
        }
        bar.finish_and_clear();
        match length {
            Some(length) if got < length => {
                Err(Fault::Cut(format!("cut after {got} of {length} bytes")))
            }
            _ => Ok(()),
        }
    }
}

/// A body that is read by a thread of its own, so that a connection on which nothing comes any more
/// can be given up: the HTTP library limits the time of a whole body only. The thread of a stalled
/// connection ends with the connection or the process.
struct Blocks {
    blocks: Receiver<std::io::Result<Vec<u8>>>,
    timeout: Duration,
}

impl Blocks {
    fn new(mut body: impl std::io::Read + Send + 'static, timeout: Duration) -> Self {
        let (sender, blocks) = mpsc::sync_channel(BLOCKS);
        std::thread::spawn(move || {
            loop {
                let mut block = vec![0; 1 << 16];
                let read = body.read(&mut block);
                let last = !matches!(read, Ok(count) if count > 0);
                let sent = sender.send(read.map(|count| {
                    block.truncate(count);
                    block
                }));
                if last || sent.is_err() {
                    return;
                }
            }
        });
        Self { blocks, timeout }
    }

    /// The next block; none at the end.
    fn next(&self) -> Result<Option<Vec<u8>>, Fault> {
        match self.blocks.recv_timeout(self.timeout) {
            Ok(Ok(block)) => Ok((!block.is_empty()).then_some(block)),
            Ok(Err(error)) => Err(Fault::Cut(error.to_string())),
            Err(RecvTimeoutError::Timeout) => {
                let seconds = self.timeout.as_secs();
                Err(Fault::Cut(format!("nothing came for {seconds} seconds")))
            }
            Err(RecvTimeoutError::Disconnected) => Err(Fault::Cut("the reader ended".into())),
        }
    }
}

/// The header Content-Range: `bytes 5-9/10`, where a star stands for what is not known.
#[derive(Clone, Copy, Debug, PartialEq)]
struct ContentRange {
    /// Offset of the part's first byte.
    first: Option<u64>,
    /// Length of the whole file.
    length: Option<u64>,
}

impl ContentRange {
    fn parse(text: &str) -> Option<Self> {
        let (part, length) = text.trim().strip_prefix("bytes")?.trim().split_once('/')?;
        let first = part.split_once('-').and_then(|(first, _)| first.trim().parse().ok());
        Some(Self { first, length: length.trim().parse().ok() })
    }
}

/// Empties the file; returns its length.
fn empty(file: &mut File) -> Result<u64, Fault> {
    file.set_len(0)
        .and_then(|()| file.seek(SeekFrom::Start(0)))
        .map_err(|e| Fault::Refused(e.to_string()))
}

/// The SHA-256 that an entity tag is; nothing where it is something else (a small file's tag is
/// git's).
fn sha256_of(tag: &str) -> String {
    let digits = tag.trim_start_matches("W/").trim_matches('"').to_lowercase();
    let is_hash = digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_hash { digits } else { String::new() }
}

/// Where the hash stands that the server named for the file at `path`.
fn named_hash(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".sha256");
    name.into()
}

/// Time without a byte after which a connection counts as cut.
fn timeout() -> Duration {
    let given = std::env::var(TIMEOUT_VARIABLE).ok().and_then(|text| text.parse().ok());
    given.filter(|seconds| *seconds > 0).map_or(TIMEOUT, Duration::from_secs)
}

/// Why a download ended.
enum Fault {
    /// Another attempt may go on.
    Cut(String),
    /// It would end in the same way.
    Refused(String),
    /// The server's certificate is signed by nobody who is trusted.
    Untrusted(String),
}

/// The SHA-256 of a file.
fn digest(file: &mut File) -> std::io::Result<String> {
    file.seek(SeekFrom::Start(0))?;
    let mut hash = Sha256::new();
    let mut block = vec![0; 1 << 16];
    loop {
        match file.read(&mut block)? {
            0 => break,
            count => hash.update(&block[..count]),
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// An address with the scheme and host of a mirror, which may have a path of its own.
fn mirrored(url: &str, mirror: Option<&str>) -> String {
    let Some(mirror) = mirror.filter(|mirror| !mirror.is_empty()) else { return url.to_owned() };
    let path = url
        .split_once("://")
        .and_then(|(_, rest)| rest.split_once('/'))
        .map_or("", |(_, path)| path);
    format!("{}/{path}", mirror.trim_end_matches('/'))
}

/// The target of a redirect from `url`.
fn absolute(url: &str, to: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return to.to_owned() };
    let host = rest.split('/').next().unwrap_or(rest);
    match to {
        to if to.contains("://") => to.to_owned(),
        to if to.starts_with("//") => format!("{scheme}:{to}"),
        to if to.starts_with('/') => format!("{scheme}://{host}{to}"),
        to => format!("{scheme}://{host}/{to}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutations caught: a tag of any length taken for a hash.
    #[test]
    fn ranges_and_hashes_of_headers_are_read() {
        let range = |first, length| Some(ContentRange { first, length });
        assert_eq!(ContentRange::parse("bytes 5-9/10"), range(Some(5), Some(10)));
        assert_eq!(ContentRange::parse("bytes 5-9/*"), range(Some(5), None));
        assert_eq!(ContentRange::parse("bytes */10"), range(None, Some(10)));
        assert_eq!(ContentRange::parse("items 5-9/10"), None);
        assert_eq!(ContentRange::parse("bytes"), None);
        let hash = "0123456789abcdef".repeat(4);
        assert_eq!(sha256_of(&format!("W/\"{}\"", hash.to_uppercase())), hash);
        assert_eq!(sha256_of("\"0123456789abcdef0123456789abcdef01234567\""), "");
    }

    /// Mutations caught: the name of the file alone behind a mirror.
    #[test]
    fn mirrors_and_redirects_keep_the_path() {
        let url = "https://download.pytorch.org/models/a.pth";
        assert_eq!(
            mirrored(url, Some("http://mirror:8000/w/")),
            "http://mirror:8000/w/models/a.pth"
        );
        assert_eq!(mirrored(url, None), url);
        assert_eq!(absolute(url, "/b"), "https://download.pytorch.org/b");
        assert_eq!(absolute(url, "//c/b"), "https://c/b");
        assert_eq!(absolute(url, "http://d/e"), "http://d/e");
    }
}
