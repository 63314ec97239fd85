//! The worker tried with the clients that people use: their own packages, in environments of their own below the target
//! folder. What cannot be installed here is told, never passed over.

use crate::{
    packages::{is_current, place, python, quiet, remember},
    shell::{Outcome, cargo, root, say, step, target},
};
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
    let (source, place) = (root().join("tests/clients"), place("clients"));
    let python = python(&source.join("requirements.txt"), &place.join("python"));
    Kit { python: python.map(|program| (program, source.clone())), node: node(&source, &place.join("node")) }
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
