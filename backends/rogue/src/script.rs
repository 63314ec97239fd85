//! Which deed is due at which call.

use crate::deeds::{self, Deed};
use backend_api::{AbiError, ModelSource, Param, find};
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

/// One line of a script.
#[derive(Clone, Debug)]
struct Line {
    deed: Deed,
    method: String,
    /// The call at which it happens; `None` = all.
    call: Option<u64>,
    /// Done only in the first process of a backend.
    first: bool,
}

/// A script, and the place where calls are counted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Script(Vec<Line>);

/// Calls of each method in this process.
static CALLS: Mutex<Option<HashMap<&'static str, u64>>> = Mutex::new(None);

impl Script {
    /// The script of the environment.
    pub(crate) fn environment() -> Self {
        let text = std::env::var("SD_ROGUE").unwrap_or_default();
        Script::parse(&text).unwrap_or_else(|_| Script(Vec::new()))
    }

    /// The script of the options, after that of the environment.
    pub(crate) fn new(options: &[Param]) -> Result<Self, AbiError> {
        let mut script = Script::parse(&std::env::var("SD_ROGUE").unwrap_or_default())?;
        script.0.extend(Script::parse(find(options, "rogue").unwrap_or_default())?.0);
        Ok(script)
    }

    /// This script and a model's own.
    pub(crate) fn with(&self, source: &ModelSource) -> Result<Self, AbiError> {
        let mut script = self.clone();
        script.0.extend(Script::parse(find(&source.options, "rogue").unwrap_or_default())?.0);
        Ok(script)
    }

    fn parse(text: &str) -> Result<Self, AbiError> {
        let bad = |part: &str| AbiError::invalid(format!("`{part}` is no `deed@method[:n][?first]`"));
        let line = |part: &str| {
            let (deed, rest) = part.split_once('@').ok_or_else(|| bad(part))?;
            let (rest, first) = match rest.strip_suffix("?first") {
                Some(rest) => (rest, true),
                None => (rest, false),
            };
            let (method, call) = match rest.split_once(':') {
                Some((method, n)) => (method, Some(n.parse().map_err(|_| bad(part))?)),
                None => (rest, None),
            };
            Ok(Line { deed: Deed::parse(deed).ok_or_else(|| bad(part))?, method: method.to_owned(), call, first })
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
            line.method == method && line.call.is_none_or(|call| call == n) && (!line.first || first_process())
        };
        let mut left = Vec::new();
        for line in self.0.iter().filter(due) {
            left.extend(deeds::commit(line.deed, method)?);
        }
        Ok(left)
    }
}

/// Whether no other process of this backend came before: the host counts them for its children.
fn first_process() -> bool {
    std::env::var("SD_PLUGIN_PROCESS").is_ok_and(|n| n == "1") || std::env::var_os("SD_PLUGIN_PROCESS").is_none()
}
