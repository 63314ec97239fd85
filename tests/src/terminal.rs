//! A program in a pseudo terminal: what it prints, what the terminal answers, which keys are pressed.

use std::{
    ffi::OsStr,
    fs::File,
    io::{Read, Write},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::{Child, Command, ExitStatus},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// How the terminal answers questions about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answers {
    /// Not at all, as a file or a broken line would.
    Nothing,
    /// Its attributes only; with 4 among them it shows sixels.
    Attributes(&'static str),
    /// As kitty does: its graphics protocol too.
    Kitty,
}

/// A program in a terminal of 800 × 600 pixels.
#[derive(Debug)]
pub struct Terminal {
    master: File,
    child: Child,
    said: Arc<Mutex<Vec<u8>>>,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Terminal {
    /// Starts a program with this environment added; what a terminal would set is taken away first.
    pub fn start(program: &OsStr, args: &[&str], env: &[(&str, &str)], answers: Answers) -> Terminal {
        let size = libc::winsize { ws_row: 40, ws_col: 100, ws_xpixel: 800, ws_ypixel: 600 };
        let (mut master, mut slave) = (-1, -1);
        // SAFETY: the two numbers are written, the size is read, the others may be null.
        let opened = unsafe { libc::openpty(&mut master, &mut slave, std::ptr::null_mut(), std::ptr::null(), &size) };
        assert_eq!(opened, 0, "a pseudo terminal opens");
        // SAFETY: both were just opened and belong to nobody else.
        let (master, slave) = unsafe { (File::from_raw_fd(master), OwnedFd::from_raw_fd(slave)) };
        let mut command = Command::new(program);
        command.args(args);
        for name in ["TERM_PROGRAM", "LC_TERMINAL", "KITTY_WINDOW_ID", "TMUX", "STY"] {
            command.env_remove(name);
        }
        command.env("TERM", "xterm-256color").envs(env.iter().copied());
        let side = || slave.try_clone().expect("a second handle");
        command.stdin(side()).stdout(side()).stderr(side());
        // SAFETY: only two system calls between fork and exec, both allowed there; standard input is the terminal.
        unsafe {
            command.pre_exec(|| {
                if libc::setsid() < 0 || libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let child = command.spawn().expect("the program starts; build the workspace first");
        drop(command);
        drop(slave);
        let said: Arc<Mutex<Vec<u8>>> = Arc::default();
        let (mut end, log) = (master.try_clone().expect("a second handle"), said.clone());
        let reader = std::thread::spawn(move || {
            let mut piece = [0; 65_536];
            let mut answered = false;
            // The other side's end is an error here, as terminals have it.
            while let Ok(n) = end.read(&mut piece) {
                if n == 0 {
                    break;
                }
                let mut log = log.lock().expect("log");
                log.extend_from_slice(&piece[..n]);
                if !answered && log.windows(3).any(|w| w == b"\x1b[c") {
                    answered = true;
                    let text = reply(&String::from_utf8_lossy(&log), answers);
                    end.write_all(text.as_bytes()).expect("the program reads");
                }
            }
        });
        Terminal { master, child, said, reader: Some(reader) }
    }

    /// Everything it has printed.
    pub fn said(&self) -> Vec<u8> {
        self.said.lock().expect("log").clone()
    }

    /// Waits until this was printed.
    pub fn wait_for(&self, text: &str) {
        let until = Instant::now() + PATIENCE;
        while !String::from_utf8_lossy(&self.said()).contains(text) {
            assert!(Instant::now() < until, "no {text:?} in {:?}", String::from_utf8_lossy(&self.said()));
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Presses keys: `\x03` is Ctrl-C.
    pub fn press(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).expect("the terminal takes keys");
    }

    /// Whether keys are echoed and lines edited, as a shell expects it.
    pub fn is_as_before(&self) -> bool {
        // SAFETY: the struct is written by the call and only read when that succeeded.
        let modes = unsafe {
            let mut modes = std::mem::zeroed::<libc::termios>();
            assert_eq!(libc::tcgetattr(self.master.as_raw_fd(), &mut modes), 0);
            modes.c_lflag
        };
        modes & (libc::ICANON | libc::ECHO) == libc::ICANON | libc::ECHO
    }

    /// Waits for the end.
    pub fn wait(&mut self) -> ExitStatus {
        let until = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("wait") {
                break status;
            }
            assert!(Instant::now() < until, "no end: {:?}", String::from_utf8_lossy(&self.said()));
            std::thread::sleep(Duration::from_millis(10));
        };
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the reader ends");
        }
        status
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn reply(said: &str, answers: Answers) -> String {
    match answers {
        Answers::Nothing => String::new(),
        Answers::Attributes(list) => format!("\x1b[?{list}c"),
        Answers::Kitty => {
            // The answer names the picture of the question.
            let id: String =
                said.split("\x1b_Gi=").nth(1).unwrap_or_default().chars().take_while(char::is_ascii_digit).collect();
            format!("\x1b_Gi={id};OK\x1b\\\x1b[?62;c")
        }
    }
}
