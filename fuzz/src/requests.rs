//! Requests: whole ones through the router, the fields of a job, forms, cursors of streams.

use sd_tests::wire::{gives_nothing_away, without_fields};
use sd_worker::doors::Desk;
use serde_json::Value;
use std::cell::OnceCell;

/// Calls with the desk of this thread.
fn desk<T>(f: impl FnOnce(&Desk) -> T) -> T {
    thread_local!(static DESK: OnceCell<Desk> = const { OnceCell::new() });
    DESK.with(|desk| f(desk.get_or_init(|| Desk::new(&[sd_tests::bundled_models()]).expect("a desk"))))
}

/// A refusal has a code, a message and no secrets.
fn proper(status: u16, body: &[u8]) {
    let text = String::from_utf8_lossy(body);
    let json: Value = serde_json::from_slice(body).unwrap_or_else(|e| panic!("{status}: not JSON ({e}): {text:.300}"));
    let ours = json["error"]["code"].is_string() && json["error"]["message"].is_string();
    assert!(ours || (json["error"].is_string() && json["detail"].is_string()), "{status}: {text:.300}");
    // What is wrong with a field is told with the sender's own words.
    if json["error"]["field"].is_null() && json["error"]["errors"].is_null() && !text.contains("unknown field") {
        gives_nothing_away(&without_fields(&text, &json)).unwrap_or_else(|e| panic!("{e}"));
    }
}

/// First line: method, path and query; then header lines; an empty line; the body.
pub(crate) fn http_request(data: &[u8]) {
    let end = data.windows(2).position(|w| w == b"\n\n").unwrap_or(data.len());
    let (head, body) = (String::from_utf8_lossy(&data[..end]).into_owned(), data.get(end + 2..).unwrap_or_default());
    let mut lines = head.lines();
    let (method, target) = lines.next().unwrap_or_default().split_once(' ').unwrap_or_default();
    let mut request = http::Request::builder().method(method).uri(target);
    for (name, value) in lines.filter_map(|l| l.split_once(':')).take(50) {
        request = request.header(name.trim(), value.trim());
    }
    // What is no request at all is hyper's matter.
    let Ok(request) = request.body(body.to_vec()) else { return };
    // Refused by the server before anything is routed.
    if request.uri().path().is_empty() {
        return;
    }
    let head_only = request.method() == http::Method::HEAD;
    let (status, body) = desk(|desk| desk.answer(request));
    assert!(status < 500 || status == 503, "{status}: {}", String::from_utf8_lossy(&body));
    if status >= 400 && !head_only && !body.starts_with(b"{\"ready\"") {
        proper(status, &body);
    }
}

/// The body of `POST /v1/jobs`.
pub(crate) fn request_json(data: &[u8]) {
    let request = http::Request::post("/v1/jobs").header("content-type", "application/json");
    let (status, body) = desk(|desk| desk.answer(request.body(data.to_vec()).expect("a request")));
    assert!(status == 200 || (400..500).contains(&status), "{status}: {}", String::from_utf8_lossy(&body));
    if status != 200 {
        proper(status, &body);
    }
}

/// The body of a form, with the boundary in its first line.
pub(crate) fn multipart(data: &[u8]) {
    let at = data.iter().position(|b| *b == b'\n').unwrap_or(0);
    let boundary = String::from_utf8_lossy(&data[..at]).trim().to_owned();
    let request = http::Request::post("/v1/images/edits")
        .header("content-type", format!("multipart/form-data; boundary={boundary}"));
    let Ok(request) = request.body(data.get(at + 1..).unwrap_or_default().to_vec()) else { return };
    let (status, body) = desk(|desk| desk.answer(request));
    assert!(status < 500, "{status}: {}", String::from_utf8_lossy(&body));
    if status >= 400 {
        proper(status, &body);
    }
}

/// A `Last-Event-ID`, in the header and in the query: the stream of an ended job comes whole from there, and ends.
pub(crate) fn sse_cursor(data: &[u8]) {
    let text = String::from_utf8_lossy(data).into_owned();
    let ids = |body: &[u8]| -> Vec<u64> {
        let text = String::from_utf8_lossy(body).into_owned();
        assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
        text.lines().filter_map(|l| l.strip_prefix("id: ")?.parse().ok()).collect()
    };
    desk(|desk| {
        let path = format!("/v1/jobs/{}/stream", desk.ended_job());
        let whole = ids(&desk.answer(http::Request::get(&path).body(Vec::new()).expect("a request")).1);
        let queried = http::Request::get(format!("{path}?last_event_id={text}")).body(Vec::new());
        let headed = http::Request::get(&path).header("last-event-id", text.as_str()).body(Vec::new());
        for request in [queried, headed].into_iter().flatten() {
            let (status, body) = desk.answer(request);
            assert_eq!(status, 200);
            let part = ids(&body);
            assert!(whole.ends_with(&part), "{part:?} is no end of {whole:?}");
        }
    });
}
