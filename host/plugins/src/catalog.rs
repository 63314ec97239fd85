//! The search for plugins, the choice among them, and the opening of one.

use crate::{
    PluginError,
    choose::{Candidate, Rank, Seat, version},
    hardware::{self, label},
    isolate::{self, Limits, probe::Cache},
    load::{self, Description, file_name},
    pinned::Pinned,
    precheck, reopen,
    report::{OfferReport, PluginReport, Report, State},
    succession::Origin,
    trust::{self, Trust},
    vetted::vetted,
};
use backend_api::{BackendBox, HostRef, HwDevice, Param};
use std::{
    collections::BTreeSet,
    ffi::OsString,
    path::{Path, PathBuf},
    sync::Arc,
};

/// When a plugin runs in a process of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Isolate {
    /// The CPU plugin that lies beside the program runs in its process, every other in one of its own.
    #[default]
    Auto,
    /// Every plugin runs in a process of its own.
    Always,
    /// Every plugin runs in this process.
    Never,
}

/// Where to look, and how carefully.
#[derive(Debug, Clone, Default)]
pub struct Search {
    /// Folders to look in. When empty: `plugins` beside the program and, in a source tree, the program's own folder; and
    /// `/usr/lib/sd-worker/plugins`.
    pub dirs: Vec<PathBuf>,
    /// Libraries beside those of the folders, wherever they lie and whatever their names are.
    pub files: Vec<PathBuf>,
    /// Who may own the libraries.
    pub trust: Trust,
    /// A list of SHA-256 checksums in the format of `sha256sum`: what it does not list, or lists otherwise, is refused.
    pub manifest: Option<PathBuf>,
    /// When to isolate. Counts only with [`Search::child`].
    pub isolate: Isolate,
    /// The command that runs [`crate::child_main`], to which arguments are appended. `None` = everything in this process.
    pub child: Option<Vec<OsString>>,
    /// How long calls into a child may take.
    pub limits: Limits,
    /// A folder for the answers of earlier probes; `None` = each scan asks anew.
    pub cache: Option<PathBuf>,
    /// The machine; `None` = look.
    pub hardware: Option<Vec<HwDevice>>,
    /// Ask every library in a child, also one that is to run in this process: others work in it by now.
    pub careful: bool,
}

/// A wish for a backend.
#[derive(Debug, Clone, Default)]
pub struct Choice {
    /// A plugin's id, which means the best of the files with this id; or one file: by `x-y` of `libsd_backend_x_y.so`, or by
    /// its path. `None` = the best of all. Plugins for tests are only taken when named.
    pub backend: Option<String>,
    /// Devices: `cpu`, `cuda`, `cuda:1`, a PCI address, an index, a list of these, `gpu` or `all`; `None` = any.
    pub device: Option<String>,
    /// Options for `open`, such as `threads`.
    pub options: Vec<Param>,
}

/// An opened backend.
pub struct Opened {
    /// The plugin's id.
    pub id: String,
    /// The plugin's version.
    pub version: String,
    /// The file's name.
    pub file: String,
    /// The file as it is now, to tell later whether another one should take over.
    pub origin: Origin,
    /// The device's label, such as `cpu` or `cuda:0`.
    pub device: String,
    /// The device as the host sees it.
    pub hardware: HwDevice,
    /// Why this plugin takes this device, in its own words.
    pub why: String,
    /// Whether it runs in a process of its own.
    pub isolated: bool,
    /// Better choices that failed, best first.
    pub failed: Vec<PluginError>,
    /// The device. Everything made from it is to be dropped by the thread that drives it.
    pub backend: BackendBox,
}

/// One file that was found.
pub(crate) struct Entry {
    path: PathBuf,
    /// The file that was looked at; `None` when it cannot be read.
    pub(crate) library: Option<Arc<Pinned>>,
    isolated: bool,
    /// The processor features that it states to need.
    needs: Vec<String>,
    /// What it says about itself.
    pub(crate) outcome: Result<Description, PluginError>,
}

/// Why a file that was checked is not opened.
const REPLACED: &str = "another file was put in its place while it was looked at";

/// What a search found.
pub struct Catalog {
    search: Search,
    hardware: Vec<HwDevice>,
    entries: Vec<Entry>,
}

impl std::fmt::Debug for Catalog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Catalog").field("files", &self.entries.len()).finish_non_exhaustive()
    }
}

impl Catalog {
    /// Looks for plugins and asks each one. Takes some milliseconds per file; never fails, since every file's fault stands
    /// in the report.
    pub fn scan(search: &Search) -> Self {
        Catalog::of(search, files(search))
    }

    /// The same with one library, wherever it lies and whatever its name is.
    pub(crate) fn of_file(search: &Search, file: &Path) -> Self {
        Catalog::of(search, vec![std::fs::canonicalize(file).unwrap_or_else(|_| file.to_owned())])
    }

    fn of(search: &Search, files: Vec<PathBuf>) -> Self {
        let hardware = search.hardware.clone().unwrap_or_else(hardware::hardware);
        let shipped = own_folders();
        let mut cache = Cache::open(search.cache.as_deref());
        let entries: Vec<Entry> = files
            .into_iter()
            .map(|path| {
                let isolated = isolated(search, &path, &shipped);
                let mut needs = Vec::new();
                // Only a plain file is opened: a pipe would wait for a writer.
                let pinned = precheck::check(&path)
                    .map_err(|reason| PluginError::NotALibrary { file: file_name(&path), reason })
                    .and_then(|(file, found)| {
                        needs = found;
                        Pinned::hold(&path, file)
                    });
                let library = pinned.as_ref().ok().cloned();
                let outcome = pinned.and_then(|library| examine(search, &mut cache, &library, &hardware, &needs));
                if let Err(e) = &outcome {
                    tracing::debug!(code = e.code(), "{e}");
                }
                Entry { path, library, isolated, needs, outcome }
            })
            .collect();
        cache.save();
        Catalog { search: search.clone(), hardware, entries }
    }

    /// The machine's devices, in the order that offers refer to.
    pub fn hardware(&self) -> &[HwDevice] {
        &self.hardware
    }

    /// What lies at a path, and its place in the catalogue.
    pub(crate) fn at(&self, path: &Path) -> Option<(usize, &Entry)> {
        self.entries.iter().enumerate().find(|(_, entry)| entry.path == path)
    }

    /// A file's name.
    pub(crate) fn file(&self, entry: usize) -> String {
        self.entries.get(entry).map_or_else(String::new, |entry| file_name(&entry.path))
    }

    /// Whether a plugin is to run in this process, and could run in one of its own.
    pub(crate) fn could_be_apart(&self, entry: usize) -> bool {
        isolate::AVAILABLE && self.search.child.is_some() && self.entries.get(entry).is_some_and(|e| !e.isolated)
    }

    /// What a file says about itself, if it may run.
    pub(crate) fn about(&self, entry: usize) -> Option<&Description> {
        self.entries.get(entry)?.outcome.as_ref().ok()
    }

    /// The files that may run, by place in the catalogue.
    pub(crate) fn usable(&self) -> impl Iterator<Item = (usize, &Description)> {
        self.entries.iter().enumerate().filter_map(|(i, e)| Some((i, e.outcome.as_ref().ok()?)))
    }

    /// The files that a wish for a backend means, by place in the catalogue: those with this id or, when there is none, the
    /// one that is called so or lies there.
    pub(crate) fn named(&self, wish: &str) -> Vec<usize> {
        let with_id: Vec<usize> = self.usable().filter(|(_, about)| about.id == wish).map(|(i, _)| i).collect();
        if !with_id.is_empty() {
            return with_id;
        }
        let path = std::fs::canonicalize(wish).unwrap_or_else(|_| wish.into());
        let called = |e: &Entry| file_wish(&e.path).as_deref() == Some(wish) || (is_path(wish) && e.path == path);
        self.entries.iter().position(called).into_iter().collect()
    }

    /// What `--backend` takes for just this file.
    fn wish_for(&self, entry: usize, about: &Description) -> String {
        let alone = self.usable().filter(|(_, other)| other.id == about.id).count() == 1;
        match file_wish(&self.entries[entry].path).filter(|wish| !alone && *wish != about.id) {
            _ if alone => format!("--backend {} takes it", about.id),
            Some(wish) => format!("--backend {wish} takes it"),
            None => "--backend with its path takes it".to_owned(),
        }
    }

    /// Every file and what became of it under this wish.
    pub fn report(&self, choice: &Choice) -> Report {
        let candidates = self.candidates(choice);
        let chosen: Vec<Candidate> = self.seats(choice).map_or_else(
            |_| Vec::new(),
            |seats| seats.wanted.iter().filter_map(|s| s.candidates.first().copied()).collect(),
        );
        let mut plugins: Vec<PluginReport> =
            (0..self.entries.len()).map(|entry| self.plugin_report(entry, &candidates, &chosen, choice)).collect();
        plugins.sort_by(|a, b| a.state.cmp(&b.state).then_with(|| a.file.cmp(&b.file)));
        Report { hardware: self.hardware.iter().map(Into::into).collect(), plugins }
    }

    fn plugin_report(
        &self,
        entry: usize,
        candidates: &[Candidate],
        chosen: &[Candidate],
        choice: &Choice,
    ) -> PluginReport {
        let Entry { path, isolated, needs, outcome, .. } = &self.entries[entry];
        let mut report = PluginReport {
            file: file_name(path),
            path: path.clone(),
            state: State::Refused,
            reason: String::new(),
            remedy: None,
            code: None,
            id: String::new(),
            vendor: String::new(),
            version: String::new(),
            interface: String::new(),
            test_only: false,
            isolated: *isolated,
            needs: needs.clone(),
            offers: Vec::new(),
        };
        let about = match outcome {
            Ok(about) => about.clone(),
            Err(e) => {
                (report.reason, report.remedy, report.code) = (e.to_string(), Some(e.remedy()), Some(e.code()));
                if matches!(e, PluginError::Unfit { .. }) {
                    report.state = State::Skipped;
                }
                return report;
            }
        };
        let place = candidates.iter().position(|c| c.entry == entry);
        let best = about.offers.iter().max_by_key(|o| o.score);
        (report.state, report.reason, report.remedy) = match (place, best) {
            _ if chosen.iter().any(|c| c.entry == entry) => {
                let claims = || chosen.iter().filter(|c| c.entry == entry).map(|c| &about.offers[c.claim]);
                let devices: Vec<&str> = claims().map(|c| c.device.as_str()).collect();
                let why = claims().next().map_or("", |c| c.why.as_str());
                (State::Chosen, format!("{}: {why}", devices.join(", ")), None)
            }
            (Some(place), _) => {
                let claim = &about.offers[candidates[place].claim];
                let reason = format!("{}: {} (tried if {} better fail)", claim.device, claim.why, place);
                (State::Available, reason, Some(self.wish_for(entry, &about)))
            }
            (None, _) if about.test_only && choice.backend.is_none() => {
                (State::Skipped, "for tests only".to_owned(), Some(self.wish_for(entry, &about)))
            }
            (None, Some(best)) if best.score == 0 => {
                (State::Skipped, best.why.clone(), Some(best.remedy.clone()).filter(|remedy| !remedy.is_empty()))
            }
            (None, Some(_)) => (State::Skipped, "another backend or device was asked for".to_owned(), None),
            (None, None) => (State::Skipped, "it knows none of this machine's devices".to_owned(), None),
        };
        let offer = |claim: &load::Claim| OfferReport {
            device: claim.device.clone(),
            score: claim.score,
            why: claim.why.clone(),
        };
        report.offers = about.offers.iter().map(offer).collect();
        (report.id, report.vendor, report.version) = (about.id, about.vendor, about.version);
        (report.interface, report.test_only) = (about.interface, about.test_only);
        report
    }

    /// Opens the best plugin that fits, or the next best when that one fails. Call it on the thread that will drive the
    /// device. `host` makes the services for a plugin's id, such as [`crate::tracing_host`].
    pub fn open(&self, choice: &Choice, host: &dyn Fn(&str) -> HostRef) -> Result<Opened, PluginError> {
        let seat = Seat { device: String::new(), candidates: self.candidates(choice) };
        self.open_seat(&seat, choice, host).map_err(|failed| self.nothing(choice, failed))
    }

    /// The same for one of [`Catalog::seats`]. The error is that of every plugin that was tried.
    pub fn open_seat(
        &self,
        seat: &Seat,
        choice: &Choice,
        host: &dyn Fn(&str) -> HostRef,
    ) -> Result<Opened, Vec<PluginError>> {
        let (candidates, mut failed) = (&seat.candidates, Vec::new());
        for (tried, candidate) in candidates.iter().enumerate() {
            match self.open_one(*candidate, choice, host, false) {
                Ok(opened) => return Ok(Opened { failed, ..opened }),
                Err(e) => {
                    let next = if tried + 1 < candidates.len() { "; trying the next one" } else { "" };
                    tracing::warn!(code = e.code(), "{e}{next}");
                    failed.push(e);
                }
            }
        }
        Err(failed)
    }

    /// The best plugin that fits: its file, its device, its reason.
    pub(crate) fn best(&self, choice: &Choice) -> Result<(&Path, &HwDevice, &str), PluginError> {
        let candidate = self.candidates(choice).into_iter().next().ok_or_else(|| self.nothing(choice, Vec::new()))?;
        let entry = &self.entries[candidate.entry];
        let about = entry.outcome.as_ref().map_err(Clone::clone)?;
        let claim = &about.offers[candidate.claim];
        Ok((&entry.path, &self.hardware[claim.hardware], &claim.why))
    }

    /// Opens one plugin, `apart` in a process of its own wherever it belongs.
    pub(crate) fn open_one(
        &self,
        candidate: Candidate,
        choice: &Choice,
        host: &dyn Fn(&str) -> HostRef,
        apart: bool,
    ) -> Result<Opened, PluginError> {
        let entry = &self.entries[candidate.entry];
        let about = entry.outcome.as_ref().map_err(Clone::clone)?;
        let claim = &about.offers[candidate.claim];
        let replaced = || trust::untrusted(&entry.path, REPLACED.to_owned(), "look for plugins again".to_owned());
        let library = entry.library.clone().ok_or_else(replaced)?;
        let isolated = entry.isolated || apart;
        let hardware = &self.hardware[claim.hardware];
        let services = host(&about.id);
        let mut options = choice.options.clone();
        options.extend(claim.part.as_ref().map(|part| Param::new("part", part)));
        let backend = match &self.search.child {
            Some(command) if isolated => isolate::open(isolate::Spec {
                command: command.clone(),
                library: library.clone(),
                device: hardware.clone(),
                options,
                host: services,
                limits: self.search.limits,
            }),
            _ if !library.in_place() => return Err(replaced()),
            _ => reopen::open(load::open(&entry.path)?, hardware.clone(), options, services),
        };
        let device = claim.device.clone();
        let backend = backend.map_err(|error| PluginError::Open {
            file: file_name(&entry.path),
            id: about.id.clone(),
            device: device.clone(),
            error: Box::new(backend_api::AbiError {
                message: crate::error::clean(&error.message, 500).into(),
                detail: crate::error::clean(&error.detail, 4000).into(),
                ..error
            }),
        })?;
        Ok(Opened {
            id: about.id.clone(),
            version: about.version.clone(),
            file: file_name(&entry.path),
            origin: Origin { library, id: about.id.clone(), rank: Rank(claim.score, version(&about.version)) },
            device,
            hardware: hardware.clone(),
            why: claim.why.clone(),
            isolated,
            failed: Vec::new(),
            backend: vetted(backend),
        })
    }

    /// The one error for a wish after these failures, if any; it says what there is instead.
    pub fn nothing(&self, choice: &Choice, mut failed: Vec<PluginError>) -> PluginError {
        if failed.len() == 1 {
            return failed.remove(0);
        }
        if !failed.is_empty() {
            let reasons: Vec<String> = failed.iter().map(ToString::to_string).collect();
            let remedy = failed[0].remedy();
            return PluginError::NoChoice { reason: format!("every backend failed: {}", reasons.join("; ")), remedy };
        }
        let named = choice.backend.as_deref().map(|wish| self.named(wish)).unwrap_or_default();
        // The one file that was meant may not run: its own reason is the answer.
        if let [entry] = named[..]
            && let Err(e) = &self.entries[entry].outcome
        {
            return e.clone();
        }
        let usable = || self.entries.iter().filter_map(|e| e.outcome.as_ref().ok());
        let ids: BTreeSet<&str> = usable().filter(|a| !a.test_only).map(|a| a.id.as_str()).collect();
        let devices: Vec<&str> = self.hardware.iter().map(label).collect();
        let list = |names: Vec<&str>| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        let (reason, remedy) = match (&choice.backend, &choice.device) {
            (Some(id), _) if named.is_empty() => (
                format!(
                    "there is no backend `{}`; found: {}",
                    crate::error::clean(id, 40),
                    list(ids.into_iter().collect())
                ),
                "`sd-worker backend list` shows every file and why it is refused",
            ),
            (_, Some(device)) => (
                format!(
                    "no backend offers device `{}`; this machine has: {}",
                    crate::error::clean(device, 40),
                    list(devices)
                ),
                "`sd-worker backend list` shows what each backend offers",
            ),
            (Some(id), None) => {
                (format!("backend `{id}` offers no device of this machine"), "`sd-worker backend list` says why")
            }
            (None, None) if self.entries.is_empty() => (
                "no backend plugin was found".to_owned(),
                "build one (cargo build --release -p sd-backend-candle-cpu), or name its folder with --plugin-dir",
            ),
            (None, None) => (
                "no backend plugin fits this machine".to_owned(),
                "`sd-worker backend list` shows every file and why it is skipped or refused",
            ),
        };
        PluginError::NoChoice { reason, remedy: remedy.to_owned() }
    }
}

/// Checks a file and asks it what it is: in a child, when there is a command for one. One that `needs` another processor
/// is not asked, since it would die by its first instruction that this one does not know.
fn examine(
    search: &Search,
    cache: &mut Cache,
    library: &Pinned,
    hardware: &[HwDevice],
    needs: &[String],
) -> Result<Description, PluginError> {
    let path = library.path();
    trust::check(path, search.trust, search.manifest.as_deref())?;
    let lacks = hardware::lacking(needs, hardware);
    if !lacks.is_empty() {
        return Err(PluginError::Unfit { file: file_name(path), lacks });
    }
    match &search.child {
        Some(command) if search.isolate != Isolate::Never || search.careful => {
            cache.get(path, hardware, || isolate::probe::probe(command, library, hardware, search.limits))
        }
        _ => load::describe(load::open(path)?, path, hardware),
    }
    .and_then(|about| {
        let same = library.in_place();
        let replaced = || trust::untrusted(path, REPLACED.to_owned(), "look for plugins again".to_owned());
        same.then_some(about).ok_or_else(replaced)
    })
}

/// The program's own folder and the `plugins` folder in it, canonical.
fn own_folders() -> Vec<PathBuf> {
    let exe = std::env::current_exe().and_then(std::fs::canonicalize).ok();
    let Some(folder) = exe.as_deref().and_then(Path::parent) else { return Vec::new() };
    vec![folder.join("plugins"), folder.to_owned()]
}

/// Whether a plugin is to run in a process of its own.
fn isolated(search: &Search, path: &Path, shipped: &[PathBuf]) -> bool {
    let ours = || {
        path.parent().is_some_and(|folder| shipped.iter().any(|s| s == folder))
            && stem(path).is_some_and(|s| s.starts_with("candle_cpu"))
    };
    isolate::AVAILABLE
        && search.child.is_some()
        && match search.isolate {
            Isolate::Always => true,
            Isolate::Never => false,
            Isolate::Auto => !ours(),
        }
}

/// `x` of `libsd_backend_x.so` and its like on other systems.
fn stem(path: &Path) -> Option<&str> {
    let name = path.file_name()?.to_str()?;
    let name = name.strip_suffix(std::env::consts::DLL_SUFFIX)?.strip_prefix(std::env::consts::DLL_PREFIX)?;
    name.strip_prefix("sd_backend_")
}

/// What `--backend` takes for a file: `x-y` for `libsd_backend_x_y.so`.
fn file_wish(path: &Path) -> Option<String> {
    stem(path).map(|stem| stem.replace('_', "-"))
}

/// Whether a wish for a backend is the path of a library.
pub fn is_path(wish: &str) -> bool {
    wish.contains(std::path::MAIN_SEPARATOR) || wish.ends_with(std::env::consts::DLL_SUFFIX)
}

/// The libraries in the folders of a search, canonical and each once. The working directory is never searched.
fn files(search: &Search) -> Vec<PathBuf> {
    let mut dirs = search.dirs.clone();
    if dirs.is_empty() {
        let own = own_folders();
        // Cargo's mark of a build folder: only there do libraries lie beside the program itself.
        let source_tree = |dir: &&PathBuf| dir.ends_with("plugins") || dir.join(".fingerprint").is_dir();
        dirs.extend(own.iter().filter(source_tree).cloned());
        dirs.push(PathBuf::from("/usr/lib/sd-worker/plugins"));
    }
    let mut found: Vec<PathBuf> = Vec::new();
    for dir in dirs {
        let entries = match std::fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(e) if search.dirs.is_empty() && e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => {
                tracing::warn!("the plugin folder {} cannot be read: {}", dir.display(), e.kind());
                continue;
            }
        };
        let mut names: Vec<PathBuf> = entries.flatten().map(|e| e.path()).filter(|p| stem(p).is_some()).collect();
        names.sort();
        for path in names {
            // A dangling link stays as it is, so that the report can name it.
            let path = std::fs::canonicalize(&path).unwrap_or(path);
            if !found.contains(&path) {
                found.push(path);
            }
        }
    }
    for path in &search.files {
        let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.clone());
        if !found.contains(&path) {
            found.push(path);
        }
    }
    found
}
