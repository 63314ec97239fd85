//! Measurements: the worker over HTTP, and diffusers on the same model beside it where Python has it.

use crate::{
    serve::build,
    shell::{Outcome, cargo, python, say, step},
};

pub(crate) fn run(args: &[String]) -> Outcome {
    build(&["sd-worker", "sd-backend-candle-cpu", "sd-tests"])?;
    let mut bench = cargo(&["run", "--release", "--quiet", "--package", "sd-tests", "--bin", "bench", "--"]);
    bench.args(args);
    step("worker", bench)?;
    // What a call into a plugin costs by itself, in this process and in another one.
    build(&["sd-backend-gauss"])?;
    let package = ["test", "--release", "--quiet", "--workspace", "--test", "cost", "--", "--nocapture"];
    step("interface", cargo(&package))?;
    if let Err(reason) = python("tests/golden/bench_diffusers.py", &[]) {
        say(&format!("no figures of diffusers: {reason} (set PYTHON to one that has tests/golden/requirements.txt)"));
    }
    Ok(())
}
