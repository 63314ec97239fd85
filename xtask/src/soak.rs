//! The tests that take minutes: what a night or a release runs (see docs/RELIABILITY.md).

use crate::shell::{Outcome, cargo, step};

/// The slow tests, then the soak with the options given.
pub(crate) fn run(args: &[String]) -> Outcome {
    step("build", cargo(&["build", "--release", "--locked", "--workspace"]))?;
    let slow =
        ["test", "--release", "--locked", "--workspace", "--test", "it", "--", "--ignored", "soak_", "--nocapture"];
    step("slow tests", cargo(&slow))?;
    let mut soak = cargo(&["run", "--release", "--locked", "--quiet", "--workspace", "--bin", "soak", "--"]);
    soak.args(args);
    step("soak", soak)
}
