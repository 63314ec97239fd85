//! The devices that a worker opens: each on a thread of its own, each with the best plugin that works there.

use crate::{
    app::{Settings, scan},
    backends::{Plugins, Serving},
    engine::{Device, Tag},
    fault::Fault,
};
use backend_api::HwKind;
use sd_plugins::{Catalog, Choice, Opened, Origin, PluginError, Report, Seat, tracing_host};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// Jobs that one GPU runs at the same time, when nothing else is said.
const GPU_LANES: usize = 4;
/// What the lanes wait longer than the watchdog of an isolated plugin: for its end, and a new start.
const BEHIND: Duration = Duration::from_secs(60);

/// What a device's thread says about what it opened.
pub(crate) struct About {
    gpu: bool,
    isolated: bool,
    /// The plugin's reason.
    pub(crate) why: String,
    /// The file.
    pub(crate) origin: Origin,
}

/// What a worker starts with.
pub(crate) struct Start {
    /// The devices, with the number of lanes of each.
    pub(crate) devices: Vec<(Device, usize)>,
    /// The plugins behind them.
    pub(crate) plugins: Plugins,
}

impl Start {
    /// No device at all.
    pub(crate) fn nothing(settings: &Settings) -> Start {
        let report = Report { hardware: Vec::new(), plugins: Vec::new() };
        Start { devices: Vec::new(), plugins: Plugins::new(settings, report, Vec::new()) }
    }
}

/// Opens the chosen devices, with the number of lanes of each. A device that does not open is said and left out; when none
/// does, and none was named, what is left is tried: the processor instead of GPUs.
pub(crate) fn open_devices(settings: &Settings) -> Result<Start, Fault> {
    let (catalog, choice) = scan(&settings.backends, Some(settings.call_limit));
    let mut report = catalog.report(&choice);
    let seats = catalog.seats(&choice)?;
    let catalog = Arc::new(catalog);
    let (mut opened, mut failed) = (Vec::new(), Vec::new());
    for seat in seats.wanted {
        opened.extend(open(&catalog, &choice, seat, settings, &mut failed)?);
    }
    if let (true, Some(rest)) = (opened.is_empty(), seats.rest) {
        opened.extend(open(&catalog, &choice, rest, settings, &mut failed)?);
    }
    failed.iter().for_each(|error| report.note_failure(error));
    if opened.is_empty() {
        return Err(catalog.nothing(&choice, failed).into());
    }
    let serving: Vec<Serving> = opened.iter().map(|(device, about)| Serving::new(device, about)).collect();
    let lanes = |about: &About| settings.lanes.unwrap_or(if about.gpu { GPU_LANES } else { 1 });
    let devices = opened.into_iter().map(|(device, about)| (device, lanes(&about))).collect();
    let plugins = Plugins::new(settings, report, serving);
    plugins.found(&catalog, &choice);
    Ok(Start { devices, plugins })
}

/// Opens one device, if a plugin works there.
fn open(
    catalog: &Arc<Catalog>,
    choice: &Choice,
    seat: Seat,
    settings: &Settings,
    failed: &mut Vec<PluginError>,
) -> Result<Option<(Device, About)>, Fault> {
    let (catalog, choice, label) = (catalog.clone(), choice.clone(), seat.device.clone());
    let (started, errors) =
        on_thread(settings.call_limit, move || catalog.open_seat(&seat, &choice, &|id| tracing_host(id)));
    let nothing_opened = !errors.is_empty();
    failed.extend(errors);
    match started {
        Ok(opened) => Ok(Some(opened)),
        Err(_) if nothing_opened => {
            tracing::warn!(device = label, "no backend works on this device; it is left out");
            Ok(None)
        }
        Err(fault) => Err(fault),
    }
}

/// Opens a device on a thread of its own, on which the whole life of the backend is. Answers also what was tried before
/// in vain.
pub(crate) fn on_thread(
    call_limit: Duration,
    open: impl FnOnce() -> Result<Opened, Vec<PluginError>> + Send + 'static,
) -> (Result<(Device, About), Fault>, Vec<PluginError>) {
    let failures = Arc::new(Mutex::new(Vec::new()));
    let noted = failures.clone();
    let started = Device::start(call_limit, move || {
        let note = |errors| *noted.lock().unwrap_or_else(PoisonError::into_inner) = errors;
        let opened = match open() {
            Ok(opened) => opened,
            Err(errors) => {
                note(errors);
                return Err(Fault::internal("no plugin opened"));
            }
        };
        tracing::info!(
            backend = opened.id,
            version = opened.version,
            device = opened.device,
            why = opened.why,
            isolated = opened.isolated,
            "backend opened"
        );
        note(opened.failed);
        let about = About {
            gpu: opened.hardware.kind == HwKind::GPU,
            isolated: opened.isolated,
            why: opened.why,
            origin: opened.origin,
        };
        let tag = Tag {
            device: opened.device.into(),
            backend: opened.id.into(),
            version: opened.version.into(),
            file: opened.file.into(),
        };
        Ok((opened.backend, tag, about))
    });
    let errors = std::mem::take(&mut *failures.lock().unwrap_or_else(PoisonError::into_inner));
    let started = started.map(|(device, about)| {
        // A process of its own has a watchdog, which knows progress from silence; the lanes' own limit only stands behind.
        let limit = if about.isolated { call_limit * 4 + BEHIND } else { call_limit };
        (device.with_call_limit(limit), about)
    });
    (started, errors)
}
