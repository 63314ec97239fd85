//! Opening a library and asking it what it is.

use crate::{PluginError, error::clean, hardware::label};
use backend_api::{
    ENTRY_SYMBOL, HwDevice, Plugin_Ref,
    abi_stable::{
        StableAbi,
        abi_stability::abi_checking::{AbiInstabilityErrors, check_layout_compatibility},
        library::{AbiHeaderRef, LibHeader, LibraryError, RootModule},
        type_layout::TLFieldOrFunction,
    },
    find,
};
use serde::{Deserialize, Serialize};
use std::path::Path;
#[cfg(unix)]
use {
    crate::pinned::Stamp,
    std::{
        path::PathBuf,
        sync::{Mutex, PoisonError},
    },
};

/// What a library says about itself, cleaned for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Description {
    /// The plugin's id.
    pub(crate) id: String,
    /// Who ships it.
    pub(crate) vendor: String,
    /// Its version.
    pub(crate) version: String,
    /// Whether it is only for tests.
    pub(crate) test_only: bool,
    /// The version of the interface that it was built against.
    pub(crate) interface: String,
    /// Its offers.
    pub(crate) offers: Vec<Claim>,
}

/// An offer for a device of the list that `probe` was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claim {
    /// The device: an index into the list.
    pub(crate) hardware: usize,
    /// Its label.
    pub(crate) device: String,
    /// 0 = cannot.
    pub(crate) score: u32,
    /// Why.
    pub(crate) why: String,
    /// What helps, with score 0; may be empty.
    #[serde(default)]
    pub(crate) remedy: String,
    /// The part of the device, where a plugin offers one as several, such as a processor's memory nodes. The plugin
    /// finds it in the options of `open`.
    #[serde(default)]
    pub(crate) part: Option<String>,
}

/// The version of the interface that this program was built against.
fn our_interface() -> &'static str {
    <Plugin_Ref as RootModule>::VERSION_STRINGS.version.as_str()
}

/// The highest score that is believed.
const MAX_SCORE: u32 = 100_000;

/// A file's name without its folder.
pub(crate) fn file_name(path: &Path) -> String {
    clean(path.file_name().unwrap_or(path.as_os_str()).to_string_lossy(), 200)
}

/// An opened library.
#[derive(Clone, Copy)]
pub(crate) struct Library {
    pub(crate) module: Plugin_Ref,
    interface: &'static str,
}

/// Opens a library that was checked, for ever. `path` is canonical: a bare name would be searched in system folders.
pub(crate) fn open(path: &Path) -> Result<Library, PluginError> {
    let file = file_name(path);
    let header = header(path, &file)?;
    let header: &'static LibHeader = header.upgrade().map_err(|e| match e {
        LibraryError::InvalidAbiHeader(found) => PluginError::Interface {
            file: file.clone(),
            reason: format!("it uses abi_stable {}.{}", found.abi_major, found.abi_minor),
        },
        other => PluginError::Interface { file: file.clone(), reason: clean(other, 300) },
    })?;
    let interface = header.version_strings().version.as_str();
    let mismatch = |reason: String| PluginError::Interface { file: file.clone(), reason };
    let theirs = header.layout().ok_or_else(|| mismatch("it carries no description of its layout".to_owned()))?;
    let ours = <Plugin_Ref as StableAbi>::LAYOUT;
    // abi_stable accepts a library that knows more than we do. The check the other way round accepts one that knows
    // less: all that it knows is then a prefix of what we know, and both the module's accessors and the trait objects
    // fall back to default bodies for the rest.
    if let Err(first) = check_layout_compatibility(ours, theirs) {
        check_layout_compatibility(theirs, ours).map_err(|_| {
            mismatch(format!("interface {interface}, ours is {}; {}", our_interface(), one_line(&first)))
        })?;
    }
    // SAFETY: the layouts were compared above, in one direction or the other.
    let module = unsafe { header.init_root_module_with_unchecked_layout::<Plugin_Ref>() }.map_err(|e| match e {
        LibraryError::IncompatibleVersionNumber { expected_version, actual_version, .. } => {
            mismatch(format!("interface {actual_version}, ours is {expected_version}"))
        }
        other => mismatch(clean(other, 300)),
    })?;
    Ok(Library { module, interface })
}

/// Asks an opened library what it is and what it offers.
pub(crate) fn describe(library: Library, path: &Path, hardware: &[HwDevice]) -> Result<Description, PluginError> {
    let file = file_name(path);
    let info = (library.module.info())();
    let id = info.id.as_str();
    let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if id.is_empty() || id.len() > 32 || !id.bytes().all(letter) {
        let reason = format!("its id `{}` is not made of 1 to 32 of a-z, 0-9 and -", clean(id, 40));
        return Err(PluginError::Misbehaved { file, reason });
    }
    let offers = (library.module.probe())(hardware.into());
    let offers = offers.iter().filter_map(|offer| {
        let index = offer.hw_index as usize;
        // An offer for a device that is not in the list is no offer.
        let device = hardware.get(index)?;
        let part = find(&offer.params, "part").map(|p| clean(p, 16)).filter(|p| p.bytes().all(letter));
        Some(Claim {
            hardware: index,
            device: part.as_ref().map_or_else(|| label(device).to_owned(), |p| format!("{}:{p}", label(device))),
            part,
            score: offer.score.min(MAX_SCORE),
            why: clean(&offer.why, 300),
            remedy: find(&offer.params, "remedy").map_or_else(String::new, |remedy| clean(remedy, 300)),
        })
    });
    Ok(Description {
        id: id.to_owned(),
        vendor: clean(&info.vendor, 80),
        version: clean(&info.version, 40),
        test_only: find(&info.params, "test_only") == Some("1"),
        interface: clean(library.interface, 20),
        offers: offers.take(1024).collect(),
    })
}

/// One line for a list that abi_stable prints on hundreds: the place and the kind of each difference.
fn one_line(errors: &AbiInstabilityErrors) -> String {
    let mut lines: Vec<String> = Vec::new();
    for error in errors.errors.iter() {
        let place = error.stack_trace.iter().map(|step| match step.found {
            TLFieldOrFunction::Field(field) => field.name(),
            TLFieldOrFunction::Function(function) => function.name.as_str(),
        });
        let place = place.collect::<Vec<_>>().join(".");
        for kind in error.errs.iter() {
            let kind = format!("{kind:?}");
            lines.push(format!("{place}: {}", kind.split(['(', '{']).next().unwrap_or_default().trim()));
        }
    }
    lines.dedup();
    let more = lines.len().saturating_sub(3);
    lines.truncate(3);
    let tail = if more > 0 { format!("; and {more} more") } else { String::new() };
    clean(format!("{}{tail}", lines.join("; ")), 400)
}

/// The libraries that are open, by path and file.
#[cfg(unix)]
static OPEN: Mutex<Vec<(PathBuf, Stamp)>> = Mutex::new(Vec::new());

/// A spelling of the path that the loader does not take for another file which lay there before and is open still:
/// loaders compare names before they look at files, and a library once opened is never closed.
#[cfg(unix)]
fn spelled(path: &Path, stamp: Stamp, file: &str) -> Result<PathBuf, PluginError> {
    let open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    let before: Vec<Stamp> = open.iter().filter(|(known, _)| known == path).map(|(_, stamp)| *stamp).collect();
    if before.iter().any(|other| other.inode == stamp.inode && other.content != stamp.content) {
        return Err(PluginError::Untrusted {
            file: file.to_owned(),
            reason: "it was written over in place while it was in use".to_owned(),
            remedy: "put the new file there by renaming, never in place, and restart the worker".to_owned(),
        });
    }
    let dots = before.iter().position(|other| *other == stamp).unwrap_or(before.len());
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return Ok(path.to_owned()) };
    // `folder/./name` is the same place, so that `$ORIGIN` stays what it is. Kept as text: joining leaves the dot out.
    let mut text = folder.as_os_str().to_owned();
    (0..dots).for_each(|_| text.push("/."));
    text.push("/");
    text.push(name);
    Ok(text.into())
}

/// Remembers that a library is open.
#[cfg(unix)]
fn opened(path: &Path, stamp: Stamp) {
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    if !open.iter().any(|(known, other)| known == path && *other == stamp) {
        open.push((path.to_owned(), stamp));
    }
}

#[cfg(unix)]
fn header(path: &Path, file: &str) -> Result<AbiHeaderRef, PluginError> {
    use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
    let stamp = Stamp::at(path).map_err(|e| PluginError::NotALibrary {
        file: file.to_owned(),
        reason: format!("cannot be read: {}", e.kind()),
    })?;
    let name = spelled(path, stamp, file)?;
    let loader = |e: libloading::Error| PluginError::Loader { file: file.to_owned(), reason: loader_words(&e, path) };
    // SAFETY: opening runs the library's constructors. The file was found whole, ours to trust, and exporting our entry
    // symbol; what a hostile constructor does is contained by probing in a child process.
    let library = unsafe { Library::open(Some(&name), RTLD_NOW | RTLD_LOCAL) }.map_err(loader)?;
    opened(path, stamp);
    // SAFETY: the symbol is a static `LibHeader`, whose first field is the header that this reference points to; its
    // magic is compared before anything else is read.
    let header = unsafe { library.get::<AbiHeaderRef>(ENTRY_SYMBOL) }.map(|symbol| *symbol).map_err(loader);
    // Never closed: threads, thread locals and statics of the library may live as long as the process.
    std::mem::forget(library);
    header
}

#[cfg(not(unix))]
fn header(path: &Path, file: &str) -> Result<AbiHeaderRef, PluginError> {
    let loader = |e: libloading::Error| PluginError::Loader { file: file.to_owned(), reason: loader_words(&e, path) };
    // SAFETY: as in the Unix version.
    let library = unsafe { libloading::Library::new(path) }.map_err(loader)?;
    // SAFETY: as in the Unix version.
    let header = unsafe { library.get::<AbiHeaderRef>(ENTRY_SYMBOL) }.map(|symbol| *symbol).map_err(loader);
    std::mem::forget(library);
    header
}

/// The loader's words without the folder of the library.
fn loader_words(error: &libloading::Error, path: &Path) -> String {
    use std::error::Error;
    let words = error.source().map_or_else(|| error.to_string(), |inner| inner.to_string());
    let folder = path.parent().map(|p| format!("{}/", p.display())).unwrap_or_default();
    clean(if folder.len() > 1 { words.replace(&folder, "") } else { words }, 300)
}
