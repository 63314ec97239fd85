//! Asking the terminal what it can: two questions, a moment's wait, and the terminal as it was before.

use super::detect::QUERY_ID;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::getpgrp,
    termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetpgrp, tcsetattr},
};
use std::{
    fs::File,
    io::{Read, Write},
    time::{Duration, Instant},
};

/// How long the terminal may take. Every terminal answers the second question, mostly within milliseconds.
const PATIENCE: Duration = Duration::from_millis(500);
/// Longest answer.
const MAX_ANSWER: usize = 1024;

/// What the terminal answers, up to its attributes; `None` where there is nobody to ask.
pub(super) fn ask() -> Option<String> {
    let tty = File::options().read(true).write(true).open("/dev/tty").ok()?;
    // A process in the background would be stopped for touching the terminal.
    if tcgetpgrp(&tty).ok()? != getpgrp() {
        return None;
    }
    let before = tcgetattr(&tty).ok()?;
    let answers = {
        let _quiet = Quiet::new(&tty, &before)?;
        // One pixel that is only to be judged, then the attributes: terminals that know no pictures skip the first.
        (&tty).write_all(format!("\x1b_Gi={QUERY_ID},s=1,v=1,a=q,t=d,f=24;AAAA\x1b\\\x1b[c").as_bytes()).ok()?;
        listen(&tty)
    };
    Some(answers)
}

fn listen(mut tty: &File) -> String {
    let until = Instant::now() + PATIENCE;
    let mut answers = Vec::new();
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let ends = answers.windows(3).any(|w| w == b"\x1b[?") && answers.ends_with(b"c");
        if left.is_zero() || ends || answers.len() >= MAX_ANSWER {
            return String::from_utf8_lossy(&answers).into_owned();
        }
        let wait = Timespec { tv_sec: 0, tv_nsec: i64::from(left.subsec_nanos()) };
        let ready = poll(&mut [PollFd::new(&tty, PollFlags::IN)], Some(&wait)).unwrap_or(0);
        let mut piece = [0; 256];
        if ready > 0 {
            match tty.read(&mut piece) {
                Ok(n) if n > 0 => answers.extend_from_slice(&piece[..n]),
                _ => return String::from_utf8_lossy(&answers).into_owned(),
            }
        }
    }
}

/// Neither echo nor line editing while it lives; Ctrl-C works on.
struct Quiet<'a> {
    tty: &'a File,
    before: &'a Termios,
}

impl<'a> Quiet<'a> {
    fn new(tty: &'a File, before: &'a Termios) -> Option<Self> {
        let mut quiet = before.clone();
        quiet.local_modes &= !(LocalModes::ICANON | LocalModes::ECHO);
        quiet.special_codes[SpecialCodeIndex::VMIN] = 0;
        quiet.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(tty, OptionalActions::Now, &quiet).ok()?;
        Some(Quiet { tty, before })
    }
}

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing back.
        let _ = tcsetattr(self.tty, OptionalActions::Now, self.before);
    }
}
