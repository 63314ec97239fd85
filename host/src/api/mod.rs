//! The HTTP interface: one table of routes, one dispatcher, one shape of errors per dialect.

mod body;
mod build;
mod checks;
mod dialects;
mod edit_fields;
pub(crate) mod fields;
mod hires;
mod http;
mod idempotency;
mod jobs;
mod models;
mod openapi;
mod outpaint;
mod page;
mod restore;
mod rooms;
mod routes;
mod schemas;
mod stream;
mod system;
mod upscale;
mod xl;

pub(crate) use self::{
    build::job_spec, dialects::sdapi_options::SdOptions, http::ApiError, idempotency::Turns, restore::restore,
    rooms::Rooms,
};

use self::{
    http::{Request, Response},
    routes::{Access, Dialect, Found},
};
use crate::{
    app::App,
    auth::{Identity, Refusal},
    fault::{Fault, FaultCode},
    jobs::Origin,
    telemetry::RequestIds,
};
use ::http::Method;
use bytes::{Buf, Bytes};
use futures_util::TryStreamExt;
use std::{convert::Infallible, sync::Arc};
use warp::{Filter, path::FullPath};

/// The warp filter that answers every request. Identity and ids were put into the request's extensions by the layers
/// around it (see [`crate::auth::Gate`] and [`crate::telemetry::Observed`]).
pub(crate) fn filter(app: Arc<App>) -> impl Filter<Extract = (Response,), Error = Infallible> + Clone {
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    warp::method()
        .and(warp::path::full())
        .and(query)
        .and(warp::header::headers_cloned())
        .and(warp::ext::optional::<Identity>())
        .and(warp::ext::optional::<RequestIds>())
        .and(warp::body::stream())
        .then(
            move |method, path: FullPath, query, headers, identity: Option<Identity>, ids: Option<RequestIds>, body| {
                let app = app.clone();
                let request = Request {
                    method,
                    path: path.as_str().to_owned(),
                    query,
                    headers,
                    body: Box::pin(TryStreamExt::map_ok(body, whole)),
                    captures: Vec::new(),
                    caller: identity.map(|i| i.key()).unwrap_or_default(),
                    id: ids.map(|i| i.origin()).unwrap_or_default(),
                };
                async move { answer(app, request).await }
            },
        )
        .recover(|_| async { Ok::<_, Infallible>(Response::default()) })
        .unify()
}

fn whole(mut piece: impl Buf) -> Bytes {
    piece.copy_to_bytes(piece.remaining())
}

async fn answer(app: Arc<App>, mut request: Request) -> Response {
    let (id, head) = (request.id.clone(), request.method == Method::HEAD);
    let dialect = dialect_of(&request.path);
    let outcome = match routes::find(&request.method, &request.path) {
        Found::Route(route, captures) => {
            request.captures = captures.iter().map(|c| http::percent_decode(c)).collect();
            (route.handler)(app, request).await
        }
        Found::WrongMethod(allow) => {
            let fault = Fault::new(FaultCode::MethodNotAllowed, format!("this path takes {allow}"));
            Err(ApiError { allow: Some(allow), ..fault.into() })
        }
        Found::Nothing => {
            Err(Fault::new(FaultCode::NotFound, "there is no such path; /docs lists what there is").into())
        }
    };
    let mut response = outcome.unwrap_or_else(|error| {
        tracing::debug!(code = error.code().as_str(), "request refused");
        error.told(dialect, &id.request_id)
    });
    if head {
        *response.body_mut() = Default::default();
    }
    response
}

/// What the gate answers to those it does not let in, in the dialect of the path.
pub(crate) fn refuse(refusal: &Refusal, path: &str) -> Response {
    let code = match refusal {
        Refusal::MissingToken | Refusal::InvalidToken => FaultCode::Unauthorized,
        Refusal::HostNotAllowed | Refusal::CrossOrigin => FaultCode::Forbidden,
        Refusal::RateLimited { .. } => FaultCode::RateLimited,
    };
    let error = ApiError::from(Fault::new(code, refusal.to_string()));
    error.told(dialect_of(path), "")
}

/// Whether a path needs no token.
pub(crate) fn is_public(method: &Method, path: &str) -> bool {
    match routes::find(method, path) {
        Found::Route(route, _) => route.access == Access::Open,
        Found::WrongMethod(_) | Found::Nothing => false,
    }
}

/// The pattern of a path, for figures: clients cannot make up new ones.
pub(crate) fn pattern_of(path: &str) -> &'static str {
    routes::pattern(path).unwrap_or("(unknown)")
}

impl ApiError {
    fn told(&self, dialect: Dialect, request_id: &str) -> Response {
        match dialect {
            Dialect::Native => self.reply(self.status(), &self.native(request_id)),
            Dialect::OpenAi => self.openai_reply(),
            Dialect::Sdapi => self.sdapi_reply(),
        }
    }
}

/// Which clients a path belongs to.
fn dialect_of(path: &str) -> Dialect {
    match path {
        p if p.starts_with("/sdapi/") || p.starts_with("/internal/") => Dialect::Sdapi,
        p if p.starts_with("/v1/images/") => Dialect::OpenAi,
        _ => Dialect::Native,
    }
}

/// Sends a job from within the program.
pub(crate) async fn submit(
    app: &Arc<App>,
    fields: serde_json::Map<String, serde_json::Value>,
) -> Result<Arc<crate::jobs::Job>, Fault> {
    jobs::submit(app, fields, String::new(), None, &Origin::default()).await.map_err(|error| Fault {
        code: error.code(),
        message: error.message(),
        field: None,
    })
}
