//! `sd-worker inspect`: the recipe inside a picture.

use super::terminal::say;
use crate::fault::{Fault, FaultCode};
use std::{io::Read, path::Path};

/// Largest file that is read.
const MAX_BYTES: u64 = 256 * 1024 * 1024;

pub(super) fn run(file: &Path, json: bool) -> Result<(), Fault> {
    let unreadable = |e: std::io::Error| Fault::new(FaultCode::InvalidImage, format!("{}: {e}", file.display()));
    let mut bytes = Vec::new();
    std::fs::File::open(file).map_err(unreadable)?.take(MAX_BYTES).read_to_end(&mut bytes).map_err(unreadable)?;
    let told = crate::recipe::read(&bytes)?;
    if json {
        say(&told.json().to_string());
        return Ok(());
    }
    let others: Vec<String> = told.others().map(|(key, text)| format!("{key}: {text}")).collect();
    match told.parameters() {
        Some(text) => say(text),
        None if others.is_empty() => say("the picture carries no recipe"),
        None => say(&others.join("\n")),
    }
    Ok(())
}
