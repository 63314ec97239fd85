//! Requests byte by byte, for those that no proper client would send, and what every refusal must look like.

use crate::Answer;
use serde_json::Value;
use std::{
    io::{BufRead, ErrorKind, Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

/// What came back for some bytes.
#[derive(Debug)]
pub struct Exchange {
    /// The first answer, if there was one.
    pub answer: Option<Answer>,
    /// Until the server closed the connection.
    pub took: Duration,
    /// Whether the server had not closed it when patience was at its end.
    pub hangs: bool,
}

/// Takes one request, as a server for tests does: its head in lower case, and its body. `None` at the end of the connection.
pub fn request(stream: &mut impl BufRead) -> Option<(String, Vec<u8>)> {
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line == "\r\n" {
            break;
        }
        line.make_ascii_lowercase();
        if let Some(n) = line.strip_prefix("content-length:") {
            length = n.trim().parse().ok()?;
        }
        head += &line;
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some((head, body))
}

/// The `host:port` of a base URL.
pub fn address(url: &str) -> &str {
    url.trim_start_matches("http://").trim_end_matches('/')
}

/// How long a server is given before it is told that nothing more will come. It takes an end of the request as an end of the
/// client, so one that is told at once need not answer.
const PAUSE: Duration = Duration::from_millis(50);

/// Sends bytes, reads the answer, says that nothing more will come, and reads until the server closes.
pub fn exchange(address: &str, bytes: &[u8], patience: Duration) -> Exchange {
    talk(address, bytes, PAUSE, patience)
}

/// Sends a whole request that asks for the connection to be closed, and waits for that.
pub fn ask(address: &str, bytes: &[u8], patience: Duration) -> Exchange {
    talk(address, bytes, patience, PAUSE)
}

/// `pause`: how long before the server is told that nothing more will come; `patience`: how long after that.
fn talk(address: &str, bytes: &[u8], pause: Duration, patience: Duration) -> Exchange {
    let since = Instant::now();
    let mut stream = TcpStream::connect(address).expect("the worker accepts");
    stream.set_write_timeout(Some(pause.max(patience))).expect("a timeout");
    // The worker may refuse before everything is written.
    let _ = stream.write_all(bytes);
    let (mut got, mut piece, mut told) = (Vec::new(), vec![0; 64 * 1024], false);
    stream.set_read_timeout(Some(pause)).expect("a timeout");
    loop {
        match stream.read(&mut piece) {
            Ok(0) => return Exchange { answer: first_answer(&got), took: since.elapsed(), hangs: false },
            Ok(n) => got.extend_from_slice(&piece[..n]),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if told {
                    return Exchange { answer: first_answer(&got), took: since.elapsed(), hangs: true };
                }
                told = true;
                let _ = stream.shutdown(std::net::Shutdown::Write);
                stream.set_read_timeout(Some(patience)).expect("a timeout");
            }
            // A reset is an end as well.
            Err(_) => return Exchange { answer: first_answer(&got), took: since.elapsed(), hangs: false },
        }
    }
}

/// The first answer in some bytes; interim ones (1xx) are passed over. The body ends at its length, at the last chunk,
/// or with the bytes.
pub fn first_answer(bytes: &[u8]) -> Option<Answer> {
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let status: u16 = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let rest = &bytes[end + 4..];
    if (100..200).contains(&status) {
        return first_answer(rest);
    }
    let headers: Vec<(String, String)> = lines
        .filter_map(|l| l.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let header = |name: &str| headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
    let body = if header("transfer-encoding") == Some("chunked") {
        unchunk(rest)
    } else {
        let length = header("content-length").and_then(|v| v.parse().ok()).unwrap_or(rest.len());
        rest[..length.min(rest.len())].to_vec()
    };
    Some(Answer { status, headers, body })
}

fn unchunk(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(line) = rest.windows(2).position(|w| w == b"\r\n") {
        let size = String::from_utf8_lossy(&rest[..line]).into_owned();
        let Ok(size) = usize::from_str_radix(size.split(';').next().unwrap_or_default().trim(), 16) else { break };
        let (from, to) = ((line + 2).min(rest.len()), (line + 2 + size).min(rest.len()));
        body.extend_from_slice(&rest[from..to]);
        if size == 0 || to + 2 > rest.len() {
            break;
        }
        rest = &rest[to + 2..];
    }
    body
}

/// What no answer may give away: places on the server's disk, addresses in its memory, names of its source.
const INSIDES: [&str; 14] = [
    "/root", "/home", "/tmp", "/usr", "/proc", "/work", "0x", ".so\"", "libsd_", "panicked", ".rs:", "::", "os error",
    "src/",
];

/// Checks a text that goes to a client for what it may not give away.
///
/// # Errors
/// What was found.
pub fn gives_nothing_away(text: &str) -> Result<(), String> {
    match INSIDES.iter().find(|word| text.contains(**word)) {
        Some(word) => Err(format!("the answer gives `{word}` away: {text:.300}")),
        None => Ok(()),
    }
}

/// A refusal without the names of fields in it: what is wrong with a field is told with its name, which is the sender's word.
pub fn without_fields(text: &str, body: &Value) -> String {
    let several = body["error"]["errors"].as_array().into_iter().flatten().map(|e| &e["field"]);
    let names = several.chain([&body["error"]["field"], &body["error"]["param"]]).filter(|name| name.is_string());
    // As it stands in JSON, without the quotes.
    let names = names.map(Value::to_string).filter_map(|name| Some(name.get(1..name.len() - 1)?.to_owned()));
    names.filter(|name| !name.is_empty()).fold(text.to_owned(), |text, name| text.replace(&name, ""))
}

/// Checks that an answer is a proper refusal: 4xx (or 503), JSON in one of the error shapes, nothing given away.
///
/// # Errors
/// What is wrong with it.
pub fn proper_refusal(answer: &Answer) -> Result<(), String> {
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    if !((400..500).contains(&answer.status) || answer.status == 503) {
        return Err(format!("status {} is no refusal: {text:.300}", answer.status));
    }
    let body: Value = serde_json::from_slice(&answer.body)
        .map_err(|e| format!("status {}: the body is not JSON ({e}): {text:.300}", answer.status))?;
    gives_nothing_away(&without_fields(&text, &body))?;
    let ours = body["error"]["code"].is_string() && body["error"]["message"].is_string();
    let a1111 = body["error"].is_string() && body["detail"].is_string();
    if ours || a1111 { Ok(()) } else { Err(format!("no code and message: {text:.300}")) }
}
