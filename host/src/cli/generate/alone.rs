//! Drawing in this process: the worker's own parts, without its server.

use super::{Drawn, GenerateArgs, interrupt, watch::Watch};
use crate::{
    api,
    app::{App, Settings},
    config::Limits,
    fault::Fault,
    jobs::{Follower, Operation},
    ledger::OnRestart,
    server::body::BodyBudget,
};
use serde_json::{Map, Value};
use std::time::Duration;

const DAY: Duration = Duration::from_secs(86_400);

pub(super) fn draw(
    args: &GenerateArgs,
    fields: Map<String, Value>,
    watch: &mut Watch<'_>,
) -> Result<Vec<Drawn>, Fault> {
    let settings = Settings {
        backends: args.backends.clone(),
        models: args.models.clone(),
        worker_id: "generate".to_owned(),
        limits: Limits { body_bytes: 0, pixels: 4096 * 4096, job_timeout: DAY, budget: BodyBudget::new(0) },
        metadata: true,
        queue_jobs: 1,
        keep: (DAY, 1),
        state: None,
        state_bytes: 0,
        on_restart: OnRestart::default(),
        webhooks: None,
        call_limit: Duration::from_secs(3600),
        lanes: None,
        idle_unload: None,
        max_models: None,
        patience: Duration::ZERO,
        may_shut_down: false,
    };
    let app = App::start(settings)?;
    if fields.get("operation").and_then(Value::as_str) == Some(Operation::Upscale.as_str()) {
        app.serve_cold();
    } else {
        watch.say("loading the model");
        app.warm_up();
    }
    let runtime = super::runtime()?;
    let outcome = runtime.block_on(async {
        let job = api::submit(&app, fields).await?;
        let mut follower = Follower::new(job.clone(), 0);
        let mut events = std::pin::pin!(
            follower.outcome(|event| watch.event(&serde_json::from_str(&event.json).unwrap_or_default()))
        );
        let mut interrupts = interrupt::Signals::new()?;
        let done = loop {
            tokio::select! {
                done = &mut events => break done?,
                // The job says itself that it is cancelled. Whoever asks twice does not want to wait for that.
                () = interrupts.next() => if !job.cancel_requested() {
                    job.request_cancel();
                    app.queue.sweep();
                } else {
                    interrupt::leave();
                }
            }
        };
        Ok(done
            .pictures
            .iter()
            .map(|p| Drawn { bytes: p.bytes.to_vec(), seed: p.seed, media_type: p.media_type.to_owned() })
            .collect())
    });
    app.finish(Duration::from_secs(5));
    outcome
}
