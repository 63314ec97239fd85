//! What the conformance kit says of our own backends, as a document.

use crate::{
    serve::build,
    shell::{Outcome, root, say, target},
};
use std::process::Command;

const HEAD: &str = "\
# Backends

What `sd-worker backend check` says of the backends in this tree on the bundled model. Written by `cargo xtask badges`; the
checks are explained in [WRITING_A_BACKEND.md](WRITING_A_BACKEND.md). Times are those of the machine and the moment.

| backend | device | | checks |
|---|---|---|---|
";

/// A backend, the models folder and the model that it is checked with, and how often the model is loaded.
const CHECKED: [(&str, &str, &str, &str); 2] =
    [("candle_cpu", "models", "emoji-sd", "200"), ("onnx", "", "emoji-onnx", "5")];

pub(crate) fn run() -> Outcome {
    build(&["sd-worker", "sd-backend-candle-cpu", "sd-backend-onnx"])?;
    let (mut rows, mut tables) = (String::new(), String::new());
    for (plugin, models, model, loads) in CHECKED {
        // An export is not committed: it lies in the build folder.
        let models = if models.is_empty() { target().join("onnx-models") } else { root().join(models) };
        if !models.join(model).is_dir() {
            return Err(format!(
                "{} is not there: tests/golden/onnx_export.py models/emoji-sd makes it",
                models.join(model).display()
            ));
        }
        say(&format!("checking {plugin} on {model}"));
        let mut command = Command::new(target().join("sd-worker"));
        command
            .args(["backend", "check", "--report", "markdown", "--log", "error", "--loads", loads, "--model", model]);
        command.arg("--models-dir").arg(models).arg(target().join(format!("libsd_backend_{plugin}.so")));
        let out = command.output().map_err(|e| format!("sd-worker does not start: {e}"))?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let (row, table) = text.split_once("\n\n").ok_or("the kit printed no report")?;
        rows.push_str(&format!("{row}\n"));
        tables.push_str(&format!("\n## {plugin}\n\nOn `{model}`.\n\n{table}"));
    }
    let tail = "\nThe templates (in Rust and in C) and `gauss` have no weights: `host/plugins/tests/conformance.rs` holds them to the\n\
                same checks on a config of their own, and `rogue` to failing each of them.\n";
    let path = root().join("docs/BACKENDS.md");
    std::fs::write(&path, format!("{HEAD}{rows}{tail}{tables}")).map_err(|e| format!("docs/BACKENDS.md: {e}"))
}
