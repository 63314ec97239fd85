//! Folders of plugins: copies of the built ones, with another version or a misdeed written into the file.

use crate::program;
use std::path::{Path, PathBuf};

/// A temporary folder with plugins, and a folder for the answers of probes.
#[derive(Debug)]
pub struct Plugins {
    dir: tempfile::TempDir,
}

impl Default for Plugins {
    fn default() -> Self {
        Self::new()
    }
}

impl Plugins {
    /// An empty folder.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(dir.path().join("plugins")).expect("a folder");
        Plugins { dir }
    }

    /// Where the plugins lie.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("plugins")
    }

    /// The environment that keeps answers of probes apart from those of other workers.
    pub fn env(&self) -> Vec<(String, String)> {
        vec![("XDG_CACHE_HOME".to_owned(), self.dir.path().join("cache").to_string_lossy().into_owned())]
    }

    /// Puts a plugin there under a name: a copy of the built `from`, by renaming, as an operator should.
    pub fn put(&self, name: &str, from: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = std::fs::read(program(&format!("libsd_backend_{from}.so"))).expect("the plugin is built");
        change(&mut bytes);
        let (aside, file) = (self.path().join("aside"), self.path().join(format!("libsd_backend_{name}.so")));
        std::fs::write(&aside, bytes).expect("a file");
        std::fs::rename(&aside, &file).expect("a file");
    }

    /// A file in the folder.
    pub fn file(&self, name: &str) -> PathBuf {
        Path::new(&self.path()).join(name)
    }

    /// Makes build `n` of a copy of `gauss` or `rogue`.
    pub fn build(n: u8) -> impl FnOnce(&mut Vec<u8>) {
        move |bytes| overwrite(bytes, b"0.1.0+build.1", format!("0.1.0+build.{n}").as_bytes())
    }

    /// The same, with a script in the file of `rogue`.
    pub fn build_with(n: u8, script: &str) -> impl FnOnce(&mut Vec<u8>) {
        let text = format!("built-in-script:{script}");
        move |bytes| {
            Plugins::build(n)(bytes);
            overwrite(bytes, b"built-in-script:,", text.as_bytes());
        }
    }
}

/// Writes `new` over the place where `old` begins.
fn overwrite(bytes: &mut [u8], old: &[u8], new: &[u8]) {
    let at = bytes.windows(old.len()).position(|w| w == old).expect("the mark is in the file");
    bytes[at..at + new.len()].copy_from_slice(new);
}
