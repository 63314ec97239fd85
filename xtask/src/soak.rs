//! The tests that take minutes: what a night or a release runs.

use crate::shell::{Outcome, cargo, step};

pub(crate) fn run() -> Outcome {
    step("build", cargo(&["build", "--release", "--locked", "--workspace"]))?;
    let slow =
        ["test", "--release", "--locked", "--workspace", "--test", "it", "--", "--ignored", "soak_", "--nocapture"];
    step("soak", cargo(&slow))
}
