//! Told of each step of a job's life: has it written down, counts its end, and tells the job's webhook how it ended.

use crate::{
    jobs::{Ending, Job, JobState, Keeper, view},
    ledger::{Kept, Ledger},
    telemetry::{Metrics, Outcome},
    webhook::Webhooks,
};
use serde_json::{Value, json};
use std::sync::Arc;

/// The keeper of every job.
#[derive(Debug)]
pub(crate) struct Clerk {
    /// Where ends are counted: here alone does every one of them come by, also those of jobs that never ran.
    pub(crate) metrics: Arc<Metrics>,
    /// What outlives the program, if anything does.
    pub(crate) ledger: Option<Arc<Ledger>>,
    /// Who tells webhooks, if the operator allows any.
    pub(crate) webhooks: Option<Webhooks>,
}

impl Keeper for Clerk {
    fn started(&self, job: &Job) {
        if let Some(ledger) = &self.ledger {
            ledger.started(job);
        }
    }

    fn ended(&self, job: &Job, ending: &Ending) {
        let outcome = match (ending.state, &ending.fault) {
            (JobState::Completed, _) => Outcome::Ok,
            (_, Some(fault)) => Outcome::Failed(fault.code.as_str()),
            _ => Outcome::Cancelled,
        };
        self.metrics.job_finished(job.spec.operation.into(), outcome);
        if let Some(ledger) = &self.ledger {
            ledger.ended(job, ending);
        }
    }

    fn told(&self, job: &Job) {
        if let Some(url) = &job.spec.webhook {
            self.tell(job.id.as_str(), url, job.state(), &view::details(job, None));
        }
    }

    fn released(&self, job: &Job) {
        if let Some(ledger) = &self.ledger {
            ledger.released(job);
        }
    }
}

impl Clerk {
    /// Tells what a former program left untold.
    pub(crate) fn tell_kept(&self, kept: &Kept) {
        if let Some(url) = &kept.record.webhook {
            self.tell(&kept.record.id, url, kept.state(), &kept.details());
        }
    }

    fn tell(&self, id: &str, url: &str, state: JobState, details: &Value) {
        let Some(webhooks) = &self.webhooks else { return };
        let event = match state {
            JobState::Completed => "complete",
            JobState::Cancelled => "cancelled",
            _ => "error",
        };
        let body = json!({ "event": event, "job_id": id, "job": details }).to_string();
        let (ledger, told) = (self.ledger.clone(), id.to_owned());
        let settled = Box::new(move || {
            if let Some(ledger) = ledger {
                ledger.notified(&told);
            }
        });
        if let Err(e) = webhooks.send(id, url, body, settled) {
            tracing::warn!(job_id = id, code = e.code(), "the webhook is not told: {e}");
        }
    }
}
