//! The server against raw sockets: what slow, greedy, silent and numerous clients can and cannot do.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use warp::{Filter, Reply};

use super::body::{BodyBudget, BodyError, BodyRules};
use super::*;

/// No single wait of a test is longer: a server that hangs fails the test instead of stopping the run.
const PATIENCE: Duration = Duration::from_secs(20);
const BODY_CAP: usize = 256 * 1024;

struct Server {
    address: SocketAddr,
    shutdown: Shutdown,
    stats: Arc<Stats>,
    task: JoinHandle<Result<Drained, ServeError>>,
}

fn quick() -> Limits {
    Limits {
        header_timeout: Duration::from_millis(300),
        body_idle_timeout: Duration::from_millis(300),
        write_stall_timeout: Duration::from_millis(500),
        close_grace: Duration::from_millis(200),
        ..Limits::default()
    }
}

/// `GET /hello` → hello; `POST /echo` → the body's length; `GET /stream` → endless; `GET /silent` → one
/// line and then nothing; `GET /panic` panics; `POST /deaf` never reads its body.
fn start(limits: Limits) -> Server {
    let listener = bind("127.0.0.1:0".parse().unwrap(), &limits).unwrap();
    let address = listener.local_addr().unwrap();
    let rules = BodyRules { deadline: Duration::from_secs(2), ..BodyRules::json(BODY_CAP, &BodyBudget::new(1 << 24)) };
    let hello = warp::path!("hello").and(warp::ext::get::<PeerAddr>()).map(|peer: PeerAddr| {
        assert!(peer.0.ip().is_loopback());
        warp::reply::Response::new("hello".into())
    });
    let echo = warp::path!("echo").and(warp::header::headers_cloned()).and(warp::body::stream());
    let echo = echo.then(move |headers: http::HeaderMap, pieces| {
        let rules = rules.clone();
        async move {
            let (status, text) = match body::read(&headers, pieces, &rules).await {
                Ok(body) => (http::StatusCode::OK, body.len().to_string()),
                Err(e @ BodyError::TooLarge { .. }) => (http::StatusCode::PAYLOAD_TOO_LARGE, e.to_string()),
                Err(e @ BodyError::TooSlow { .. }) => (http::StatusCode::REQUEST_TIMEOUT, e.to_string()),
                Err(e) => (http::StatusCode::BAD_REQUEST, e.to_string()),
            };
            let mut answer = warp::reply::Response::new(text.into());
            *answer.status_mut() = status;
            answer
        }
    });
    let endless = warp::path!("stream").map(|| {
        let pieces = stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from(vec![b'x'; 64 * 1024])));
        warp::reply::stream(pieces).into_response()
    });
    let silent = warp::path!("silent").map(|| {
        let pieces =
            stream::once(async { Ok::<_, std::io::Error>(Bytes::from_static(b": hi\n\n")) }).chain(stream::pending());
        warp::reply::stream(pieces).into_response()
    });
    let panics = warp::path!("panic").map(|| -> warp::reply::Response { panic!("on purpose") });
    let deaf = warp::path!("deaf").map(|| warp::reply::Response::new("no".into()));
    let routes =
        hello.or(echo).unify().or(endless).unify().or(silent).unify().or(panics).unify().or(deaf).unify().boxed();
    let (shutdown, stats) = (Shutdown::new(), Arc::new(Stats::default()));
    let task = tokio::spawn(serve(listener, warp::service(routes), limits, shutdown.clone(), stats.clone()));
    Server { address, shutdown, stats, task }
}

impl Server {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// A client whose receive buffer is small, so that it stops the server soon by not reading.
    async fn connect_small(&self) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket.connect(self.address).await.unwrap()
    }

    /// Sends `request` on a fresh connection and reads until the server closes it.
    async fn talk(&self, request: &[u8]) -> String {
        let mut stream = self.connect().await;
        stream.write_all(request).await.unwrap();
        read_all(&mut stream).await
    }

    /// Waits until the counter of `reason` is `n`.
    async fn counted(&self, reason: Closed, n: u64) {
        let all = async {
            while self.stats.closed(reason) < n {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, all).await.unwrap_or_else(|_| panic!("{reason:?}: {:?}", self.stats.view()));
        assert_eq!(self.stats.closed(reason), n, "{reason:?}");
    }

    async fn end(self) -> Drained {
        timeout(PATIENCE, self.task).await.unwrap().unwrap().unwrap()
    }
}

/// Everything until the connection ends, in whichever way.
async fn read_all(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("the server closes the connection");
    String::from_utf8_lossy(&bytes).into_owned()
}

async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut bytes = Vec::new();
    let wait = async {
        while !String::from_utf8_lossy(&bytes).contains(end) {
            assert_ne!(stream.read_buf(&mut bytes).await.unwrap(), 0, "ended before {end:?}");
        }
    };
    timeout(PATIENCE, wait).await.unwrap();
    String::from_utf8(bytes).unwrap()
}

const HELLO: &[u8] = b"GET /hello HTTP/1.1\r\nhost: x\r\n\r\n";
const ECHO_HEAD: &str = "POST /echo HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n";

#[tokio::test]
async fn heads_are_checked() {
    let server = start(quick());
    let check = async |request: String, status: &str| {
        let answer = server.talk(request.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{:.60}: {answer:.80}", request);
    };
    let get =
        |target: &str, headers: &str| format!("GET {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n");
    check(get("/hello", ""), "200").await;
    check(get("/nowhere", ""), "404").await;
    check(get(&format!("/hello?{}", "x".repeat(8 * 1024)), ""), "414").await;
    check(get("/hello", &format!("x: {}\r\n", "y".repeat(40 * 1024))), "431").await;
    check(get("/hello", &"x: y\r\n".repeat(101)), "431").await;
    check("nonsense\r\n\r\n".into(), "400").await;
    check(get("example.com", ""), "400").await;
    check(get("example.com:80", ""), "400").await;
    // Those that hyper refuses by itself carry our JSON too, also behind a good request on the same connection.
    let answer = server.talk(b"GET /hello HTTP/1.1\r\nhost: x\r\n\r\nnonsense\r\n\r\n").await;
    assert!(answer.contains("hello") && answer.ends_with("HTTP/1.1\"}}"), "{answer}");
    assert!(answer.contains(r#"{"error":{"code":"malformed_request","#), "{answer}");
    let answer = server.talk(get("/hello", &format!("x: {}\r\n", "y".repeat(40 * 1024))).as_bytes()).await;
    assert!(answer.contains(r#"{"error":{"code":"headers_too_large","#), "{answer}");
    let answer = server.talk(b"HEAD /nowhere HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 404") && answer.ends_with("\r\n\r\n"), "{answer}");
    check(format!("{ECHO_HEAD}content-length: 1\r\ncontent-length: 2\r\n\r\nab"), "400").await;
    check(format!("{ECHO_HEAD}content-length: 1x\r\n\r\nab"), "400").await;
    check(format!("{ECHO_HEAD}transfer-encoding: chunked\r\n\r\nzz\r\n"), "400").await;
}

#[tokio::test]
async fn http_2_is_not_spoken() {
    let server = start(quick());
    assert_eq!(server.talk(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await, "");
}

#[tokio::test]
async fn a_panic_is_an_answer_and_the_connection_lives() {
    let server = start(quick());
    let mut stream = server.connect().await;
    stream.write_all(b"GET /panic HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let answer = read_until(&mut stream, "details\"}}").await;
    assert!(answer.starts_with("HTTP/1.1 500") && answer.contains(r#"{"error":{"code":"internal_error","#), "{answer}");
    stream.write_all(HELLO).await.unwrap();
    assert!(read_until(&mut stream, "hello").await.starts_with("HTTP/1.1 200"));
    server.counted(Closed::Panic, 1).await;
}

#[tokio::test]
async fn slow_heads_and_idle_connections_are_closed() {
    let server = start(quick());
    let (mut half, mut mute, mut idle) = (server.connect().await, server.connect().await, server.connect().await);
    half.write_all(b"GET /hel").await.unwrap();
    idle.write_all(HELLO).await.unwrap();
    assert_eq!((read_all(&mut half).await, read_all(&mut mute).await), (String::new(), String::new()));
    assert!(read_all(&mut idle).await.ends_with("hello"));
    server.counted(Closed::HeaderTimeout, 3).await;
}

#[tokio::test]
async fn a_slow_head_does_not_win_time_by_sending_more() {
    let server = start(quick());
    let mut stream = server.connect().await;
    let start = Instant::now();
    let (mut reader, mut writer) = stream.split();
    let dribble = async {
        writer.write_all(b"GET /hello HTTP/1.1\r\n").await.unwrap();
        loop {
            tokio::time::sleep(Duration::from_millis(20)).await;
            if writer.write_all(b"x: y\r\n").await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    let mut answer = Vec::new();
    tokio::select! {
        _ = reader.read_to_end(&mut answer) => {}
        () = dribble => {}
    }
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    server.counted(Closed::HeaderTimeout, 1).await;
}

#[tokio::test]
async fn a_slow_body_is_answered_408() {
    let server = start(quick());
    let answer = server.talk(format!("{ECHO_HEAD}content-length: 100\r\n\r\nabc").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("did not arrive in time"), "{answer}");
    server.counted(Closed::BodyTimeout, 1).await;
}

#[tokio::test]
async fn a_declared_giant_is_refused_before_it_is_sent() {
    let server = start(quick());
    let head = format!("{ECHO_HEAD}expect: 100-continue\r\ncontent-length: {}\r\n\r\n", 1u64 << 30);
    let answer = server.talk(head.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("is larger than"), "{answer}");
}

#[tokio::test]
async fn an_endless_chunked_body_is_cut_at_the_cap() {
    let server = start(Limits { linger_bytes: 1 << 20, ..quick() });
    let mut stream = server.connect().await;
    let (mut reader, mut writer) = stream.split();
    let chunk = [format!("{:x}\r\n", 64 * 1024).into_bytes(), vec![b'x'; 64 * 1024], b"\r\n".to_vec()].concat();
    let mut sent = 0;
    let send = async {
        writer.write_all(format!("{ECHO_HEAD}transfer-encoding: chunked\r\n\r\n").as_bytes()).await.unwrap();
        while sent < 1 << 30 && writer.write_all(&chunk).await.is_ok() {
            sent += chunk.len();
        }
    };
    let mut answer = Vec::new();
    let (_, read) = timeout(PATIENCE, async { tokio::join!(send, reader.read_to_end(&mut answer)) }).await.unwrap();
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("is larger than"), "{answer} {read:?}");
    // The cap, what lingering throws away, and what the two sockets hold.
    assert!(sent < 64 << 20, "the server took {sent} bytes");
}

#[tokio::test]
async fn many_tiny_chunks_are_only_bytes() {
    let server = start(quick());
    let mut request = format!("{ECHO_HEAD}transfer-encoding: chunked\r\n\r\n").into_bytes();
    for _ in 0..100_000 {
        request.extend_from_slice(b"1\r\nx\r\n");
    }
    request.extend_from_slice(b"0\r\n\r\n");
    let answer = server.talk(&request).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("100000"), "{answer}");
}

#[tokio::test]
async fn an_unread_body_does_not_cost_the_answer() {
    let server = start(quick());
    for n in 0..20 {
        let head = format!("POST /deaf HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", 1 << 20);
        let mut stream = server.connect().await;
        let (mut reader, mut writer) = stream.split();
        let send = async {
            writer.write_all(head.as_bytes()).await.unwrap();
            let _ = writer.write_all(&vec![b'x'; 1 << 20]).await;
        };
        let mut answer = Vec::new();
        let (_, read) = timeout(PATIENCE, async { tokio::join!(send, reader.read_to_end(&mut answer)) }).await.unwrap();
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.ends_with("no") && answer.contains("connection: close"), "{n}: {read:?} {answer}");
    }
}

#[tokio::test]
async fn a_reader_that_stops_is_cut_and_others_are_not() {
    let server = start(quick());
    let mut stalled = Vec::new();
    for _ in 0..5 {
        let mut stream = server.connect_small().await;
        stream.write_all(b"GET /stream HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        stalled.push(stream);
    }
    let start = Instant::now();
    server.counted(Closed::StalledReader, 5).await;
    assert!(start.elapsed() < Duration::from_secs(10));
    assert!(server.talk(b"GET /hello HTTP/1.0\r\n\r\n").await.ends_with("hello"));
    drop(stalled);
}

#[tokio::test]
async fn one_connection_too_many_is_told_so() {
    let server = start(Limits { max_connections: 2, header_timeout: Duration::from_secs(30), ..quick() });
    let (mut first, mut second) = (server.connect().await, server.connect().await);
    for stream in [&mut first, &mut second] {
        stream.write_all(HELLO).await.unwrap();
        read_until(stream, "hello").await;
    }
    let answer = server.talk(HELLO).await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("\r\nretry-after: "), "{answer}");
    assert!(answer.ends_with("}}") && answer.contains(r#"{"error":{"code":"too_many_connections","#), "{answer}");
    assert_eq!(server.stats.view().open, 2);
    drop(first);
    let freed = async { while !server.talk(b"GET /hello HTTP/1.0\r\n\r\n").await.ends_with("hello") {} };
    timeout(PATIENCE, freed).await.expect("a place is free again");
}

#[tokio::test]
async fn a_drain_closes_idle_connections_answers_probes_and_cuts_streams_at_its_end() {
    let server = start(Limits { header_timeout: Duration::from_secs(30), ..quick() });
    let (mut idle, mut open) = (server.connect().await, server.connect().await);
    idle.write_all(HELLO).await.unwrap();
    read_until(&mut idle, "hello").await;
    open.write_all(b"GET /silent HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    read_until(&mut open, ": hi").await;

    server.shutdown.drain(Duration::from_millis(600));
    assert_eq!(read_all(&mut idle).await, "", "an idle connection is closed at once");
    assert!(matches!(server.shutdown.phase(), Phase::Draining { .. }), "the drain is not over yet");
    let probe = server.talk(HELLO).await;
    assert!(probe.ends_with("hello") && probe.contains("connection: close"), "{probe}");
    read_all(&mut open).await;
    let (stats, address) = (server.stats.clone(), server.address);
    let drained = server.end().await;
    assert_eq!(drained.cut, 1);
    assert!(drained.took >= Duration::from_millis(600) && drained.took < Duration::from_secs(5), "{drained:?}");
    assert_eq!((stats.closed(Closed::Drain), stats.view().open), (1, 0));
    assert!(TcpStream::connect(address).await.is_err(), "the port is free");
}

#[tokio::test]
async fn a_drain_ends_early_when_the_work_is_done() {
    let server = start(quick());
    server.shutdown.drain(Duration::from_secs(3600));
    server.shutdown.close();
    let drained = server.end().await;
    assert!(drained.cut == 0 && drained.took < Duration::from_secs(5), "{drained:?}");
}

#[tokio::test]
async fn a_second_signal_cuts_everything() {
    let server = start(Limits { close_grace: Duration::from_secs(3600), ..quick() });
    let mut open = server.connect().await;
    open.write_all(b"GET /silent HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    read_until(&mut open, ": hi").await;
    server.shutdown.drain(Duration::from_secs(3600));
    server.shutdown.stop_now();
    assert_eq!(server.end().await.cut, 1);
}

#[tokio::test]
async fn two_hundred_slow_clients_do_not_keep_others_out() {
    let server = start(quick());
    let mut slow = Vec::new();
    for n in 0..200 {
        let mut stream = server.connect().await;
        let start =
            if n % 2 == 0 { "GET /hello HT".to_owned() } else { format!("{ECHO_HEAD}content-length: 9\r\n\r\n1") };
        stream.write_all(start.as_bytes()).await.unwrap();
        slow.push(stream);
        if n % 20 == 0 {
            assert!(server.talk(b"GET /hello HTTP/1.0\r\n\r\n").await.ends_with("hello"), "with {n} slow clients");
        }
    }
    for (n, stream) in slow.iter_mut().enumerate() {
        let answer = read_all(stream).await;
        assert!(if n % 2 == 0 { answer.is_empty() } else { answer.starts_with("HTTP/1.1 408") }, "{n}: {answer}");
    }
    server.counted(Closed::HeaderTimeout, 100).await;
    server.counted(Closed::BodyTimeout, 100).await;
}
