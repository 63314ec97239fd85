//! The picture files: written so that a name is only ever seen on a whole file.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::NewImage;

/// Marks files that are being written.
const UNFINISHED: &str = ".part";

/// The folder of all pictures.
#[derive(Clone, Debug)]
pub(super) struct Pictures {
    folder: PathBuf,
}

impl Pictures {
    pub(super) fn open(state: &Path) -> io::Result<Self> {
        let folder = state.join("pictures");
        private_folder(&folder)?;
        Ok(Self { folder })
    }

    /// Writes a file whole: under another name, synced, then renamed. `name` is made of a checked job id, an index and an extension.
    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let (part, path) = (self.folder.join(format!("{name}{UNFINISHED}")), self.folder.join(name));
        let written = (|| {
            let mut file = private_file(&part)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&part, &path)
        })();
        if written.is_err() {
            // A full disk gets its room back; if this fails too, the next start cleans up.
            let _ = fs::remove_file(&part);
        }
        written
    }

    /// Writes the pictures of a job and answers their names. When one cannot be written none stays.
    pub(super) fn write_all(&self, job: &str, images: &[NewImage]) -> io::Result<Vec<String>> {
        let mut names = Vec::with_capacity(images.len());
        let written = images.iter().enumerate().try_for_each(|(index, image)| {
            let name = format!("{job}-{index}.{}", image.extension);
            self.write(&name, &image.bytes)?;
            names.push(name);
            Ok(())
        });
        let written = written.and_then(|()| if names.is_empty() { Ok(()) } else { self.sync() });
        if written.is_err() {
            names.iter().for_each(|name| self.remove(name));
        }
        written.map(|()| names)
    }

    /// Writes a file of the size of a small picture and removes it.
    pub(super) fn probe(&self) -> io::Result<()> {
        self.write("probe", &[0; 64 * 1024])?;
        fs::remove_file(self.folder.join("probe"))
    }

    /// Makes the names of files written so far survive a power loss.
    fn sync(&self) -> io::Result<()> {
        #[cfg(unix)]
        File::open(&self.folder)?.sync_all()?;
        Ok(())
    }

    /// Reads a file of the size it was entered with; anything else is an error, never half a picture.
    pub(super) fn read(&self, name: &str, bytes: u64) -> io::Result<Vec<u8>> {
        let wrong =
            || io::Error::new(io::ErrorKind::InvalidData, "a picture file has another size than it was written with");
        let mut data = Vec::with_capacity(usize::try_from(bytes).map_err(|_| wrong())?);
        File::open(self.folder.join(name))?.take(bytes + 1).read_to_end(&mut data)?;
        if data.len() as u64 == bytes { Ok(data) } else { Err(wrong()) }
    }

    pub(super) fn remove(&self, name: &str) {
        if let Err(e) = fs::remove_file(self.folder.join(name))
            && e.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(error = %e, "a picture cannot be removed; it is tried again at the next start");
        }
    }

    /// Removes every file that is not in `known`, half-written ones included, and returns how many.
    pub(super) fn sweep(&self, known: &HashSet<String>) -> io::Result<usize> {
        let mut removed = 0;
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let stray = entry.file_name().to_str().is_none_or(|name| !known.contains(name));
            if stray && entry.file_type()?.is_file() {
                fs::remove_file(entry.path())?;
                removed += 1;
            }
        }
        Ok(removed)
    }
}

/// Creates a folder that only its owner can look into: prompts and pictures are private.
pub(super) fn private_folder(folder: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

fn private_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}
