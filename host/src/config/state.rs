//! Where jobs outlive the program.

use crate::ledger::OnRestart;
use clap::Args;
use std::path::PathBuf;

/// What `--state-dir` takes for "nowhere".
const OFF: &str = "off";

/// Settings of the state folder.
#[derive(Debug, Clone, Args)]
pub struct StateArgs {
    /// The folder in which jobs and pictures outlive the program, one for each worker; `off` keeps them in memory.
    /// Without it: `sd-worker/PORT` in the user's state folder ($XDG_STATE_HOME or ~/.local/state); memory with `--port 0`
    #[arg(long, env = "SD_WORKER_STATE_DIR", value_name = "FOLDER|off")]
    pub state_dir: Option<PathBuf>,
    /// Most MiB of finished pictures in the state folder; beyond it the oldest jobs expire early
    #[arg(long, env = "SD_WORKER_STATE_MAX_MIB", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=16_777_216))]
    pub state_max_mib: u32,
    /// What becomes of a job that was running when the program ended: it runs again once, or ends with `interrupted`
    #[arg(long, env = "SD_WORKER_ON_RESTART", value_enum, default_value = "rerun")]
    pub on_restart: OnRestart,
}

/// A state folder.
#[derive(Debug, Clone)]
pub struct StateFolder {
    /// Where.
    pub path: PathBuf,
    /// The operator named it, so that the worker does not start without it.
    pub named: bool,
}

impl StateArgs {
    /// The folder of a worker on this port; `None`: memory.
    pub fn folder(&self, port: u16) -> Option<StateFolder> {
        match &self.state_dir {
            Some(path) if path.as_os_str() == OFF => None,
            Some(path) => Some(StateFolder { path: path.clone(), named: true }),
            // A worker on a port of the system's choice would not find its folder again.
            None if port == 0 => None,
            None => Some(StateFolder { path: own_state()?.join("sd-worker").join(port.to_string()), named: false }),
        }
    }
}

/// The user's state folder (XDG Base Directory Specification).
fn own_state() -> Option<PathBuf> {
    let given = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    given.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/state")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_folder_binds_and_the_own_one_follows_the_port() {
        let args = |dir: Option<&str>| StateArgs {
            state_dir: dir.map(PathBuf::from),
            state_max_mib: 1,
            on_restart: OnRestart::Rerun,
        };
        assert!(args(Some("off")).folder(8600).is_none());
        let named = args(Some("/var/lib/x")).folder(0).unwrap();
        assert!(named.named && named.path.as_os_str() == "/var/lib/x");
        assert!(args(None).folder(0).is_none());
        if let Some(own) = args(None).folder(8600) {
            assert!(!own.named && own.path.ends_with("sd-worker/8600"), "{}", own.path.display());
        }
    }
}
