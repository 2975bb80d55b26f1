//! A running `kindling serve`, and a small HTTP client.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test file uses a part of it")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::test_folder::TestFolder;

/// The server of a test; dropping it kills it.
pub struct Served {
    child: Child,
    pub port: u16,
    errors: Arc<Mutex<String>>,
}

/// An answer.
pub struct Reply {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    fn parse(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").expect("a header");
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines
            .map(|line| line.split_once(": ").unwrap())
            .map(|(key, value)| (key.to_ascii_lowercase(), value.to_owned()))
            .collect();
        Self { status, headers, body: bytes[end + 4..].to_vec() }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| &**value)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{}", self.text()))
    }
}

impl Served {
    /// Starts the server on a free port and waits until it listens.
    pub fn start(place: &TestFolder, words: &[&str]) -> Self {
        let words = [&["serve"], words, &["--port", "0", "--backend", "flex"]].concat();
        let mut child =
            place.command(&words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let errors = Arc::new(Mutex::new(String::new()));
        let (own, stderr) = (Arc::clone(&errors), BufReader::new(child.stderr.take().unwrap()));
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                *own.lock().unwrap() += &(line + "\n");
            }
        });
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut said = String::new();
        let port = loop {
            let mut line = String::new();
            let count = stdout.read_line(&mut line).unwrap();
            assert!(count > 0, "{said}{}", errors.lock().unwrap());
            said += &line;
            if let Some((_, address)) = line.split_once("http://127.0.0.1:") {
                break address.trim().trim_end_matches('/').parse().unwrap();
            }
        };
        // A reader that goes away would be an error of its own.
        std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
        Self { child, port, errors }
    }

    pub fn try_connect(&self) -> std::io::Result<TcpStream> {
        TcpStream::connect(("127.0.0.1", self.port))
    }

    pub fn connect(&self) -> TcpStream {
        let stream = self.try_connect().unwrap();
        stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
        stream
    }

    /// The bytes that come back for the bytes of a request, until the answer is whole.
    pub fn raw(&self, request: &[u8]) -> String {
        let mut stream = self.connect();
        // The server may answer before it has read all.
        let _ = stream.write_all(request);
        let mut bytes = [0; 4096];
        let count = stream.read(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..count]).into_owned()
    }

    fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let mut head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n",
            body.len()
        );
        headers.iter().for_each(|(key, value)| head += &format!("{key}: {value}\r\n"));
        let mut stream = self.connect();
        stream.write_all(format!("{head}\r\n").as_bytes()).unwrap();
        let _ = stream.write_all(body);
        let mut bytes = Vec::new();
        // A body that is refused unread resets the connection behind the answer.
        let _ = stream.read_to_end(&mut bytes);
        Reply::parse(&bytes)
    }

    pub fn get(&self, path: &str) -> Reply {
        self.request("GET", path, &[], b"")
    }

    pub fn post(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        self.request("POST", path, headers, body)
    }

    pub fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let sent = std::process::Command::new("kill").args(["-s", name, &id]).status().unwrap();
        assert!(sent.success());
    }

    pub fn errors(&self) -> String {
        self.errors.lock().unwrap().clone()
    }

    /// Waits until the server has said something on standard error.
    pub fn wait_for(&self, words: &str) {
        let until = Instant::now() + Duration::from_mins(1);
        while !self.errors().contains(words) {
            assert!(Instant::now() < until, "`{words}` in: {}", self.errors());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits for the end; the exit code.
    pub fn wait(&mut self) -> i32 {
        let until = Instant::now() + Duration::from_mins(1);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap_or(-1);
            }
            assert!(Instant::now() < until, "still running: {}", self.errors());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends the server as a shutdown does; the exit code.
    pub fn end(mut self) -> i32 {
        self.signal("TERM");
        self.wait()
    }

    pub fn resident_kilobytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
