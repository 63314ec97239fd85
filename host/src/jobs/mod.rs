//! Jobs: what is asked, where it stands, what happened so far.

mod edit;
mod events;
mod follower;
mod job;
mod queue;
mod registry;
mod settled;
mod sizes;
mod spec;

pub use edit::{EditSpec, Hires, NoiseSpec};
pub use events::{Event, EventRing};
pub use follower::Follower;
pub(crate) use job::timings_json;
pub use job::{Job, JobId, JobState, Outcome, Picture, Snapshot, Timings};
pub use queue::{Queue, QueueError};
pub use registry::{Lookup, Registry};
pub use settled::SettledSpec;
pub use sizes::{SizeIds, Sizes};
pub use spec::{InpaintFill, JobSpec, MaskSpec, OnDisconnect, Operation, OutputFormat, Refiner, ResizeMode};
