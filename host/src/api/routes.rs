//! The table of routes: what is served, to whom, and by which handler.

use super::http::{ApiError, Request, Response};
use super::{App, dialects, jobs, models, page, stream, system};
use http::Method;
use std::{future::Future, pin::Pin, sync::Arc};

/// What a handler gives back.
pub(crate) type Answer = Pin<Box<dyn Future<Output = Result<Response, ApiError>> + Send>>;

/// Who may call a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Anybody who reaches the port.
    Open,
    /// Whoever has a token, if the worker has any.
    Token,
}

/// Which shape errors have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Our own.
    Native,
    /// OpenAI's.
    OpenAi,
    /// A1111's.
    Sdapi,
}

/// One route. `{}` in a pattern stands for one segment.
pub(crate) struct Route {
    pub(crate) method: Method,
    pub(crate) pattern: &'static str,
    pub(crate) access: Access,
    pub(crate) summary: &'static str,
    pub(crate) handler: fn(Arc<App>, Request) -> Answer,
}

macro_rules! routes {
    ($($method:ident $pattern:literal $access:ident $handler:path, $summary:literal;)*) => {
        &[$(Route {
            method: Method::$method,
            pattern: $pattern,
            access: Access::$access,
            summary: $summary,
            handler: |app, request| Box::pin($handler(app, request)),
        },)*]
    };
}

/// All routes.
pub(crate) static ROUTES: &[Route] = routes! {
    GET "/" Open page::index, "The web page.";
    GET "/health" Open system::health, "Alive: always cheap.";
    GET "/v2/health/live" Open system::health, "Alive, under the name of the Open Inference Protocol.";
    GET "/ready" Open system::ready, "Whether jobs are taken; 503 with a reason while loading, draining or broken.";
    GET "/v1/ready" Open system::ready, "The same.";
    GET "/v2/health/ready" Open system::ready, "The same, under the name of the Open Inference Protocol.";
    GET "/info" Open system::info, "What this worker is.";
    GET "/openapi.json" Open system::openapi, "This interface as an OpenAPI 3.1 document.";
    GET "/docs" Open page::docs, "This interface as a page.";
    GET "/metrics" Token system::metrics, "Figures in Prometheus' text format.";
    GET "/v1/backends" Token system::backends, "Every plugin found, what it offers, and why it was chosen, refused or skipped.";
    POST "/v1/backends/reload" Token system::reload_backends, "Looks for plugins again and takes up new versions without stopping.";
    GET "/v1/samplers" Token system::samplers, "Samplers and schedules with their aliases.";
    GET "/v1/upscalers" Token system::upscalers, "The ways to enlarge pictures.";
    GET "/v1/queue" Token system::queue, "The waiting jobs.";
    GET "/v1/models" Token models::list, "The models on disk: OpenAI's list with our fields added.";
    GET "/v1/models/{}" Token models::show, "One model.";
    POST "/v1/models/{}/load" Token models::load, "Loads a model.";
    POST "/v1/models/{}/unload" Token models::unload, "Gives a model's memory back.";
    POST "/v1/jobs" Token jobs::create, "Sends a job.";
    GET "/v1/jobs" Token jobs::list, "The jobs, newest first.";
    GET "/v1/jobs/{}" Token jobs::show, "Where a job stands.";
    DELETE "/v1/jobs/{}" Token jobs::delete, "Cancels a job; forgets a finished one.";
    POST "/v1/jobs/{}/cancel" Token jobs::cancel, "Cancels a job.";
    GET "/v1/jobs/{}/stream" Token stream::follow, "The job's events as server-sent events.";
    GET "/v1/jobs/{}/images/{}" Token jobs::image, "A finished picture as a file.";
    POST "/v1/png-info" Token jobs::png_info, "The recipe inside a picture.";
    POST "/v1/inference" Token jobs::create, "An older name of `POST /v1/jobs`.";
    GET "/v1/inference/{}/stream" Token stream::follow, "An older name of the job's stream.";
    POST "/v1/shutdown" Token system::shutdown, "Drains and ends the worker.";
    POST "/v1/images/generations" Token dialects::openai::generations, "OpenAI: pictures from a prompt.";
    POST "/v1/images/edits" Token dialects::openai::edits, "OpenAI: pictures from pictures and a prompt.";
    POST "/v1/images/variations" Token dialects::openai::variations, "OpenAI: variations of a picture.";
    POST "/sdapi/v1/txt2img" Token dialects::sdapi::txt2img, "A1111: pictures from a prompt.";
    POST "/sdapi/v1/img2img" Token dialects::sdapi::img2img, "A1111: pictures from pictures and a prompt.";
    GET "/sdapi/v1/progress" Token dialects::sdapi_state::progress, "A1111: how far the work is.";
    POST "/sdapi/v1/interrupt" Token dialects::sdapi_state::interrupt, "A1111: ends this key's running request with what there is.";
    POST "/sdapi/v1/skip" Token dialects::sdapi_state::interrupt, "A1111: the same.";
    GET "/sdapi/v1/options" Token dialects::sdapi_state::options, "A1111: the settings.";
    POST "/sdapi/v1/options" Token dialects::sdapi_state::set_options, "A1111: changes the settings.";
    GET "/sdapi/v1/sd-models" Token dialects::sdapi_lists::sd_models, "A1111: the models.";
    GET "/sdapi/v1/samplers" Token dialects::sdapi_lists::samplers, "A1111: the samplers.";
    GET "/sdapi/v1/schedulers" Token dialects::sdapi_lists::schedulers, "A1111: the schedules.";
    GET "/sdapi/v1/upscalers" Token dialects::sdapi_lists::upscalers, "A1111: the upscalers.";
    GET "/sdapi/v1/latent-upscale-modes" Token dialects::sdapi_lists::latent_upscale_modes, "A1111: the latent upscalers.";
    GET "/sdapi/v1/loras" Token dialects::sdapi_lists::empty_list, "A1111: the LoRAs; none.";
    GET "/sdapi/v1/hypernetworks" Token dialects::sdapi_lists::empty_list, "A1111: the hypernetworks; none.";
    GET "/sdapi/v1/face-restorers" Token dialects::sdapi_lists::empty_list, "A1111: the face restorers; none.";
    GET "/sdapi/v1/prompt-styles" Token dialects::sdapi_lists::empty_list, "A1111: the styles; none.";
    GET "/sdapi/v1/realesrgan-models" Token dialects::sdapi_lists::empty_list, "A1111: the Real-ESRGAN models; none.";
    GET "/sdapi/v1/sd-vae" Token dialects::sdapi_lists::empty_list, "A1111: the VAEs; none apart from the models'.";
    GET "/sdapi/v1/sd-modules" Token dialects::sdapi_lists::empty_list, "A1111: the modules; none.";
    GET "/sdapi/v1/extensions" Token dialects::sdapi_lists::empty_list, "A1111: the extensions; none.";
    GET "/sdapi/v1/script-info" Token dialects::sdapi_lists::empty_list, "A1111: the scripts' parameters; none.";
    GET "/sdapi/v1/embeddings" Token dialects::sdapi_lists::embeddings, "A1111: the embeddings.";
    GET "/sdapi/v1/scripts" Token dialects::sdapi_lists::scripts, "A1111: the scripts; none.";
    GET "/sdapi/v1/memory" Token dialects::sdapi_state::memory, "A1111: the memory.";
    GET "/sdapi/v1/cmd-flags" Token dialects::sdapi_state::cmd_flags, "A1111: the start-up flags.";
    POST "/sdapi/v1/png-info" Token dialects::sdapi_state::png_info, "A1111: the recipe inside a picture.";
    POST "/sdapi/v1/extra-single-image" Token dialects::sdapi_extras::single, "A1111: makes a picture larger.";
    POST "/sdapi/v1/extra-batch-images" Token dialects::sdapi_extras::batch, "A1111: makes pictures larger.";
    POST "/sdapi/v1/unload-checkpoint" Token dialects::sdapi_state::unload_checkpoint, "A1111: gives the model's memory back.";
    POST "/sdapi/v1/reload-checkpoint" Token dialects::sdapi_state::reload_checkpoint, "A1111: loads the chosen model.";
    POST "/sdapi/v1/refresh-checkpoints" Token dialects::sdapi_state::refresh_checkpoints, "A1111: looks for models again.";
    GET "/internal/ping" Open dialects::sdapi_state::ping, "A1111: alive.";
    GET "/internal/pending-tasks" Token dialects::sdapi_state::pending_tasks, "A1111: the waiting tasks of this key.";
    POST "/internal/progress" Token dialects::sdapi_state::internal_progress, "A1111: how far a task is.";
};

/// What a path and method lead to.
pub(crate) enum Found {
    /// A route and what its `{}` segments hold, still percent-encoded.
    Route(&'static Route, Vec<String>),
    /// The path is known, the method is not; these are.
    WrongMethod(String),
    /// The path is unknown.
    Nothing,
}

/// Finds the route of a request. `HEAD` is answered as `GET`.
pub(crate) fn find(method: &Method, path: &str) -> Found {
    let method = if method == Method::HEAD { &Method::GET } else { method };
    let mut allowed = Vec::new();
    for route in ROUTES {
        if let Some(captures) = matches(route.pattern, path) {
            if route.method == *method {
                return Found::Route(route, captures);
            }
            allowed.push(route.method.as_str());
        }
    }
    if allowed.is_empty() { Found::Nothing } else { Found::WrongMethod(allowed.join(", ")) }
}

/// The pattern that a path follows, whatever the method.
pub(crate) fn pattern(path: &str) -> Option<&'static str> {
    ROUTES.iter().find(|route| matches(route.pattern, path).is_some()).map(|route| route.pattern)
}

fn matches(pattern: &str, path: &str) -> Option<Vec<String>> {
    let path = if path.len() > 1 { path.strip_suffix('/').unwrap_or(path) } else { path };
    let (mut wanted, mut given) = (pattern.split('/'), path.split('/'));
    let mut captures = Vec::new();
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return Some(captures),
            (Some("{}"), Some(segment)) if !segment.is_empty() => captures.push(segment.to_owned()),
            (Some(a), Some(b)) if a == b => {}
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_find_their_routes() {
        let pattern = |m: Method, p: &str| match find(&m, p) {
            Found::Route(r, c) => format!("{} {}", r.pattern, c.join(",")),
            Found::WrongMethod(allow) => format!("405 {allow}"),
            Found::Nothing => "404".to_owned(),
        };
        assert_eq!(pattern(Method::GET, "/v1/jobs/a/images/0"), "/v1/jobs/{}/images/{} a,0");
        assert_eq!(pattern(Method::PUT, "/v1/jobs"), "405 POST, GET");
        assert_eq!(pattern(Method::HEAD, "/health/"), "/health ");
        assert_eq!(pattern(Method::GET, "/v1/jobs//stream"), "404");
        assert_eq!(pattern(Method::GET, "/nothing"), "404");
    }

    #[test]
    fn no_two_routes_are_the_same() {
        let mut all: Vec<_> = ROUTES.iter().map(|r| (r.method.as_str(), r.pattern)).collect();
        all.sort_unstable();
        let count = all.len();
        all.dedup();
        assert_eq!(all.len(), count);
    }
}
