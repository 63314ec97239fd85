//! Who could have put a library where it lies, and whether it is the one that was meant.

use crate::PluginError;
use sha2::{Digest, Sha256};
use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

/// The name of the optional list of checksums beside the libraries, in the format of `sha256sum`.
pub(crate) const MANIFEST: &str = "SHA256SUMS";

/// How strict the check is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Trust {
    /// Nobody but root, we, and the owner of this program may be able to change the library.
    #[default]
    Owners,
    /// No check of owners and permissions. The list of checksums still counts.
    Anyone,
}

/// Checks a library at its canonical path. Places where the program itself lies are not checked: whoever can write there
/// can replace the program.
pub(crate) fn check(path: &Path, trust: Trust) -> Result<(), PluginError> {
    if trust == Trust::Owners {
        let exe = std::env::current_exe().and_then(std::fs::canonicalize).ok();
        owners(path, exe.as_deref())?;
    }
    match manifest(path)? {
        Some(wanted) if sha256(path)? != wanted => Err(untrusted(
            path,
            format!("its SHA-256 is not the one in {MANIFEST}"),
            format!("copy the library again, or correct {MANIFEST}"),
        )),
        _ => Ok(()),
    }
}

pub(crate) fn untrusted(path: &Path, reason: String, remedy: String) -> PluginError {
    PluginError::Untrusted { file: crate::load::file_name(path), reason, remedy }
}

#[cfg(unix)]
fn owners(path: &Path, exe: Option<&Path>) -> Result<(), PluginError> {
    use std::os::unix::fs::MetadataExt;
    let stat = |p: &Path| {
        std::fs::metadata(p).map_err(|e| PluginError::NotALibrary {
            file: crate::load::file_name(path),
            reason: format!("cannot be read: {}", e.kind()),
        })
    };
    // SAFETY: takes no argument and cannot fail.
    let mut owners = vec![0, unsafe { libc::geteuid() }];
    owners.extend(exe.and_then(|exe| std::fs::metadata(exe).ok()).map(|m| m.uid()));
    let file = stat(path)?;
    if file.mode() & 0o002 != 0 {
        return Err(untrusted(path, "anyone may change this file".to_owned(), "chmod o-w it".to_owned()));
    }
    if !owners.contains(&file.uid()) {
        let reason = format!("it belongs to user {}, who is neither root nor the user of this program", file.uid());
        return Err(untrusted(path, reason, "chown it to root or to the worker's user".to_owned()));
    }
    for (depth, folder) in path.ancestors().skip(1).enumerate() {
        if exe.is_some_and(|exe| exe.starts_with(folder)) {
            break;
        }
        let mode = stat(folder)?.mode();
        // With the sticky bit others cannot replace what lies there, but they can add to the plugin folder itself.
        if mode & 0o002 != 0 && (depth == 0 || mode & 0o1000 == 0) {
            let which = if depth == 0 { "its folder" } else { "a folder above it" };
            return Err(untrusted(path, format!("anyone may write to {which}"), "chmod o-w the folder".to_owned()));
        }
    }
    Ok(())
}

#[cfg(not(unix))]
fn owners(_: &Path, _: Option<&Path>) -> Result<(), PluginError> {
    Ok(())
}

/// The checksum that the list asks for; `None` when there is no list. A list that lacks the file refuses it.
fn manifest(path: &Path) -> Result<Option<String>, PluginError> {
    let list: PathBuf = path.with_file_name(MANIFEST);
    let mut text = String::new();
    match File::open(&list) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => {
            return Err(untrusted(
                path,
                format!("{MANIFEST} cannot be read: {}", e.kind()),
                "make it readable".to_owned(),
            ));
        }
        Ok(file) => {
            let read = file.take(1 << 20).read_to_string(&mut text);
            read.map_err(|_| untrusted(path, format!("{MANIFEST} is no text"), "write it with sha256sum".to_owned()))?;
        }
    }
    match listed(&text, &crate::load::file_name(path)) {
        Some(hash) => Ok(Some(hash)),
        None => Err(untrusted(
            path,
            format!("it is not listed in {MANIFEST}"),
            format!("add it to {MANIFEST} with sha256sum"),
        )),
    }
}

/// The checksum that a list in the format of `sha256sum` has for a file.
#[doc(hidden)]
pub fn listed(list: &str, name: &str) -> Option<String> {
    list.lines()
        .filter_map(|line| line.split_once(char::is_whitespace))
        // The second column is ` name` or `*name`.
        .find(|(_, file)| file.trim_start_matches([' ', '*']).trim_end() == name)
        .map(|(hash, _)| hash.to_ascii_lowercase())
}

fn sha256(path: &Path) -> Result<String, PluginError> {
    let failed = |e: std::io::Error| PluginError::NotALibrary {
        file: crate::load::file_name(path),
        reason: format!("cannot be read: {}", e.kind()),
    };
    let (mut file, mut hash) = (File::open(path).map_err(failed)?, Sha256::new());
    std::io::copy(&mut file, &mut hash).map_err(failed)?;
    Ok(hash.finalize().iter().map(|b| format!("{b:02x}")).collect())
}
