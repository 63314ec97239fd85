//! `sd-worker inspect`: the recipe inside a picture.

use super::terminal::say;
use crate::fault::{Fault, FaultCode};
use std::{io::Read, path::Path};

/// Largest file that is read.
const MAX_BYTES: u64 = 256 * 1024 * 1024;

pub(super) fn run(file: &Path) -> Result<(), Fault> {
    let unreadable = |e: std::io::Error| Fault::new(FaultCode::InvalidImage, format!("{}: {e}", file.display()));
    let mut bytes = Vec::new();
    std::fs::File::open(file).map_err(unreadable)?.take(MAX_BYTES).read_to_end(&mut bytes).map_err(unreadable)?;
    let recipe = crate::recipe::read(&bytes)?;
    match recipe {
        Some(text) => say(&text),
        None => say("the picture carries no recipe"),
    }
    Ok(())
}
