//! A real worker process on a free port.

use crate::Client;
use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

/// The root of the source tree.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// Copies a folder with all that is in it.
pub fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in from.read_dir().expect("the folder to copy").flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("a copy");
        }
    }
}

/// The folder of the bundled model.
pub fn bundled_models() -> PathBuf {
    root().join("models")
}

/// A program or library that the build has put beside the tests.
pub fn program(name: &str) -> PathBuf {
    let mut folder = std::env::current_exe().unwrap_or_default();
    folder.pop();
    if folder.ends_with("deps") {
        folder.pop();
    }
    folder.join(name)
}

/// How a worker is started.
#[derive(Debug, Clone, Default)]
pub struct WorkerOptions {
    /// More flags for `serve`.
    pub args: Vec<String>,
    /// More environment.
    pub env: Vec<(String, String)>,
    /// The port; 0 takes a free one.
    pub port: u16,
}

impl WorkerOptions {
    /// Flags only.
    pub fn args(args: &[&str]) -> Self {
        WorkerOptions { args: args.iter().map(|a| (*a).to_owned()).collect(), env: Vec::new(), port: 0 }
    }
}

/// A running worker. Dropping it kills the process.
#[derive(Debug)]
pub struct Worker {
    child: Child,
    /// Where it listens: `http://127.0.0.1:PORT`.
    pub url: String,
    /// What it has written to standard error.
    pub log: Arc<Mutex<String>>,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Worker {
    /// Starts `sd-worker serve` on the bundled models and a free port, and waits until it takes jobs.
    pub fn start(options: &WorkerOptions) -> Worker {
        let worker = Self::start_unready(options);
        worker.wait_ready();
        worker
    }

    /// Starts it and waits only until it listens.
    pub fn start_unready(options: &WorkerOptions) -> Worker {
        let mut command = Command::new(program("sd-worker"));
        command.arg("serve").args(["--port", &options.port.to_string()]);
        if !options.args.iter().any(|a| a == "--models-dir") {
            command.arg("--models-dir").arg(bundled_models());
        }
        command.args(&options.args).envs(options.env.iter().cloned());
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("sd-worker starts; build the workspace first");
        let log = Arc::new(Mutex::new(String::new()));
        let reader = child.stderr.take().map(|stderr| {
            let log = log.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    let mut log = log.lock().expect("log");
                    log.push_str(&line);
                    log.push('\n');
                }
            })
        });
        let mut url = String::new();
        if let Some(stdout) = child.stdout.take() {
            let mut lines = BufReader::new(stdout);
            let mut line = String::new();
            while url.is_empty() && lines.read_line(&mut line).unwrap_or(0) > 0 {
                if let Some(at) = line.find("http://") {
                    url = line[at..].split_whitespace().next().unwrap_or_default().trim_end_matches('/').to_owned();
                }
                line.clear();
            }
            // Whatever else it prints must not fill the pipe.
            std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        }
        let worker = Worker { child, url, log, reader };
        assert!(!worker.url.is_empty(), "the worker printed no URL: {}", worker.log_text());
        worker
    }

    /// Waits until `/ready` answers 200.
    pub fn wait_ready(&self) {
        let client = self.client();
        let until = Instant::now() + Duration::from_secs(60);
        while client.get("/ready").status != 200 {
            assert!(Instant::now() < until, "the worker did not become ready: {}", self.log_text());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A client for this worker.
    pub fn client(&self) -> Client {
        Client::new(&self.url)
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged so far.
    pub fn log_text(&self) -> String {
        self.log.lock().map(|l| l.clone()).unwrap_or_default()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) {
        // SAFETY: kill takes plain numbers; the child has not been waited for, so its id is still its own.
        unsafe { libc::kill(self.child.id() as i32, signal) };
    }

    /// Waits for the end.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let until = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait().expect("wait") {
                return status;
            }
            assert!(Instant::now() < until, "the worker did not end within {limit:?}: {}", self.log_text());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The ids of the processes that the worker has started and that live, zombies included. Linux only.
    pub fn children(&self) -> Vec<i32> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).into_iter().flatten().flatten();
        let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
        lists.flat_map(|list| list.split_whitespace().filter_map(|id| id.parse().ok()).collect::<Vec<_>>()).collect()
    }

    /// Resident memory in KiB.
    pub fn rss_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        status
            .lines()
            .find_map(|l| l.strip_prefix("VmRSS:"))
            .and_then(|l| l.split_whitespace().next())
            .and_then(|n| n.parse().ok())
            .unwrap_or(0)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}
