//! All checks in front of the routes: host, origin, token, rate. A layer, so that a new route is behind it without anybody thinking of it.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv6Addr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use tower_service::Service;

use super::Refusal;
use super::origin::OriginPolicy;
use super::rate::RateLimiter;
use super::tokens::Tokens;
use crate::server::PeerAddr;

/// Who sent a request: `warp::ext::get::<Identity>()`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Identity {
    /// A token, by its name.
    Token(Arc<str>),
    /// Nobody known: the worker has no tokens, or the route is public.
    Anonymous(Option<IpAddr>),
}

impl Identity {
    /// Whether a valid token was sent.
    #[must_use]
    pub fn is_authenticated(&self) -> bool {
        matches!(self, Self::Token(_))
    }

    /// What fair queues and rate limits count by: the token, else the client's address (of IPv6 the first 64 bits, since one client has all the rest).
    #[must_use]
    pub fn key(&self) -> String {
        match self {
            Self::Token(name) => format!("token:{name}"),
            Self::Anonymous(None) => "anonymous".to_owned(),
            Self::Anonymous(Some(ip)) => match ip.to_canonical() {
                IpAddr::V4(ip) => format!("ip:{ip}"),
                IpAddr::V6(ip) => format!("ip:{}/64", Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64)),
            },
        }
    }
}

/// The rules of a [`Gate`].
#[derive(Debug)]
pub struct GatePolicy<B> {
    /// Valid tokens; when there are none, everybody passes.
    pub tokens: Tokens,
    /// Host names and origins.
    pub origin: OriginPolicy,
    /// Requests that change something (not GET, HEAD, OPTIONS), by [`Identity::key`].
    pub rate: Option<RateLimiter<String>>,
    /// Paths that need no token, such as `/health`.
    pub public: fn(&Method, &str) -> bool,
    /// Writes the refusal in the dialect of the path. Status and headers are set by the gate.
    pub refuse: fn(&Refusal, &str) -> Response<B>,
}

/// A service behind a [`GatePolicy`].
#[derive(Debug)]
pub struct Gate<S, B> {
    inner: S,
    policy: Arc<GatePolicy<B>>,
}

impl<S: Clone, B> Clone for Gate<S, B> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), policy: self.policy.clone() }
    }
}

impl<S, B> Gate<S, B> {
    /// Puts `policy` in front of `inner`.
    pub fn new(inner: S, policy: Arc<GatePolicy<B>>) -> Self {
        Self { inner, policy }
    }
}

impl<B> GatePolicy<B> {
    /// Who sends this request, if it may pass.
    fn admit<A>(&self, request: &Request<A>) -> Result<Identity, Refusal> {
        let (method, headers) = (request.method(), request.headers());
        self.origin.check(method, request.uri(), headers)?;
        let anonymous = || Identity::Anonymous(request.extensions().get::<PeerAddr>().map(|peer| peer.0.ip()));
        let identity = if self.tokens.is_empty() {
            anonymous()
        } else {
            match self.tokens.authenticate(headers) {
                Ok(name) => Identity::Token(name),
                Err(_) if (self.public)(method, request.uri().path()) => anonymous(),
                Err(refusal) => return Err(refusal),
            }
        };
        if let Some(rate) = &self.rate
            && ![Method::GET, Method::HEAD, Method::OPTIONS].contains(method)
        {
            let wait =
                |d: std::time::Duration| Refusal::RateLimited { retry_after_s: d.as_secs_f64().ceil().max(1.0) as u64 };
            rate.take(&identity.key()).map_err(wait)?;
        }
        Ok(identity)
    }

    fn refusal(&self, refusal: &Refusal, path: &str) -> Response<B> {
        let mut answer = (self.refuse)(refusal, path);
        *answer.status_mut() = refusal.status();
        let headers = answer.headers_mut();
        match refusal {
            Refusal::MissingToken | Refusal::InvalidToken => {
                for scheme in [r#"Bearer realm="sd-worker""#, r#"Basic realm="sd-worker", charset="UTF-8""#] {
                    headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_static(scheme));
                }
            }
            Refusal::RateLimited { retry_after_s } => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from(*retry_after_s));
            }
            Refusal::HostNotAllowed | Refusal::CrossOrigin => {}
        }
        answer
    }
}

impl<S, A, B> Service<Request<A>> for Gate<S, B>
where
    S: Service<Request<A>, Response = Response<B>, Error = Infallible>,
    S::Future: Send + 'static,
    B: From<String> + Send + 'static,
{
    type Response = Response<B>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<B>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<A>) -> Self::Future {
        let cors = self.policy.origin.cors(request.headers());
        if cors.is_some() && is_preflight(&request) {
            // Browsers send no token with a preflight, and it changes nothing.
            let mut answer = Response::new(B::from(String::new()));
            *answer.status_mut() = StatusCode::NO_CONTENT;
            add_cors(answer.headers_mut(), cors, true);
            return Box::pin(async { Ok(answer) });
        }
        match self.policy.admit(&request) {
            Ok(identity) => {
                request.extensions_mut().insert(identity);
                let answer = self.inner.call(request);
                Box::pin(async move {
                    let mut answer = answer.await?;
                    add_cors(answer.headers_mut(), cors, false);
                    Ok(answer)
                })
            }
            Err(refusal) => {
                tracing::debug!(code = refusal.code(), "request refused");
                let mut answer = self.policy.refusal(&refusal, request.uri().path());
                add_cors(answer.headers_mut(), cors, false);
                Box::pin(async { Ok(answer) })
            }
        }
    }
}

fn is_preflight<A>(request: &Request<A>) -> bool {
    request.method() == Method::OPTIONS && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// What an allowed page of another origin may send and see.
fn add_cors(headers: &mut HeaderMap, origin: Option<HeaderValue>, preflight: bool) {
    let Some(origin) = origin else { return };
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
    if preflight {
        let methods = HeaderValue::from_static("GET, HEAD, POST, DELETE");
        let names =
            "authorization, content-type, idempotency-key, last-event-id, traceparent, x-correlation-id, x-request-id";
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(names));
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    } else {
        let names = HeaderValue::from_static("location, retry-after, x-correlation-id, x-request-id");
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, names);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Origins, RateLimit, TokenSources};
    use super::*;
    use warp::{Filter, Reply};

    const TOKEN: &str = "0123456789abcdef";

    fn policy(tokens: Option<&str>) -> GatePolicy<String> {
        GatePolicy {
            tokens: Tokens::load(TokenSources { file: None, inline: tokens.map(Into::into) }).unwrap(),
            origin: OriginPolicy {
                origins: Origins::List(vec!["https://ui.example".into()]),
                ..OriginPolicy::default()
            },
            rate: Some(RateLimiter::new(RateLimit { per_minute: 60.0, burst: 2.0 })),
            public: |method, path| method == Method::GET && path == "/health",
            refuse: |refusal, path| Response::new(format!("{path} {}", refusal.code())),
        }
    }

    /// A service that says who called it.
    #[derive(Clone)]
    struct Who;

    impl Service<Request<String>> for Who {
        type Response = Response<String>;
        type Error = Infallible;
        type Future = std::future::Ready<Result<Response<String>, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: Request<String>) -> Self::Future {
            std::future::ready(Ok(Response::new(request.extensions().get::<Identity>().unwrap().key())))
        }
    }

    async fn call(gate: &Gate<Who, String>, request: http::request::Builder) -> Response<String> {
        gate.clone().call(request.body(String::new()).unwrap()).await.unwrap()
    }

    #[tokio::test]
    async fn a_closed_worker_asks_for_its_token_everywhere_but_in_public() {
        let gate = Gate::new(Who, Arc::new(policy(Some(&format!("hive:{TOKEN}")))));
        let peer = PeerAddr("10.0.0.7:1234".parse().unwrap());
        let check = async |request: http::request::Builder, status: u16, body: &str| {
            let answer = call(&gate, request.extension(peer)).await;
            assert_eq!((answer.status().as_u16(), &**answer.body()), (status, body));
            assert_eq!(answer.headers().get_all("www-authenticate").iter().count(), if status == 401 { 2 } else { 0 });
        };
        check(Request::get("/v1/jobs"), 401, "/v1/jobs missing_token").await;
        check(Request::get("/no/such/path"), 401, "/no/such/path missing_token").await;
        check(Request::get("/v1/jobs").header("authorization", "Bearer x"), 401, "/v1/jobs invalid_token").await;
        check(Request::get("/health"), 200, "ip:10.0.0.7").await;
        check(Request::post("/health"), 401, "/health missing_token").await;
        let good = format!("Bearer {TOKEN}");
        check(Request::get("/v1/jobs").header("authorization", &good), 200, "token:hive").await;
        check(Request::get("/health").header("host", "evil.example"), 403, "/health host_not_allowed").await;
        let evil = Request::post("/v1/jobs").header("origin", "http://evil.example").header("authorization", &good);
        check(evil, 403, "/v1/jobs cross_origin").await;
    }

    #[tokio::test]
    async fn an_open_worker_limits_changes_by_address() {
        let gate = Gate::new(Who, Arc::new(policy(None)));
        let at = |ip: &str| PeerAddr(format!("{ip}:1").parse().unwrap());
        for (method, ip, status) in [
            ("POST", "10.0.0.1", 200),
            ("POST", "10.0.0.1", 200),
            ("DELETE", "10.0.0.1", 429),
            ("GET", "10.0.0.1", 200),
            ("POST", "10.0.0.2", 200),
            ("POST", "[2001:db8::1]", 200),
            ("POST", "[2001:db8::2]", 200),
            ("POST", "[2001:db8::3]", 429),
        ] {
            let answer = call(&gate, Request::builder().method(method).uri("/").extension(at(ip))).await;
            assert_eq!(answer.status().as_u16(), status, "{method} {ip}");
            let retry = answer.headers().get("retry-after").map(|v| v.to_str().unwrap().to_owned());
            assert_eq!(retry.as_deref(), (status == 429).then_some("1"));
        }
    }

    #[tokio::test]
    async fn an_allowed_page_may_ask_first() {
        let gate = Gate::new(Who, Arc::new(policy(Some(TOKEN))));
        let preflight = |origin: &str| {
            Request::options("/v1/jobs").header("origin", origin).header("access-control-request-method", "POST")
        };
        let answer = call(&gate, preflight("https://ui.example")).await;
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["access-control-allow-origin"]),
            (204, &"https://ui.example".parse().unwrap())
        );
        let answer = call(&gate, preflight("https://evil.example")).await;
        assert_eq!((answer.status().as_u16(), answer.headers().get("access-control-allow-origin")), (401, None));
        let answer = call(&gate, Request::post("/v1/jobs").header("origin", "https://ui.example")).await;
        assert_eq!(answer.status(), 401);
        assert_eq!(
            answer.headers()["access-control-allow-origin"],
            "https://ui.example",
            "or the page cannot read why"
        );
    }

    #[tokio::test]
    async fn it_fits_in_front_of_warp() {
        let routes =
            warp::any().and(warp::ext::get::<Identity>()).map(|who: Identity| who.key().into_response()).boxed();
        let p = policy(None);
        let policy = GatePolicy {
            tokens: p.tokens,
            origin: p.origin,
            rate: None,
            public: p.public,
            refuse: |r, _| r.code().into_response(),
        };
        let mut gate = Gate::new(warp::service(routes), Arc::new(policy));
        let answer = gate.call(Request::get("/").body(String::new()).unwrap()).await.unwrap();
        assert_eq!(answer.status(), 200);
    }
}
