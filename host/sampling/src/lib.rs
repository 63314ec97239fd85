//! Sampling: noise, schedules, samplers and guidance, as pure functions on float32 and without I/O.
//!
//! The host builds a [`ModelSampling`] from the model's `scheduler_config.json`, a [`Plan`] from it and a request's
//! [`Settings`], and lets [`Plan::run`] call back for network outputs, noise and the end of each step. Nothing here
//! knows tensors, plugins or HTTP; a whole batch is one `Vec<f32>`, image after image.
#![forbid(unsafe_code)]

mod error;
pub mod guidance;
mod level;
mod model;
pub mod names;
pub mod noise;
mod plan;
mod run;
mod samplers;
mod schedule;
mod vector;

pub use error::Error;
pub use level::Level;
pub use model::{ModelSampling, Prediction, SchedulerConfig};
pub use plan::{Options, Plan, Settings};
pub use run::{Eval, ModelFn, NoiseFn, NoiseRequest, StepFn, StepInfo};
pub use samplers::Sampler;
pub use schedule::Schedule;
