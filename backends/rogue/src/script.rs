//! Which deed is due at which call.

use crate::{
    deeds::{self, Deed},
    gauss::options::setting,
};
use backend_api::{AbiError, ModelSource, Param, find};
use std::{
    collections::HashMap,
    ops::RangeInclusive,
    sync::{Mutex, PoisonError},
};

/// One line of a script.
#[derive(Clone, Debug)]
struct Line {
    deed: Deed,
    method: String,
    /// The call at which it happens; `None` = all.
    call: Option<u64>,
    /// The processes of a backend in which it happens.
    processes: RangeInclusive<u64>,
    /// Done only in a process of the plugin's own.
    child: bool,
}

/// A script, and the place where calls are counted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Script(Vec<Line>);

/// Calls of each method in this process.
static CALLS: Mutex<Option<HashMap<&'static str, u64>>> = Mutex::new(None);

/// Room for a script in the file itself. Tests write one behind the mark in a copy, padded with commas, and have a plugin
/// that misbehaves wherever it is loaded.
#[used]
static BUILT_IN: [u8; 76] = *b"built-in-script:,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,";

/// The built-in script, and that of the environment.
fn given() -> String {
    // Behind a black box, so that the bytes in the file are what is read.
    let own = std::str::from_utf8(std::hint::black_box(&BUILT_IN)).unwrap_or_default();
    let own = own.split_once(':').map_or("", |(_, script)| script);
    format!("{own},{}", std::env::var("SD_ROGUE").unwrap_or_default())
}

impl Script {
    /// The script of the environment.
    pub(crate) fn environment() -> Self {
        Script::parse(&given()).unwrap_or_else(|_| Script(Vec::new()))
    }

    /// The script of the options, after that of the environment.
    pub(crate) fn new(options: &[Param]) -> Result<Self, AbiError> {
        let mut script = Script::parse(&given())?;
        script.0.extend(Script::parse(setting(options, "rogue").unwrap_or_default())?.0);
        Ok(script)
    }

    /// This script and a model's own.
    pub(crate) fn with(&self, source: &ModelSource) -> Result<Self, AbiError> {
        let mut script = self.clone();
        script.0.extend(Script::parse(find(&source.options, "rogue").unwrap_or_default())?.0);
        Ok(script)
    }

    fn parse(text: &str) -> Result<Self, AbiError> {
        let bad = |part: &str| AbiError::invalid(format!("`{part}` is no `deed@method[:n][?first|?a..b|?child]`"));
        let line = |part: &str| {
            let (deed, rest) = part.split_once('@').ok_or_else(|| bad(part))?;
            let (rest, range) = rest.split_once('?').unwrap_or((rest, ".."));
            let child = range == "child";
            let range = if child { ".." } else { range };
            let processes = processes(range).ok_or_else(|| bad(part))?;
            let (method, call) = match rest.split_once(':') {
                Some((method, n)) => (method, Some(n.parse().map_err(|_| bad(part))?)),
                None => (rest, None),
            };
            Ok(Line {
                deed: Deed::parse(deed).ok_or_else(|| bad(part))?,
                method: method.to_owned(),
                call,
                processes,
                child,
            })
        };
        text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(line).collect::<Result<_, _>>().map(Script)
    }

    /// Counts a call and does what is due. Answers the deeds that the caller itself must do to its result.
    pub(crate) fn at(&self, method: &'static str) -> Result<Vec<Deed>, AbiError> {
        let n = {
            let mut calls = CALLS.lock().unwrap_or_else(PoisonError::into_inner);
            let count = calls.get_or_insert_default().entry(method).or_default();
            *count += 1;
            *count
        };
        let due = |line: &&Line| {
            let place = line.processes.contains(&process()) && (!line.child || in_child());
            line.method == method && line.call.is_none_or(|call| call == n) && place
        };
        let mut left = Vec::new();
        for line in self.0.iter().filter(due) {
            left.extend(deeds::commit(line.deed, method)?);
        }
        Ok(left)
    }
}

/// `first` is the first process; `a..b` are those from `a` to `b`, both included, either of them left out.
fn processes(text: &str) -> Option<RangeInclusive<u64>> {
    let (from, to) = if text == "first" { ("", "1") } else { text.split_once("..")? };
    let from = if from.is_empty() { 0 } else { from.parse().ok()? };
    let to = if to.is_empty() { u64::MAX } else { to.parse().ok()? };
    Some(from..=to)
}

/// The number of this process among those of its backend: the host counts them from 1 for its children.
fn process() -> u64 {
    std::env::var("SD_PLUGIN_PROCESS").ok().and_then(|n| n.parse().ok()).unwrap_or(1)
}

/// Whether the host made this process for the plugin.
fn in_child() -> bool {
    std::env::var_os("SD_PLUGIN_PROCESS").is_some()
}
