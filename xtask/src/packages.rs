//! Packages of other languages in places of their own below the target folder: what only tests need.

use crate::shell::{Outcome, target};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A folder below the target folder, outside the profile's own.
pub(crate) fn place(name: &str) -> PathBuf {
    target().parent().map_or_else(|| target().join(name), |t| t.join(name))
}

/// The Python of an environment with exactly what a list of requirements names, made when it is not there.
pub(crate) fn python(list: &Path, place: &Path) -> Result<PathBuf, String> {
    let program = place.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
    if !is_current(list, place) {
        let base = std::env::var_os("PYTHON").unwrap_or_else(|| "python3".into());
        quiet(Command::new(base).args(["-m", "venv", "--clear"]).arg(place))?;
        let options =
            ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "1", "--timeout", "20"];
        quiet(Command::new(&program).args(options).arg("-r").arg(list))?;
        remember(list, place)?;
    }
    Ok(program)
}

/// Whether a place was filled from this very list.
pub(crate) fn is_current(list: &Path, place: &Path) -> bool {
    matches!((fs::read(list), fs::read(place.join("installed"))), (Ok(a), Ok(b)) if a == b)
}

pub(crate) fn remember(list: &Path, place: &Path) -> Outcome {
    fs::copy(list, place.join("installed")).map(|_| ()).map_err(|e| format!("{}: {e}", place.display()))
}

/// Runs a program without showing its output, and answers that; the reason of a failure is the last line it said.
pub(crate) fn quiet(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let done = command.output().map_err(|e| format!("cannot start {name}: {e}"))?;
    let [out, err] = [done.stdout, done.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    if done.status.success() {
        return Ok(out);
    }
    let said = [out, err].concat();
    let last = said.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("without a word");
    Err(format!("{name} failed: {last}"))
}
