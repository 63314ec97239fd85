//! Trials: what a worker must bear, each with the figure that it is held to.
//!
//! Each takes a running worker and how much of it, stops (panics) at the first surprise and answers with what it measured,
//! in one line. The tests run them small, `cargo xtask soak` runs them large.

mod bodies;
mod connections;
mod fleet;
mod herd;
mod hive;
mod leak;
mod leaving;
mod names;
mod pictures;
mod queue;
mod requests;
mod slow;
mod stalled;
mod swaps;

pub use bodies::{chunked_giant, counted_giant, tiny_chunks};
pub use connections::too_many_connections;
pub use herd::herd;
pub use hive::hive_sees_the_loss;
pub use leak::leak;
pub use leaving::leaving_readers;
pub use names::{hostile_names, lay_traps};
pub use pictures::{damaged_pictures, judge_picture};
pub use queue::burst;
pub use requests::{mutant, mutated_requests};
pub use slow::slow_clients;
pub use stalled::stalled_readers;
pub use swaps::{swap_race, two_models};

use std::future::Future;

/// Runs one future to its end on a runtime of its own.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(future)
}
