//! One child process: its start, its calls, its watchdog, its death.

use super::{
    Limits,
    shared::{self, Shared},
    signal_name,
    wire::{self, FROM_CHILD, Reply, Request, receive, send},
};
use crate::{error::clean, pinned::Pinned};
use backend_api::{AbiError, Code, Ctl, HostRef, LogLevel, Stage};
use std::{
    collections::VecDeque,
    ffi::OsString,
    io::{BufRead, BufReader, Error, ErrorKind, Read, Result},
    os::{
        fd::{AsRawFd, OwnedFd, RawFd},
        unix::{net::UnixStream, process::CommandExt, process::ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, Stdio},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::{Duration, Instant},
};

/// How often a waiting host looks at the cancel flag and the watchdog.
const TICK: Duration = Duration::from_millis(10);
/// How long a frame may take to arrive once it began, or to be taken.
const FRAME: Duration = Duration::from_secs(30);
/// Silence on the side socket after which the child is asked for a sign of life; three of these in a row end it.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// How long a question on the side socket may take.
const QUESTION: Duration = Duration::from_secs(60);
/// How long a dead child's last words are waited for.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// The variable that tells a child how many bytes it may take once its device is open.
pub(super) const ROOM: &str = "SD_PLUGIN_ROOM";

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long a call may take.
#[derive(Clone, Copy)]
pub(super) enum Patience {
    /// From the last sign of progress.
    Progress(Duration),
    /// A step over so many elements: by the slowest so far.
    Step(usize),
}

/// What the loader searches for a library that is opened without its folder: that folder first.
fn beside(library: &Pinned) -> OsString {
    let mut folders: Vec<PathBuf> = library.path().parent().map(Path::to_owned).into_iter().collect();
    if let Some(more) = std::env::var_os("LD_LIBRARY_PATH") {
        folders.extend(std::env::split_paths(&more));
    }
    std::env::join_paths(folders).unwrap_or_default()
}

/// What the reader threads and the callers share.
struct Life {
    child: Mutex<Child>,
    dead: AtomicBool,
    /// A question on the side socket waits for its answer.
    asked: AtomicBool,
    epitaph: Mutex<Option<AbiError>>,
    last_words: Mutex<LastWords>,
    /// Tells that nothing more follows on its standard error.
    silence: Condvar,
}

/// The end of what a child wrote to its standard error.
#[derive(Default)]
struct LastWords {
    lines: VecDeque<String>,
    complete: bool,
}

/// A child process with one library.
pub(super) struct Process {
    life: Arc<Life>,
    work: Mutex<UnixStream>,
    /// Writers of the side socket.
    side: Arc<Mutex<UnixStream>>,
    /// Answers from the side socket; the lock is held from question to answer.
    answers: Mutex<Receiver<Reply>>,
    pub(super) shared: Shared,
    limits: Limits,
    /// The slowest step so far: its time and its elements.
    pace: Mutex<Option<(Duration, usize)>>,
}

impl Process {
    /// Starts `command` + descriptors + `library`. `number` counts the processes of one backend; the child finds it in
    /// its environment.
    pub(super) fn spawn(
        command: &[OsString],
        library: &Pinned,
        number: u64,
        limits: Limits,
        host: HostRef,
    ) -> Result<Arc<Self>> {
        let (program, arguments) = command.split_first().ok_or_else(|| Error::from(ErrorKind::InvalidInput))?;
        let (work, work_child) = UnixStream::pair()?;
        let (side, side_child) = UnixStream::pair()?;
        let tensors: OwnedFd = shared::create()?;
        let sockets = [work_child.as_raw_fd(), side_child.as_raw_fd(), tensors.as_raw_fd()];
        let mut inherited = sockets.to_vec();
        let mut start = Command::new(program);
        start.args(arguments).arg(sockets.map(|fd| fd.to_string()).join(","));
        start.env("SD_PLUGIN_PROCESS", number.to_string()).current_dir("/");
        if library.in_place() {
            start.arg(library.path());
        } else {
            // Another file lies there now, which was not checked yet or failed its check.
            let held = library.file().as_raw_fd();
            inherited.push(held);
            start.arg(format!("/proc/self/fd/{held}")).env("LD_LIBRARY_PATH", beside(library));
        }
        if let Some(room) = limits.room {
            start.env(ROOM, room.to_string());
        }
        // What the worker is told by its environment, tokens among it, is not the plugin's business.
        for (key, _) in std::env::vars_os() {
            let name = key.to_string_lossy();
            if name.starts_with("SD_WORKER_") || ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"].contains(&&*name) {
                start.env_remove(&key);
            }
        }
        start.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        // SAFETY: the closure runs between fork and exec and makes only system calls on plain numbers.
        unsafe {
            start.pre_exec(move || {
                let keep = |fd: &RawFd| libc::fcntl(*fd, libc::F_SETFD, 0) == 0;
                if inherited.iter().all(keep) { Ok(()) } else { Err(Error::last_os_error()) }
            });
        }
        let mut child = start.spawn()?;
        for socket in [&work, &side] {
            socket.set_read_timeout(Some(FRAME))?;
            socket.set_write_timeout(Some(FRAME))?;
        }
        let stderr = child.stderr.take();
        let life = Arc::new(Life {
            child: Mutex::new(child),
            dead: AtomicBool::new(false),
            asked: AtomicBool::new(false),
            epitaph: Mutex::new(None),
            last_words: Mutex::default(),
            silence: Condvar::new(),
        });
        let (sender, answers) = sync_channel(1);
        let process = Process {
            shared: Shared::map(tensors.as_raw_fd())?,
            work: Mutex::new(work),
            side: Arc::new(Mutex::new(side.try_clone()?)),
            answers: Mutex::new(answers),
            life,
            limits,
            pace: Mutex::new(None),
        };
        process.start_readers(side, stderr, sender, host)?;
        Ok(Arc::new(process))
    }

    fn start_readers(
        &self,
        side: UnixStream,
        stderr: Option<ChildStderr>,
        sender: SyncSender<Reply>,
        host: HostRef,
    ) -> Result<()> {
        let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
        if let Some(stderr) = stderr {
            let (life, host) = (Arc::clone(&self.life), host.clone());
            thread("plugin-stderr").spawn(move || {
                keep_words(stderr, &life, &host);
                locked(&life.last_words).complete = true;
                life.silence.notify_all();
            })?;
        } else {
            locked(&self.life.last_words).complete = true;
        }
        let (life, writer) = (Arc::clone(&self.life), Arc::clone(&self.side));
        thread("plugin-side").spawn(move || {
            if let Err(why) = listen(&side, &writer, &sender, &life.asked, &host) {
                life.bury(Code::WORKER_DIED, why);
            }
        })?;
        Ok(())
    }

    /// Whether calls make sense.
    pub(super) fn alive(&self) -> bool {
        !self.life.dead.load(Ordering::Acquire)
    }

    /// Makes one call and waits for its answer. `ctl` cancels it and hears of its progress.
    pub(super) fn call(
        &self,
        request: &Request,
        ctl: Option<&Ctl>,
        patience: Patience,
    ) -> std::result::Result<Reply, AbiError> {
        let mut work = locked(&self.work);
        if !self.alive() {
            return Err(self.life.bury(Code::WORKER_DIED, String::new()));
        }
        self.shared.cancel().store(0, Ordering::Release);
        let started = Instant::now();
        if let Err(e) = send(&mut *work, request) {
            return Err(self.life.bury(Code::WORKER_DIED, format!("it takes no requests: {}", e.kind())));
        }
        let limit = self.limit(patience);
        let mut seen = started;
        loop {
            match readable(work.as_raw_fd(), TICK) {
                Ok(false) => {
                    if ctl.is_some_and(Ctl::cancelled) {
                        self.shared.cancel().store(1, Ordering::Release);
                    }
                    if seen.elapsed() > limit {
                        let why = format!("no answer within {:.1} s", limit.as_secs_f64());
                        return Err(self.life.bury(Code::TIMEOUT, why));
                    }
                }
                Ok(true) => match receive::<Reply>(&mut *work, FROM_CHILD) {
                    Ok(Reply::Progress { stage, done, total }) => {
                        if let Some(ctl) = ctl {
                            ctl.progress(Stage(stage), done, total);
                        }
                        if !matches!(patience, Patience::Step(_)) {
                            seen = Instant::now();
                        }
                    }
                    Ok(Reply::Failed(failure)) => return Err(self.failed(failure.into(), request)),
                    Ok(reply) => {
                        if let Patience::Step(elements) = patience {
                            self.note(started.elapsed(), elements);
                        }
                        return Ok(reply);
                    }
                    Err(e) => return Err(self.life.bury(Code::WORKER_DIED, ending(&e))),
                },
                Err(e) => return Err(self.life.bury(Code::WORKER_DIED, e.kind().to_string())),
            }
        }
    }

    /// An error that the plugin answered. After some the process is of no use any more.
    fn failed(&self, error: AbiError, request: &Request) -> AbiError {
        // A device that panicked refuses everything until it is opened anew.
        let device = matches!(request, Request::Load { .. } | Request::Open { .. });
        if error.code == Code::DEVICE_LOST || (device && [Code::PANICKED, Code::PRECONDITION].contains(&error.code)) {
            self.life.bury(Code::WORKER_DIED, "its device was lost".to_owned());
        }
        error
    }

    /// Asks on the side socket, which also answers while a call runs.
    pub(super) fn ask(&self, request: &Request) -> std::result::Result<Reply, AbiError> {
        let answers = locked(&self.answers);
        if !self.alive() {
            return Err(self.life.bury(Code::WORKER_DIED, String::new()));
        }
        self.life.asked.store(true, Ordering::Release);
        if let Err(e) = send(&mut *locked(&self.side), request) {
            return Err(self.life.bury(Code::WORKER_DIED, format!("it takes no questions: {}", e.kind())));
        }
        match answers.recv_timeout(QUESTION.min(self.limits.first)) {
            Ok(Reply::Failed(failure)) => {
                let error: AbiError = failure.into();
                if [Code::PANICKED, Code::PRECONDITION].contains(&error.code) {
                    self.life.bury(Code::WORKER_DIED, "its device was lost".to_owned());
                }
                Err(error)
            }
            Ok(reply) => Ok(reply),
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
                Err(self.life.bury(Code::TIMEOUT, "no answer to a question".to_owned()))
            }
            // The reader thread ends with the child, and buried it.
            Err(_) => Err(self.life.bury(Code::WORKER_DIED, "it closed its side of the connection".to_owned())),
        }
    }

    /// The child answered something else than what was asked.
    pub(super) fn nonsense(&self) -> AbiError {
        self.life.bury(Code::WORKER_DIED, "it answered nonsense".to_owned())
    }

    fn limit(&self, patience: Patience) -> Duration {
        match patience {
            Patience::Progress(limit) => limit,
            Patience::Step(elements) => match *locked(&self.pace) {
                None => self.limits.first,
                // Attention grows with the square of the elements.
                Some((slowest, then)) => {
                    let growth = (elements as f64 / then.max(1) as f64).max(1.0).powi(2);
                    let limit = slowest.as_secs_f64() * 3.0 * growth;
                    Duration::try_from_secs_f64(limit).unwrap_or(self.limits.first).max(self.limits.floor)
                }
            },
        }
    }

    fn note(&self, took: Duration, elements: usize) {
        let mut pace = locked(&self.pace);
        if pace.is_none_or(|(slowest, _)| took > slowest) {
            *pace = Some((took, elements));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The end of the sockets is the sign to leave.
        for socket in [&*locked(&self.work), &*locked(&self.side)] {
            let _ = socket.shutdown(std::net::Shutdown::Both);
        }
        let until = Instant::now() + Duration::from_secs(2);
        let mut child = locked(&self.life.child);
        self.life.dead.store(true, Ordering::Release);
        while matches!(child.try_wait(), Ok(None)) {
            if Instant::now() > until {
                let _ = child.kill();
                let _ = child.wait();
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Life {
    /// Ends the child, if it still lives, and answers the error for everyone who needs it from now on. The first reason
    /// stays.
    fn bury(&self, code: Code, why: String) -> AbiError {
        let mut epitaph = locked(&self.epitaph);
        if let Some(known) = &*epitaph {
            return known.clone();
        }
        self.dead.store(true, Ordering::Release);
        let status = {
            let mut child = locked(&self.child);
            // A child that died by itself gets a moment to be found dead, so that the true reason is told.
            let until = Instant::now() + Duration::from_millis(200);
            while code == Code::WORKER_DIED && matches!(child.try_wait(), Ok(None)) && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(2));
            }
            let status = child.try_wait().ok().flatten();
            if status.is_none() {
                let _ = child.kill();
                let _ = child.wait();
            }
            status
        };
        let fate = match status {
            Some(status) => match (status.signal(), status.code()) {
                (Some(libc::SIGKILL), _) => "killed, perhaps for lack of memory".to_owned(),
                (Some(signal), _) => format!("killed by signal {signal}{}", signal_name(signal)),
                (None, code) => format!("ended with status {}", code.unwrap_or(-1)),
            },
            None => format!("stopped by the worker: {why}"),
        };
        let words = self.last_words();
        let message = if code == Code::TIMEOUT {
            format!("the backend gave no answer and was stopped ({why})")
        } else {
            format!("the backend's process died: {fate}")
        };
        let error = AbiError::new(code, message).with_detail(clean(words, 2000));
        // Later callers did not cause a time-out; for them the process is simply gone.
        *epitaph = Some(AbiError { code: Code::WORKER_DIED, ..error.clone() });
        error
    }

    /// What a dead child wrote last. Its pipe may still hold words that the reading thread has yet to take; a process
    /// of its own that it left behind may keep the pipe open for ever, so the wait has an end.
    fn last_words(&self) -> String {
        let words = locked(&self.last_words);
        let waited = self.silence.wait_timeout_while(words, LAST_WORDS, |w| !w.complete);
        let (words, _) = waited.unwrap_or_else(PoisonError::into_inner);
        Vec::from_iter(words.lines.iter().map(String::as_str)).join(" | ")
    }
}

/// In words, how a socket ended.
fn ending(error: &Error) -> String {
    match error.kind() {
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset => "it closed the connection".to_owned(),
        ErrorKind::InvalidData => "it answered garbage".to_owned(),
        kind => kind.to_string(),
    }
}

/// Waits until a socket can be read or is closed.
fn readable(fd: RawFd, most: Duration) -> Result<bool> {
    let mut entry = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one entry, which outlives the call.
    match unsafe { libc::poll(&raw mut entry, 1, most.as_millis() as libc::c_int) } {
        0 => Ok(false),
        1 => Ok(true),
        _ => match Error::last_os_error() {
            e if e.kind() == ErrorKind::Interrupted => Ok(false),
            e => Err(e),
        },
    }
}

/// Reads the side socket until the child is gone: log lines, answers, signs of life. The error says what ended it.
fn listen(
    side: &UnixStream,
    writer: &Mutex<UnixStream>,
    sender: &SyncSender<Reply>,
    asked: &AtomicBool,
    host: &HostRef,
) -> std::result::Result<(), String> {
    let mut silent = 0;
    loop {
        match readable(side.as_raw_fd(), HEARTBEAT) {
            // Who answers a question gives no other sign of life meanwhile; the question has a limit of its own.
            Ok(false) if asked.load(Ordering::Acquire) => {
                silent = 0;
                continue;
            }
            Ok(false) if silent == 3 => return Err("no sign of life".to_owned()),
            Ok(false) => {
                silent += 1;
                send(&mut *locked(writer), &Request::Ping).map_err(|e| ending(&e))?;
                continue;
            }
            Ok(true) => silent = 0,
            Err(e) => return Err(e.kind().to_string()),
        }
        match receive::<Reply>(side, FROM_CHILD).map_err(|e| ending(&e))? {
            Reply::Log { level, target, message } => {
                host.log(LogLevel(level), target.as_str().into(), message.as_str().into());
            }
            Reply::Pong => {}
            reply if asked.swap(false, Ordering::AcqRel) => {
                sender.try_send(reply).map_err(|_| "the worker let it go".to_owned())?;
            }
            _ => return Err("it answered what nobody had asked".to_owned()),
        }
    }
}

/// Logs a child's standard error, and keeps its end.
fn keep_words(stderr: ChildStderr, life: &Life, host: &HostRef) {
    let mut reader = BufReader::new(stderr);
    let mut logged = 0;
    loop {
        let mut line = Vec::new();
        match reader.by_ref().take(4096).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let line = clean(String::from_utf8_lossy(&line), 1000);
        // A plugin that floods its standard error does not flood the log.
        logged += 1;
        if logged <= 1000 {
            host.log(LogLevel::DEBUG, "stderr".into(), line.as_str().into());
        }
        let mut words = locked(&life.last_words);
        words.lines.push_back(line);
        while words.lines.len() > 5 {
            words.lines.pop_front();
        }
    }
}

/// Tensors of one call, laid out one behind the other in the shared memory.
pub(super) struct Layout<'a> {
    shared: &'a Shared,
    next: usize,
}

impl<'a> Layout<'a> {
    pub(super) fn new(shared: &'a Shared) -> Self {
        Layout { shared, next: shared::DATA }
    }

    fn place(&mut self, len: usize) -> std::result::Result<usize, AbiError> {
        let offset = self.next;
        match offset.checked_add(len).and_then(|end| end.checked_next_multiple_of(64)) {
            Some(end) if end <= shared::SIZE => {
                self.next = end;
                Ok(offset)
            }
            _ => Err(AbiError::invalid("the tensors of one call are too large for an isolated backend")),
        }
    }

    pub(super) fn input(&mut self, t: &backend_api::TensorRef<'_>) -> std::result::Result<wire::Tensor, AbiError> {
        t.validate()?;
        let (offset, len) = (self.place(t.bytes.len())?, t.bytes.len());
        if !self.shared.write(offset, &t.bytes) {
            return Err(AbiError::internal("a tensor does not fit"));
        }
        Ok(wire::Tensor { name: t.name.to_string(), dtype: t.dtype.0, shape: t.shape.to_vec(), offset, len })
    }

    /// Room for an output, filled with ones: not a number as `f32`, so that what is left out is noticed.
    pub(super) fn output(&mut self, t: &backend_api::TensorMut<'_>) -> std::result::Result<wire::Tensor, AbiError> {
        t.validate()?;
        let (offset, len) = (self.place(t.bytes.len())?, t.bytes.len());
        if !self.shared.fill(offset, len, 0xff) {
            return Err(AbiError::internal("a tensor does not fit"));
        }
        Ok(wire::Tensor { name: String::new(), dtype: t.dtype.0, shape: t.shape.to_vec(), offset, len })
    }
}

impl Drop for Layout<'_> {
    fn drop(&mut self) {
        self.shared.trim(self.next);
    }
}
