//! Answers that the server gives without asking the program: a full house, a request target too long, a handler that panicked.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Seconds after which a refused client may try again.
const RETRY_AFTER_S: u32 = 5;

/// The body of every error this module sends: `{"error":{"code":…,"message":…}}`. Both texts are ours and need no escapes.
pub(super) fn error_json(code: &str, message: &str) -> String {
    format!(r#"{{"error":{{"code":"{code}","message":"{message}"}}}}"#)
}

/// The longest answer that can be hyper's own refusal: a status line and a few headers.
const MAX_OWN_REFUSAL: usize = 256;

/// What to send in place of hyper's own refusal; `None` when these bytes are none.
pub(super) fn reworded(bytes: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(bytes).ok().filter(|t| t.len() <= MAX_OWN_REFUSAL)?;
    let line = text.strip_prefix("HTTP/1.1 ")?.strip_suffix("\r\n\r\n")?.split("\r\n").next()?;
    let (code, message) = match line.get(..3)? {
        "431" => ("headers_too_large", "the request's headers are too many or too large"),
        "414" => ("uri_too_long", "the request target is too long"),
        status if status.starts_with('4') => ("malformed_request", "the request is not well-formed HTTP/1.1"),
        _ => return None,
    };
    let body = error_json(code, message);
    let length = body.len();
    Some(
        format!(
            "HTTP/1.1 {line}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
        )
        .into_bytes(),
    )
}

/// Tells a client that there is no room for its connection. Reads the request head first (for at most a second): a socket closed over unread bytes sends a
/// reset that can overtake the answer.
pub(super) async fn too_many_connections(mut stream: TcpStream) {
    let body = error_json("too_many_connections", "the server has no room for another connection; try again later");
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: {}\r\nretry-after: \
         {RETRY_AFTER_S}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    let talk = async {
        let mut seen = Vec::with_capacity(1024);
        while seen.len() < 8 * 1024 && !seen.windows(4).any(|w| w == b"\r\n\r\n") {
            if stream.read_buf(&mut seen).await? == 0 {
                break;
            }
        }
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await
    };
    // The client is being refused: what becomes of the answer does not matter to us.
    let _ = tokio::time::timeout(Duration::from_secs(1), talk).await;
}
