//! What a night or a release runs (see docs/RELIABILITY.md).

use crate::shell::{Outcome, cargo, step};

/// The program `soak` with the options given: large trials, mixed chaos, the proof that its meter works.
pub(crate) fn run(args: &[String]) -> Outcome {
    step("build", cargo(&["build", "--release", "--locked", "--workspace"]))?;
    let mut soak = cargo(&["run", "--release", "--locked", "--quiet", "--workspace", "--bin", "soak", "--"]);
    soak.args(args);
    step("soak", soak)
}
