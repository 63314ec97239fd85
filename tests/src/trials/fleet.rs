//! A queen who listens: takes heartbeats and remembers when each came.

use crate::wire;
use serde_json::Value;
use std::{
    io::{BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// One heartbeat.
#[derive(Debug, Clone)]
pub(super) struct Heard {
    pub(super) at: Instant,
    pub(super) body: Value,
}

/// Listens until the program ends.
pub(super) struct Queen {
    /// For `--queen-url`.
    pub(super) url: String,
    beats: Arc<Mutex<Vec<Heard>>>,
    open: Arc<AtomicUsize>,
}

impl Queen {
    pub(super) fn start() -> Queen {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let (beats, open) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
        let queen = Queen { url, beats: beats.clone(), open: open.clone() };
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (beats, open) = (beats.clone(), open.clone());
                open.fetch_add(1, Ordering::SeqCst);
                std::thread::spawn(move || {
                    // Until the worker goes.
                    while listen(&stream, &beats).is_some() {}
                    open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        queen
    }

    /// All heartbeats so far.
    pub(super) fn beats(&self) -> Vec<Heard> {
        self.beats.lock().expect("heartbeats").clone()
    }

    /// When the last one came.
    pub(super) fn last(&self) -> Instant {
        self.beats.lock().expect("heartbeats").last().expect("a heartbeat").at
    }

    /// The first one after a moment.
    pub(super) fn next(&self, after: Instant, patience: Duration) -> Option<Heard> {
        let until = Instant::now() + patience;
        loop {
            let heard = self.beats.lock().expect("heartbeats").iter().find(|b| b.at >= after).cloned();
            if heard.is_some() || Instant::now() > until {
                return heard;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Whether every connection to her has ended.
    pub(super) fn all_left(&self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        while self.open.load(Ordering::SeqCst) > 0 {
            if Instant::now() > until {
                return false;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        true
    }
}

/// Takes one request; `None` at the end of the connection.
fn listen(stream: &TcpStream, beats: &Mutex<Vec<Heard>>) -> Option<()> {
    let (_, body) = wire::request(&mut BufReader::new(stream))?;
    let body = serde_json::from_slice(&body).ok()?;
    beats.lock().expect("heartbeats").push(Heard { at: Instant::now(), body });
    let mut writer = stream;
    writer.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").ok()
}
