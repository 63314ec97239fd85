//! Jobs that a former program left unfinished come back.

use super::{App, jobs};
use crate::{
    fault::{Fault, FaultCode},
    jobs::{Job, JobId, JobSpec, OnDisconnect, Operation, Outcome, Past},
    ledger::{self, Kept, Ledger, OnRestart},
    store::{JobRecord, JobState, Recovery},
};
use serde_json::{Map, Value, json};
use std::{
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

/// How often a job may be on a device while the program ends: one that brings the program down does not do so for ever.
const MAX_ATTEMPTS: u32 = 2;

/// A job's fields with everything that a default would decide anew: read again, they make the same pictures. The field's
/// own name wins over its aliases.
pub(crate) fn pinned(mut fields: Map<String, Value>, spec: &JobSpec) -> Map<String, Value> {
    fields.insert("model".into(), spec.model.clone().into());
    fields.insert("seed".into(), spec.seed.into());
    // A picture that is only enlarged has no noise, and no field for it.
    if spec.operation != Operation::Upscale {
        fields.insert("variation_seed".into(), spec.edit.noise.variation_seed.into());
    }
    fields
}

/// A job's request as it is written down, with [`pinned`] fields.
pub(crate) fn written(fields: &Map<String, Value>, job: &Job) -> String {
    json!({ "fields": fields, "origin": job.origin }).to_string()
}

/// Queues what was left, in its old order. Blocks; before the first request.
pub(crate) fn restore(app: &Arc<App>, ledger: &Arc<Ledger>, recovery: Recovery) {
    let (interrupted, queued) = (recovery.interrupted.len(), recovery.queued.len());
    for record in recovery.interrupted {
        let again = ledger.on_restart() == OnRestart::Rerun && record.attempts < MAX_ATTEMPTS;
        let verdict = if again {
            ledger.requeue(&record.id).err().map(Fault::from)
        } else {
            let text = match ledger.on_restart() {
                OnRestart::Report => "the worker stopped while this job ran; send it again",
                OnRestart::Rerun => "the worker stopped twice while this job ran; it is not tried again",
            };
            Some(Fault::new(FaultCode::Interrupted, text))
        };
        bring_back(app, ledger, &record, verdict);
    }
    for record in recovery.queued {
        bring_back(app, ledger, &record, None);
    }
    for record in recovery.untold {
        app.clerk.tell_kept(&Kept::of(record));
    }
    if interrupted + queued + recovery.files_removed > 0 {
        tracing::info!(
            queued,
            interrupted,
            half_files_removed = recovery.files_removed,
            "jobs of the last run are back"
        );
    }
}

/// One job: into the queue, or to the end that `verdict` says.
fn bring_back(app: &Arc<App>, ledger: &Arc<Ledger>, record: &JobRecord, verdict: Option<Fault>) {
    let request: Value = serde_json::from_str(&record.request).unwrap_or_default();
    let model = request["fields"]["model"].as_str().unwrap_or_default();
    let built = match request["fields"].as_object() {
        Some(fields) => jobs::read(app, fields)
            .map(|(spec, wanted)| (spec, (!wanted.is_empty()).then(|| (wanted, fields.clone()))))
            .map_err(|mut faults| faults.swap_remove(0)),
        None => Err(Fault::internal("the job's request could not be read again")),
    };
    let (id, (spec, pull)) = match (JobId::parse(&record.id), built) {
        (Some(id), Ok(built)) => (id, built),
        (_, outcome) => {
            let fault = verdict.or(outcome.err()).unwrap_or_else(|| Fault::internal("the job's id is not ours"));
            tracing::warn!(job_id = record.id, code = fault.code.as_str(), "a job of the last run does not run again");
            return ledger.report(record, model, &fault);
        }
    };
    let alone = || Fault::new(FaultCode::Interrupted, "the worker stopped, and this job was to end with its reader");
    let verdict = verdict.or_else(|| (spec.on_disconnect == OnDisconnect::Cancel).then(alone));
    let created = UNIX_EPOCH + Duration::from_millis(u64::try_from(record.created_ms).unwrap_or(0));
    let past = Past { id, created, last_event: ledger::first_event(record) };
    let origin = serde_json::from_value(request["origin"].clone()).unwrap_or_default();
    let job = Job::with_past(past, record.owner.clone(), spec, origin);
    job.keep_with(app.clerk.clone());
    // Ids are unique in the store, and keys are looked up there.
    let _ = app.registry.insert(&job, None);
    if let Some(fault) = verdict {
        tracing::warn!(job_id = record.id, code = fault.code.as_str(), "a job of the last run does not run again");
        job.finish(Outcome::Failed(fault));
        return;
    }
    let again = record.state == JobState::Interrupted;
    if let Some((wanted, fields)) = pull {
        job.announce(app.queue.len());
        return jobs::fetch_then_queue(app, &job, wanted, fields, None);
    }
    let queued = app.queue.push_again(&job, app.engine.at_hand(), |before| job.announce(before));
    if queued.is_ok() {
        tracing::info!(job_id = record.id, again, attempts = record.attempts, "job restored");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::fields::{JOB_FIELDS, check},
        jobs::{EditSpec, NoiseSpec},
    };

    #[test]
    fn a_request_that_is_read_again_draws_nothing_anew() {
        let sent = json!({ "prompt": "x", "seed": -1, "subseed": -1, "subseed_strength": 0.5 });
        let noise = NoiseSpec { variation_seed: 7, variation_strength: 0.5, resize_from: None };
        let spec = JobSpec {
            model: "tiny".to_owned(),
            seed: u64::MAX,
            edit: EditSpec { noise, ..EditSpec::default() },
            ..JobSpec::default()
        };
        let sent = sent.as_object().unwrap();
        let values = check(JOB_FIELDS, &pinned(sent.clone(), &spec)).unwrap();
        assert_eq!(values.int("seed"), Some(i128::from(u64::MAX)));
        assert_eq!((values.int("variation_seed"), values.f64("variation_strength")), (Some(7), Some(0.5)));
        assert_eq!(values.text("model"), Some("tiny"));
        let enlarged = pinned(Map::new(), &JobSpec { operation: Operation::Upscale, ..spec });
        assert_eq!(enlarged.keys().collect::<Vec<_>>(), ["model", "seed"], "it has no field for noise");
    }
}
