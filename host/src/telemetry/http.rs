//! A layer around the routes: gives every request its ids, measures it, and writes one line about it.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use http::{Request, Response};
use tower_service::Service;
use tracing::Instrument;

use super::ids::RequestIds;
use super::metrics::Metrics;

/// Wraps a service. Handlers find the ids in the extensions: `warp::ext::get::<RequestIds>()`.
#[derive(Clone, Debug)]
pub struct Observed<S> {
    inner: S,
    metrics: Arc<Metrics>,
    route: fn(&str) -> &'static str,
}

impl<S> Observed<S> {
    /// `route` turns a path into its pattern, such as `/v1/jobs/{id}`; every unknown path into one and the same text.
    pub fn new(inner: S, metrics: Arc<Metrics>, route: fn(&str) -> &'static str) -> Self {
        Self { inner, metrics, route }
    }
}

impl<S, A, B> Service<Request<A>> for Observed<S>
where
    S: Service<Request<A>, Response = Response<B>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<B>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<B>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<A>) -> Self::Future {
        let start = Instant::now();
        let ids = RequestIds::from_headers(request.headers());
        let (metrics, route, method) =
            (self.metrics.clone(), (self.route)(request.uri().path()), request.method().clone());
        let span = tracing::info_span!(
            "http",
            request_id = &*ids.request,
            correlation_id = &*ids.correlation,
            trace_id = format_args!("{:032x}", ids.trace.trace_id)
        );
        request.extensions_mut().insert(ids.clone());
        let answer = {
            // What a filter does before its first await belongs to the span too.
            let _entered = span.enter();
            self.inner.call(request)
        };
        let observed = async move {
            let mut answer = answer.await?;
            ids.apply(answer.headers_mut());
            let (status, time) = (answer.status().as_u16(), start.elapsed());
            metrics.http_request(route, &method, status, time);
            // The path itself is not logged: it may hold what a client should have put elsewhere.
            tracing::debug!(%method, route, status, ms = time.as_secs_f64() * 1000.0, "answered");
            Ok(answer)
        };
        Box::pin(observed.instrument(span))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use warp::{Filter, Reply};

    #[tokio::test]
    async fn a_request_gets_its_ids_and_is_counted() {
        let metrics = Arc::new(Metrics::new("1", "test").unwrap());
        let routes = warp::path!("hello" / String)
            .and(warp::ext::get::<RequestIds>())
            .map(|_: String, ids: RequestIds| ids.correlation.to_string().into_response())
            .boxed();
        let route = |path: &str| if path.starts_with("/hello/") { "/hello/{name}" } else { "other" };
        let mut service = Observed::new(warp::service(routes), metrics.clone(), route);
        let mut call = async |path: &str| {
            let request = Request::get(path).header("x-request-id", "r-1").header("x-correlation-id", "c-1");
            service.call(request.body(String::new()).unwrap()).await.unwrap()
        };
        for path in ["/hello/you", "/hello/me"] {
            let answer = call(path).await;
            assert_eq!((answer.status().as_u16(), &answer.headers()["x-request-id"]), (200, &"r-1".parse().unwrap()));
            assert_eq!(answer.headers()["x-correlation-id"], "c-1");
            assert!(answer.headers()["traceparent"].to_str().unwrap().starts_with("00-"));
        }
        assert_eq!(call("/secret").await.status(), 404);
        let text = metrics.render();
        for (route, status, n) in [("/hello/{name}", 200, 2), ("other", 404, 1)] {
            let line = format!(
                r#"sd_worker_http_request_duration_seconds_count{{method="GET",route="{route}",status="{status}"}} {n}"#
            );
            assert!(text.lines().any(|l| l == line), "{line} is not in {text}");
        }
        assert!(!text.contains("secret") && !text.contains("you"));
    }
}
