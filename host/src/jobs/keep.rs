//! What a job tells the part that keeps jobs beyond the program's life.

use super::{Job, JobState, Picture};
use crate::fault::Fault;
use serde_json::{Map, Value};

/// Keeps jobs. Called in the order of the job's life, before anybody else hears of the change.
pub trait Keeper: std::fmt::Debug + Send + Sync {
    /// The job is on a device. Called by a lane; may block.
    fn started(&self, job: &Job);
    /// The job has ended. Blocks only for jobs that ran: the others may end on the async runtime.
    fn ended(&self, job: &Job, ending: &Ending);
    /// Everybody else has heard of the end now. Never blocks.
    fn told(&self, _job: &Job) {}
    /// The job was taken off its device, to run again later. Called by a lane; may block.
    fn released(&self, job: &Job);
}

/// How a job ends: what its last event will say.
#[derive(Debug)]
pub struct Ending {
    /// A terminal state.
    pub state: JobState,
    /// The last event's name.
    pub event: &'static str,
    /// The last event's number.
    pub event_id: u64,
    /// The last event's own fields, without the picture in it.
    pub fields: Map<String, Value>,
    /// The pictures; none unless the job is complete.
    pub pictures: Vec<Picture>,
    /// Why it failed.
    pub fault: Option<Fault>,
    /// Whether it was ever on a device.
    pub ran: bool,
}
