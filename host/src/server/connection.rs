//! One connection: the checks before a request reaches the program, and the counting of how it ended.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tower_service::Service;

use super::guarded_io::{Flags, GuardedIo};
use super::limits::Limits;
use super::refuse::error_json;
use super::shutdown::Shutdown;
use super::stats::{Closed, Stats};

/// The client's address, in the extensions of every request: `warp::ext::get::<PeerAddr>()`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerAddr(pub SocketAddr);

/// Why a request body could not be read.
#[derive(Debug, thiserror::Error)]
pub enum RequestBodyError {
    /// Nothing arrived for too long.
    #[error("the request body stopped arriving for {} s", .0.as_secs())]
    Idle(Duration),
    /// The connection broke or the body's framing is wrong.
    #[error(transparent)]
    Transport(#[from] hyper::Error),
}

/// The rest of a body that is read though nobody wants it, and for how long.
const SMALL_REST: u64 = 64 * 1024;
const REST_TIME: Duration = Duration::from_secs(1);

/// A request body whose pieces must keep coming.
#[derive(Debug)]
pub struct RequestBody {
    // Always there until it is dropped.
    inner: Option<Incoming>,
    idle: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
    // A chunked body does not know its end before it has been asked for one piece too many.
    ended: bool,
    flags: Arc<Flags>,
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = RequestBodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        let Some(inner) = &mut self.inner else { return Poll::Ready(None) };
        if let Poll::Ready(frame) = Pin::new(inner).poll_frame(cx) {
            self.sleep = None;
            self.ended = frame.is_none();
            return Poll::Ready(frame.map(|f| f.map_err(RequestBodyError::from)));
        }
        let idle = self.idle;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + idle)));
        std::task::ready!(sleep.as_mut().poll(cx));
        self.flags.body_timeout.store(true, Relaxed);
        Poll::Ready(Some(Err(RequestBodyError::Idle(idle))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        let left = !self.ended && !self.is_end_stream();
        let number = self.flags.bodies.fetch_add(1, Relaxed) + 1;
        self.flags.body_left.store(if left { number } else { 0 }, Relaxed);
        // Whoever answers without reading a small body must not cost the client its connection: hyper closes on an unread rest.
        let small = self.size_hint().upper().is_some_and(|bytes| bytes <= SMALL_REST);
        self.flags.closes.store(left && !small, Relaxed);
        if let (true, true, Some(mut rest), Ok(runtime)) =
            (left, small, self.inner.take(), tokio::runtime::Handle::try_current())
        {
            let flags = self.flags.clone();
            runtime.spawn(async move {
                let read = async {
                    while poll_fn(|cx| Pin::new(&mut rest).poll_frame(cx)).await.is_some_and(|f| f.is_ok()) {}
                };
                if tokio::time::timeout(REST_TIME, read).await.is_ok() {
                    // A later request may have left a body of its own since.
                    let _ = flags.body_left.compare_exchange(number, 0, Relaxed, Relaxed);
                }
            });
        }
    }
}

/// What every connection of a server shares.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) limits: Limits,
    pub(super) stats: Arc<Stats>,
    pub(super) shutdown: Shutdown,
}

/// The program's service behind the server's own checks.
struct Guarded<S> {
    service: S,
    shared: Arc<Shared>,
    flags: Arc<Flags>,
    peer: SocketAddr,
}

impl<S, B> hyper::service::Service<Request<Incoming>> for Guarded<S>
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: From<String> + Send + 'static,
{
    type Response = Response<B>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<B>, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let limits = &self.shared.limits;
        let target = request.uri().path_and_query().map_or(0, |p| p.as_str().len());
        let (idle, flags) = (limits.body_idle_timeout, self.flags.clone());
        flags.unanswered.fetch_add(1, Relaxed);
        let mut request =
            request.map(|inner| RequestBody { inner: Some(inner), idle, sleep: None, ended: false, flags });
        if target > limits.max_uri_bytes {
            let message = format!("the request target has {target} bytes, the limit is {}", limits.max_uri_bytes);
            let answer = refusal(StatusCode::URI_TOO_LONG, "uri_too_long", &message);
            return Box::pin(async move { Ok(answer) });
        }
        // What only proxies are asked (`GET example.com HTTP/1.1`): there is no path to route by.
        if request.uri().path().is_empty() {
            let answer =
                refusal(StatusCode::BAD_REQUEST, "malformed_request", "the request target must begin with a slash");
            return Box::pin(async move { Ok(answer) });
        }
        request.extensions_mut().insert(PeerAddr(self.peer));
        let (mut service, stats, flags) = (self.service.clone(), self.shared.stats.clone(), self.flags.clone());
        let answer = async move {
            poll_fn(|cx| service.poll_ready(cx)).await?;
            let mut answer = service.call(request).await?;
            // hyper closes a connection whose request was not read to its end. The client must be told, or it sends its
            // next request into the closing connection.
            if flags.closes.load(Relaxed) {
                answer.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"));
            }
            Ok(answer)
        };
        Box::pin(async move {
            match AssertUnwindSafe(answer).catch_unwind().await {
                Ok(answer) => answer,
                Err(_) => {
                    stats.count(Closed::Panic);
                    tracing::error!("a request handler panicked");
                    let message = "the server failed on this request; the log has the details";
                    Ok(refusal(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", message))
                }
            }
        })
    }
}

fn refusal<B: From<String>>(status: StatusCode, code: &str, message: &str) -> Response<B> {
    let mut answer = Response::new(B::from(error_json(code, message)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    answer
}

/// Serves one connection to its end.
pub(super) async fn serve<S, B>(stream: TcpStream, peer: SocketAddr, service: S, shared: Arc<Shared>)
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Body + From<String> + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let flags = Arc::new(Flags::default());
    let limits = &shared.limits;
    // Inherited from the listener on Linux; asked for again where it is not.
    let _ = stream.set_nodelay(true);
    let io = TokioIo::new(GuardedIo::new(stream, limits, flags.clone()));
    let guarded = Guarded { service, shared: shared.clone(), flags: flags.clone(), peer };
    let mut draining = shared.shutdown.is_draining();
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_headers(limits.max_headers)
        .max_header_size(limits.max_header_bytes)
        // hyper refuses less than 8 KiB. Above the head's own limit, so that a head too large gets its 431 by that limit.
        .max_buf_size((limits.max_header_bytes * 2).max(64 * 1024))
        .keep_alive(!draining)
        .serve_connection(io, guarded);
    let mut connection = pin!(connection);
    let ended = loop {
        tokio::select! {
            ended = connection.as_mut() => break ended,
            () = shared.shutdown.draining(), if !draining => {
                // Closes the connection if it is idle, else after the answer in progress.
                draining = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    };
    if let Some(reason) = reason(&flags, &ended) {
        shared.stats.count(reason);
        tracing::debug!(%peer, reason = reason.label(), "connection closed");
    }
}

/// Why we ended the connection; `None` when the client did, or all went well.
fn reason(flags: &Flags, ended: &Result<(), hyper::Error>) -> Option<Closed> {
    if flags.stalled.load(Relaxed) {
        return Some(Closed::StalledReader);
    }
    if flags.body_timeout.load(Relaxed) {
        return Some(Closed::BodyTimeout);
    }
    if flags.peer_timeout.load(Relaxed) {
        return Some(Closed::PeerTimeout);
    }
    match ended {
        Err(e) if e.is_timeout() => Some(Closed::HeaderTimeout),
        Err(e) if e.is_parse() => Some(Closed::BadRequest),
        _ => None,
    }
}
