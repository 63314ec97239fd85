//! The sheet of every mode, drawn by a real worker with the bundled model.

use crate::{
    serve::build,
    shell::{Outcome, python, target},
};

pub(crate) fn run() -> Outcome {
    build(&["sd-worker", "sd-backend-candle-cpu"])?;
    let worker = target().join("sd-worker").display().to_string();
    python("tests/golden/modes.py", &["--worker".to_owned(), worker])
}
