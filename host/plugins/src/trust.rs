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

/// The longest list that is read, in bytes.
const MOST: u64 = 1 << 20;

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
/// can replace the program. `named` is a list of checksums that the operator named; the one beside the library counts too.
pub(crate) fn check(path: &Path, trust: Trust, named: Option<&Path>) -> Result<(), PluginError> {
    if trust == Trust::Owners {
        let exe = std::env::current_exe().and_then(std::fs::canonicalize).ok();
        owners(path, exe.as_deref())?;
    }
    let mut lists = vec![List { file: path.with_file_name(MANIFEST), named: false }];
    lists.extend(named.map(|list| List { file: list.to_owned(), named: true }));
    let mut sum = None;
    for list in lists {
        let Some(wanted) = list.sums(path, trust)? else { continue };
        let sum = match &sum {
            Some(sum) => sum,
            None => sum.insert(sha256(path)?),
        };
        if !wanted.contains(sum) {
            let name = list.name();
            let remedy = format!("copy the library again, or correct {name}");
            return Err(untrusted(path, format!("its SHA-256 is not the one in {name}"), remedy));
        }
    }
    Ok(())
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

/// A list of checksums.
struct List {
    file: PathBuf,
    /// The operator named it: it must be there, and its entries may name folders.
    named: bool,
}

impl List {
    /// What people call it.
    fn name(&self) -> String {
        if self.named { format!("the manifest {}", crate::load::file_name(&self.file)) } else { MANIFEST.to_owned() }
    }

    /// The checksums that it has for a library; `None` when there is no list and none was named. A list that lacks the
    /// file refuses it.
    fn sums(&self, path: &Path, trust: Trust) -> Result<Option<Vec<String>>, PluginError> {
        let name = self.name();
        let file = match File::open(&self.file) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && !self.named => return Ok(None),
            Err(e) => {
                let remedy =
                    if self.named { "name a readable file with --plugin-manifest" } else { "make it readable" };
                return Err(untrusted(path, format!("{name} cannot be read: {}", e.kind()), remedy.to_owned()));
            }
            Ok(file) => file,
        };
        if self.named && trust == Trust::Owners {
            // Whoever may change the list may change what it lets in.
            let list = std::fs::canonicalize(&self.file).unwrap_or_else(|_| self.file.clone());
            owners(&list, None).map_err(|e| untrusted(path, format!("the manifest {e}"), e.remedy()))?;
        }
        let mut text = String::new();
        let read = file.take(MOST).read_to_string(&mut text);
        read.map_err(|_| untrusted(path, format!("{name} is no text"), "write it with sha256sum".to_owned()))?;
        let mut sums: Vec<String> = listed(&text, &crate::load::file_name(path)).into_iter().collect();
        if self.named {
            // Relative to the list's own folder, as `sha256sum --check` reads it there.
            let folder = self.file.parent().unwrap_or(Path::new(""));
            let here = |entry: &str| std::fs::canonicalize(folder.join(entry)).is_ok_and(|entry| entry == path);
            sums.extend(entries(&text).filter(|(_, entry)| entry.contains('/') && here(entry)).map(|(sum, _)| sum));
        }
        if sums.is_empty() {
            let remedy = format!("add it to {name} with sha256sum");
            return Err(untrusted(path, format!("it is not listed in {name}"), remedy));
        }
        Ok(Some(sums))
    }
}

/// The checksums and names of a list in the format of `sha256sum`.
fn entries(list: &str) -> impl Iterator<Item = (String, &str)> {
    let lines = list.lines().filter_map(|line| line.split_once(char::is_whitespace));
    // The second column is ` name` or `*name`.
    lines.map(|(sum, file)| (sum.to_ascii_lowercase(), file.trim_start_matches([' ', '*']).trim_end()))
}

/// The checksum that a list in the format of `sha256sum` has for a file.
#[doc(hidden)]
pub fn listed(list: &str, name: &str) -> Option<String> {
    entries(list).find(|(_, file)| *file == name).map(|(sum, _)| sum)
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
