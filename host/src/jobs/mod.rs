//! Jobs: what is asked, where it stands, what happened so far.

mod edit;
mod events;
mod follower;
mod idempotency;
mod job;
mod keep;
mod line;
mod order;
mod queue;
mod registry;
mod settled;
mod sizes;
mod spec;
mod state;
pub(crate) mod view;

pub use edit::{EditSpec, Hires, NoiseSpec, Upscale};
pub use events::{Event, EventRing};
pub use follower::Follower;
pub use idempotency::Idempotency;
pub use job::Job;
pub(crate) use job::line;
pub use keep::{Ending, Keeper};
pub use line::{AtHand, Line};
pub use queue::{Place, Queue, QueueError, Taker};
pub use registry::{Lookup, Registry};
pub use settled::SettledSpec;
pub use sizes::{SizeIds, Sizes};
pub use spec::{InpaintFill, JobSpec, MaskSpec, OnDisconnect, Operation, OutputFormat, Refiner, ResizeMode};
pub(crate) use state::timings_json;
pub use state::{JobId, JobState, Origin, Outcome, Past, Picture, Snapshot, Timings};
