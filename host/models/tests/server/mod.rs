//! A small HTTP/1.1 server for tests: any free port of this machine, one request a connection, ends with its owner.

pub(crate) mod repository;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

/// What was asked.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) path: String,
    /// The first byte asked for.
    pub(crate) range: Option<u64>,
    pub(crate) token: Option<String>,
}

/// What is answered.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    length: bool,
    manner: Manner,
}

#[derive(Debug, Clone, Copy)]
enum Manner {
    Plain,
    /// Closes after so many bytes of the body.
    Cut(usize),
    /// Sends the head and ten bytes, then nothing until the client goes.
    Stall,
    /// Sends the body in pieces with pauses.
    Drip,
}

impl Reply {
    pub(crate) fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: b"no".to_vec(), length: true, manner: Manner::Plain }
    }

    pub(crate) fn ok(body: Vec<u8>) -> Self {
        Self { body, ..Self::status(200) }
    }

    pub(crate) fn ranged(bytes: &[u8], from: Option<u64>) -> Self {
        let Some(from) = from else { return Self::ok(bytes.to_vec()) };
        let rest = bytes.get(from as usize..).unwrap_or_default();
        let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
        Self { body: rest.to_vec(), ..Self::status(206) }.header("Content-Range", &range)
    }

    pub(crate) fn redirect(status: u16, to: &str) -> Self {
        Self::status(status).header("Location", to)
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|(known, _)| known != name);
        self.headers.push((name.into(), value.into()));
        self
    }

    pub(crate) fn cut(self, at: usize) -> Self {
        Self { manner: Manner::Cut(at), ..self }
    }

    pub(crate) fn stall(self) -> Self {
        Self { manner: Manner::Stall, ..self }
    }

    pub(crate) fn drip(self) -> Self {
        Self { manner: Manner::Drip, ..self }
    }

    pub(crate) fn without_length(self) -> Self {
        Self { length: false, ..self }
    }

    fn send(&self, stream: &mut TcpStream) -> std::io::Result<()> {
        let mut head = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", self.status);
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        if self.length {
            head += &format!("Content-Length: {}\r\n", self.body.len());
        }
        stream.write_all((head + "\r\n").as_bytes())?;
        match self.manner {
            Manner::Plain => stream.write_all(&self.body)?,
            Manner::Cut(at) => stream.write_all(&self.body[..at.min(self.body.len())])?,
            Manner::Stall => {
                stream.write_all(&self.body[..10.min(self.body.len())])?;
                // Returns when the client closes.
                let _ = stream.read(&mut [0; 16])?;
            }
            Manner::Drip => {
                for piece in self.body.chunks(self.body.len().div_ceil(8).max(1)) {
                    stream.write_all(piece)?;
                    // The pause is the behaviour under test: well below the client's bound on silence.
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
        }
        stream.flush()
    }
}

/// Runs until it is dropped.
pub(crate) struct Server {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Request>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(reply: impl Fn(usize, &Request) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (log, halt) = (seen.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if halt.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(mut stream) = stream else { continue };
                // A client that hangs must not hang the test.
                let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
                let Some(request) = read(&stream) else { continue };
                let n = {
                    let mut log = log.lock().unwrap();
                    log.push(request.clone());
                    log.len()
                };
                let _ = reply(n, &request).send(&mut stream);
                let _ = stream.shutdown(Shutdown::Both);
            }
        });
        Self { address, seen, stop, thread: Some(thread) }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) fn paths(&self) -> Vec<String> {
        self.requests().into_iter().map(|request| request.path).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the accept.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next()?.ok()?;
    let path = first.split(' ').nth(1)?.split('?').next()?.to_owned();
    let mut request = Request { path, range: None, token: None };
    for line in lines {
        let line = line.ok()?;
        let Some((name, value)) = line.split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "range" => request.range = value.strip_prefix("bytes=")?.trim_end_matches('-').parse().ok(),
            "authorization" => request.token = Some(value.to_owned()),
            _ => {}
        }
    }
    Some(request)
}
