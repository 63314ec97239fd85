//! Doors for tests that throw bytes at whatever reads from outside: what a client or an operator could send goes the same
//! way here as in a running worker, without a socket and without a device.

use crate::{
    api,
    app::{App, Settings},
    config::{BackendArgs, Isolate, Limits, ModelArgs, PullPolicy},
    fault::Fault,
    ledger::OnRestart,
    server::body::BodyBudget,
};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use std::{
    cell::RefCell,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tower_service::Service;

/// A worker without devices and its routes, behind which jobs are cancelled as soon as they wait.
pub struct Desk {
    app: Arc<App>,
    runtime: tokio::runtime::Runtime,
    ended: RefCell<Option<String>>,
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk").finish_non_exhaustive()
    }
}

/// What the body of a request may have.
const BODY_BYTES: usize = 1 << 20;

impl Desk {
    /// A desk over folders of models.
    pub fn new(models: &[PathBuf]) -> Result<Desk, Fault> {
        let backends = BackendArgs {
            plugin_dir: Vec::new(),
            plugin_manifest: None,
            backend: None,
            device: None,
            backend_option: Vec::new(),
            isolate: Isolate::Never,
            plugin_memory_mib: None,
        };
        let settings = Settings {
            backends,
            models: ModelArgs { models_dir: models.to_vec(), model: None, pull: PullPolicy::Never },
            worker_id: "desk".to_owned(),
            limits: Limits {
                body_bytes: BODY_BYTES,
                pixels: 1 << 20,
                job_timeout: Duration::from_secs(60),
                budget: BodyBudget::new(BODY_BYTES * 8),
            },
            metadata: true,
            queue_jobs: 16,
            // The ended job that is asked for again and again outlasts any fuzzer's run.
            keep: (Duration::from_secs(7 * 24 * 3600), 16),
            state: None,
            state_bytes: 0,
            on_restart: OnRestart::default(),
            webhooks: None,
            call_limit: Duration::from_secs(60),
            lanes: None,
            idle_unload: None,
            max_models: None,
            patience: Duration::ZERO,
            may_shut_down: false,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| Fault::internal(format!("the runtime could not be started: {e}")))?;
        Ok(Desk { app: App::without_devices(settings)?, runtime, ended: RefCell::default() })
    }

    /// Answers a request: the status and the whole body.
    pub fn answer(&self, request: ::http::Request<Vec<u8>>) -> (u16, Vec<u8>) {
        let mut service = warp::service(api::filter(self.app.clone()));
        let answer = self.runtime.block_on(async {
            let talk = async {
                let Ok(answer) = service.call(request.map(|body| Full::new(Bytes::from(body)))).await;
                let status = answer.status().as_u16();
                let body = answer.into_body().collect().await.map(|b| b.to_bytes().to_vec()).unwrap_or_default();
                (status, body)
            };
            // Nobody draws here: jobs that wait are cancelled, so that every stream and every dialect comes to an end.
            let sweep = async {
                loop {
                    self.cancel_all();
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            tokio::select! {
                answer = talk => answer,
                () = sweep => (0, Vec::new()),
            }
        });
        self.cancel_all();
        self.app.registry.sweep();
        answer
    }

    fn cancel_all(&self) {
        for job in self.app.queue.waiting() {
            job.request_cancel();
        }
        self.app.queue.sweep();
    }

    /// The id of a job that has ended.
    pub fn ended_job(&self) -> String {
        if let Some(id) = self.ended.borrow().clone() {
            return id;
        }
        let request = ::http::Request::post("/v1/jobs")
            .header("content-type", "application/json")
            .body(br#"{"prompt":"x"}"#.to_vec())
            .unwrap_or_default();
        let (_, body) = self.answer(request);
        let answer: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        let id = answer["job_id"].as_str().unwrap_or_default().to_owned();
        *self.ended.borrow_mut() = Some(id.clone());
        id
    }
}

/// Reads a settings file as `sd-worker serve --config` does, and checks its values.
pub fn settings(path: &Path) -> Result<(), String> {
    crate::cli::check_settings(path)
}
