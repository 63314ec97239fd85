//! Everything that must hold before a change lands. What cannot be run on a machine is told at the end, by name.

use crate::shell::{Outcome, cargo, say, step, target};
use crate::{clients, onnx, variants};
use std::time::Instant;

pub(crate) fn run() -> Outcome {
    let since = Instant::now();
    step("format", cargo(&["fmt", "--all", "--check"]))?;
    step("lints", cargo(&["clippy", "--release", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    // The integration tests start the real program with the real plugins, so these are built first.
    step("build", cargo(&["build", "--release", "--locked", "--workspace"]))?;
    // Plugins built against other versions of the interface form a workspace of their own.
    let mut old = cargo(&["build", "--release", "--locked", "--manifest-path", "tests/abi/Cargo.toml", "--target-dir"]);
    old.arg(target().parent().unwrap_or(&target()));
    step("build plugins of other interface versions", old)?;
    variants::gauss()?;
    step("tests", cargo(&["test", "--release", "--locked", "--workspace", "--no-fail-fast"]))?;
    let mut missing = clients::try_all(&[])?;
    missing.extend(onnx::try_it()?);
    let mut doc = cargo(&["doc", "--release", "--locked", "--workspace", "--no-deps"]);
    doc.env("RUSTDOCFLAGS", "-D warnings");
    step("documentation", doc)?;
    let which = if missing.is_empty() { "all checks passed" } else { "the checks that can be run here passed" };
    say(&format!("\n{which} in {:.0} s", since.elapsed().as_secs_f64()));
    for what in missing {
        say(&format!("NOT RUN: {what}"));
    }
    say("not run here, for want of the hardware: GPU backends, macOS, Windows (docs/STATUS.md)");
    Ok(())
}
