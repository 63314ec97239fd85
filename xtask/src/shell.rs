//! Running programs and speaking to the terminal.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

/// A step's outcome: the message says what failed.
pub(crate) type Outcome = Result<(), String>;

/// The root of the source tree.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// Where cargo puts what it builds.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from).join("release")
}

/// Prints to standard output.
#[allow(clippy::print_stdout, reason = "this program speaks to a terminal")]
pub(crate) fn say(text: &str) {
    println!("{text}");
}

/// Prints to standard error.
#[allow(clippy::print_stderr, reason = "this program speaks to a terminal")]
pub(crate) fn complain(text: &str) {
    eprintln!("xtask: {text}");
}

/// Cargo, in the root of the tree.
///
/// `cargo xtask` has told this program its own package's name and place. Build scripts of some dependencies are run anew when
/// these change, and all that rests on them with it: a cargo started from here must not see them.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(root());
    for (name, _) in std::env::vars_os() {
        let told = name.to_str().is_some_and(|n| n.starts_with("CARGO_PKG_") || n.starts_with("CARGO_MANIFEST_"));
        if told {
            command.env_remove(name);
        }
    }
    command
}

/// Runs a program to its end under a heading, and tells how long it took.
pub(crate) fn step(title: &str, mut command: Command) -> Outcome {
    say(&format!("\n── {title}"));
    let since = Instant::now();
    let status = command.status().map_err(|e| format!("{title}: cannot start {:?}: {e}", command.get_program()))?;
    let seconds = since.elapsed().as_secs_f64();
    if status.success() {
        say(&format!("── {title}: ok ({seconds:.0} s)"));
        Ok(())
    } else {
        Err(format!("{title}: failed ({status})"))
    }
}

/// Runs one of the tree's Python scripts.
pub(crate) fn python(script: &str, args: &[String]) -> Outcome {
    let mut command = Command::new(std::env::var_os("PYTHON").unwrap_or_else(|| "python3".into()));
    command.arg(root().join(script)).args(args).current_dir(root());
    step(script, command)
}
