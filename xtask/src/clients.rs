//! The worker tried with the clients that people use: their own packages, in environments of their own below the target
//! folder. What cannot be installed here is told, never passed over.

use crate::shell::{Outcome, cargo, root, say, step, target};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// What could be prepared: the program that runs the scripts and the folder they run in, or why not.
struct Kit {
    python: Result<(PathBuf, PathBuf), String>,
    node: Result<(PathBuf, PathBuf), String>,
}

/// `cargo xtask clients [NAME]`: everything must be there.
pub(crate) fn run(names: &[String]) -> Outcome {
    let missing = try_all(names)?;
    if missing.is_empty() { Ok(()) } else { Err(missing.join("\n")) }
}

/// Runs the scripts that can be run here, and tells what could not.
pub(crate) fn try_all(names: &[String]) -> Result<Vec<String>, String> {
    say("\n── packages of the stock clients");
    let kit = prepare();
    let wanted = |script: &Path| {
        let name = script.file_name().unwrap_or_default().to_string_lossy().into_owned();
        names.is_empty() || names.iter().any(|n| name.contains(n.as_str()))
    };
    let (mut pairs, mut missing) = (Vec::new(), Vec::new());
    for (what, side, ending) in [("Python", &kit.python, "py"), ("Node", &kit.node, "mjs")] {
        match side {
            Ok((program, folder)) => {
                let scripts = scripts(folder, ending)?;
                pairs.extend(scripts.into_iter().filter(|s| wanted(s)).flat_map(|s| [program.clone(), s]));
            }
            Err(reason) => missing.push(format!("stock clients in {what}: {reason}")),
        }
    }
    if !pairs.is_empty() {
        // The whole workspace, as the tests build it: parts of it alone would be compiled anew with other features.
        step("build", cargo(&["build", "--release", "--locked", "--workspace"]))?;
        let mut command = Command::new(target().join("clients"));
        command.args(pairs);
        step("stock clients", command)?;
    }
    Ok(missing)
}

/// The scripts of a folder, without the list of checks that they share.
fn scripts(folder: &Path, ending: &str) -> Result<Vec<PathBuf>, String> {
    let entries = fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let mut all: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|p| p.extension().is_some_and(|e| e == ending) && p.file_stem().is_some_and(|s| s != "checks"))
        .collect();
    all.sort();
    Ok(all)
}

fn prepare() -> Kit {
    let source = root().join("tests/clients");
    let place = target().parent().map_or_else(|| target().join("clients"), |t| t.join("clients"));
    Kit { python: python(&source, &place.join("python")), node: node(&source, &place.join("node")) }
}

fn python(source: &Path, place: &Path) -> Result<(PathBuf, PathBuf), String> {
    let program = place.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
    let list = source.join("requirements.txt");
    if !is_current(&list, place) {
        let base = std::env::var_os("PYTHON").unwrap_or_else(|| "python3".into());
        quiet(Command::new(base).args(["-m", "venv", "--clear"]).arg(place))?;
        let options =
            ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "1", "--timeout", "20"];
        quiet(Command::new(&program).args(options).arg("-r").arg(&list))?;
        remember(&list, place)?;
    }
    Ok((program, source.to_path_buf()))
}

fn node(source: &Path, place: &Path) -> Result<(PathBuf, PathBuf), String> {
    let say = |e: std::io::Error| format!("{}: {e}", place.display());
    fs::create_dir_all(place).map_err(say)?;
    let list = source.join("package-lock.json");
    // Node looks for packages from where a script lies: the scripts come to the packages.
    for script in
        scripts(source, "mjs")?.into_iter().chain(["checks.mjs", "package.json"].map(|name| source.join(name)))
    {
        fs::copy(&script, place.join(script.file_name().unwrap_or_default())).map_err(say)?;
    }
    if !is_current(&list, place) {
        fs::copy(&list, place.join("package-lock.json")).map_err(say)?;
        let options =
            ["ci", "--no-audit", "--no-fund", "--ignore-scripts", "--fetch-retries=1", "--fetch-timeout=20000"];
        quiet(Command::new(if cfg!(windows) { "npm.cmd" } else { "npm" }).args(options).current_dir(place))?;
        remember(&list, place)?;
    }
    quiet(Command::new("node").arg("--version"))?;
    Ok(("node".into(), place.to_path_buf()))
}

/// Whether a place was filled from this very list.
fn is_current(list: &Path, place: &Path) -> bool {
    matches!((fs::read(list), fs::read(place.join("installed"))), (Ok(a), Ok(b)) if a == b)
}

fn remember(list: &Path, place: &Path) -> Outcome {
    fs::copy(list, place.join("installed")).map(|_| ()).map_err(|e| format!("{}: {e}", place.display()))
}

/// Runs a program without its output; the reason of a failure is the last line it said.
fn quiet(command: &mut Command) -> Outcome {
    let name = command.get_program().to_string_lossy().into_owned();
    let done = command.output().map_err(|e| format!("cannot start {name}: {e}"))?;
    if done.status.success() {
        return Ok(());
    }
    let said = [done.stdout, done.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    let last = said.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("without a word");
    Err(format!("{name} failed: {last}"))
}
