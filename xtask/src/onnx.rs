//! The ONNX plugin tried with ONNX Runtime itself, which is a package from PyPI in an environment below the target folder.

use crate::{
    packages::{place, python, quiet},
    shell::{Outcome, cargo, root, say, step},
};
use std::process::Command;

/// What the plugin looks at for the runtime's library or its folder.
const VARIABLE: &str = "ORT_DYLIB_PATH";

/// `cargo xtask onnx`: the runtime must be there.
pub(crate) fn run() -> Outcome {
    step("build", cargo(&["build", "--release", "--locked", "--workspace"]))?;
    try_it()?.map_or(Ok(()), Err)
}

/// Runs the trials if there is a runtime, else tells why there is none. The workspace has been built.
pub(crate) fn try_it() -> Result<Option<String>, String> {
    say("\n── ONNX Runtime");
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(reason) => return Ok(Some(format!("the ONNX plugin with ONNX Runtime: {reason}"))),
    };
    let trials =
        ["test", "--release", "--locked", "--workspace", "--test", "it", "--", "--ignored", "onnx_", "--nocapture"];
    let mut command = cargo(&trials);
    command.env(VARIABLE, runtime);
    step("the ONNX plugin", command)?;
    Ok(None)
}

/// The folder with the runtime's library: the one that is named already, or that of the package.
fn runtime() -> Result<String, String> {
    if let Some(given) = std::env::var(VARIABLE).ok().filter(|given| !given.is_empty()) {
        return Ok(given);
    }
    let program = python(&root().join("tests/onnx-requirements.txt"), &place("onnx-runtime"))?;
    // Looked up without an import: only the library in the package is wanted.
    let script = "import importlib.util as u, os; print(os.path.join(u.find_spec('onnxruntime').submodule_search_locations[0], 'capi'))";
    Ok(quiet(Command::new(program).args(["-c", script]))?.trim().to_owned())
}
