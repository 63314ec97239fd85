//! The kit in a process of its own, so that a crash or a hang of the library is a line of the report.
//!
//! The process gets one end of a socket as its standard input and writes a JSON line there when a check begins and when
//! it ends. Standard output is not used: a library may write to it.

use super::{Check, Event, Report, Verdict};
use serde::{Deserialize, Serialize};
use std::{
    io::{BufRead, BufReader, ErrorKind, Write},
    mem::ManuallyDrop,
    os::{
        fd::{FromRawFd, OwnedFd},
        unix::{net::UnixStream, process::ExitStatusExt},
    },
    process::{Command, ExitStatus, Stdio},
    time::Duration,
};

/// A line from the process.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Begins(String),
    Ends(Check),
    /// The whole report, without the checks that were told before.
    Done(Report),
}

/// In the process: runs `kit` with a listener that tells the parent, then tells the report's head. Answers the report.
pub fn report_to_parent(kit: impl FnOnce(&mut dyn FnMut(Event<'_>)) -> Report) -> Report {
    // SAFETY: standard input was left to us by the parent, which made it a socket; it stays open for ever.
    let mut parent = ManuallyDrop::new(unsafe { UnixStream::from_raw_fd(0) });
    let mut tell = |line: &Line| {
        if let Ok(mut text) = serde_json::to_vec(line) {
            text.push(b'\n');
            // Without a parent nobody is left to tell.
            let _ = parent.write_all(&text);
        }
    };
    let report = kit(&mut |event| {
        tell(&match event {
            Event::Begins(name) => Line::Begins(name.to_owned()),
            Event::Ends(check) => Line::Ends(check.clone()),
        });
    });
    tell(&Line::Done(Report { checks: Vec::new(), ..report.clone() }));
    report
}

/// Runs `command`, which calls [`report_to_parent`], and listens. A process that dies or is silent for `patience` fails
/// the check that it was at.
pub fn watch(mut command: Command, patience: Duration, heard: &mut dyn FnMut(Event<'_>)) -> std::io::Result<Report> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_read_timeout(Some(patience))?;
    let mut child = command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::null()).spawn()?;
    // The command keeps the other end open until it is gone.
    drop(command);
    let mut report = Report::default();
    let mut at = "loads".to_owned();
    let mut done = false;
    let mut lines = BufReader::new(ours);
    let silence = loop {
        let mut text = String::new();
        match lines.read_line(&mut text) {
            Ok(0) => break false,
            Ok(_) => {}
            Err(e) => break matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        }
        match serde_json::from_str(&text) {
            Ok(Line::Begins(name)) => {
                heard(Event::Begins(&name));
                at = name;
            }
            Ok(Line::Ends(check)) => {
                heard(Event::Ends(&check));
                report.checks.push(check);
            }
            Ok(Line::Done(head)) => {
                report = Report { checks: std::mem::take(&mut report.checks), ..head };
                done = true;
                break false;
            }
            Err(_) => break false,
        }
    };
    if silence {
        child.kill()?;
    }
    let status = child.wait()?;
    // The kit answers 0 or 1; a library that ends the process afterwards, in an exit handler, is at fault too.
    if !done || status.code().is_none_or(|code| code > 1) {
        let why = if silence { format!("no end after {} s", patience.as_secs()) } else { fate(status) };
        for (name, verdict, detail) in [
            (if done { "ends" } else { at.as_str() }, Verdict::Failed, why.as_str()),
            ("the rest", Verdict::Skipped, "not run: the process was gone"),
        ] {
            let check = Check { name: name.to_owned(), verdict, detail: detail.to_owned(), millis: 0 };
            if verdict == Verdict::Failed || !done {
                heard(Event::Ends(&check));
                report.checks.push(check);
            }
        }
    }
    Ok(report)
}

fn fate(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => {
            format!("the process was killed by signal {signal}{}", crate::isolate::signal_name(signal))
        }
        (None, code) => format!("the process ended with status {}", code.unwrap_or(-1)),
    }
}
