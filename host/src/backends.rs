//! The plugins of a running worker: what was found, what serves which device, and what is left for models that it cannot
//! load.

use crate::{
    app::Settings,
    config::BackendArgs,
    devices::{About, on_thread},
    engine::{Device, Spare},
};
use sd_plugins::{Catalog, Choice, Heir, Origin, Report, tracing_host};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// A device and the plugin that serves it.
#[derive(Debug, Clone)]
pub(crate) struct Serving {
    /// A label such as `cpu` or `cuda:0`.
    pub(crate) device: String,
    /// The plugin's id.
    pub(crate) backend: String,
    /// Its version.
    pub(crate) version: String,
    /// Its reason for taking the device.
    why: String,
    /// Its file.
    pub(crate) origin: Origin,
    /// Why what lies in the file's place by now does not serve.
    pub(crate) stale: Option<String>,
}

impl Serving {
    pub(crate) fn new(device: &Device, about: &About) -> Serving {
        Serving {
            device: device.tag.device.to_string(),
            backend: device.tag.backend.to_string(),
            version: device.tag.version.to_string(),
            why: about.why.clone(),
            origin: about.origin.clone(),
            stale: None,
        }
    }
}

/// What was found, and what serves.
#[derive(Debug)]
pub struct Plugins {
    pub(crate) args: BackendArgs,
    pub(crate) call_limit: Duration,
    report: Mutex<Arc<Report>>,
    catalog: Mutex<Option<(Arc<Catalog>, Choice)>>,
    /// Locked while plugins are looked for again.
    pub(crate) serving: Mutex<Vec<Serving>>,
}

impl Plugins {
    pub(crate) fn new(settings: &Settings, report: Report, serving: Vec<Serving>) -> Plugins {
        let plugins = Plugins {
            args: settings.backends.clone(),
            call_limit: settings.call_limit,
            report: Mutex::new(Arc::new(Report { hardware: Vec::new(), plugins: Vec::new() })),
            catalog: Mutex::default(),
            serving: Mutex::default(),
        };
        plugins.show(report, &serving);
        Plugins { serving: Mutex::new(serving), ..plugins }
    }

    /// Takes further plugins from here from now on.
    pub(crate) fn found(&self, catalog: &Arc<Catalog>, choice: &Choice) {
        *self.catalog.lock().unwrap_or_else(PoisonError::into_inner) = Some((catalog.clone(), choice.clone()));
    }

    /// The plugins that offer a device, without those from these files.
    fn others(&self, device: &str, used: &[String]) -> Option<(Arc<Catalog>, Choice, Vec<Heir>)> {
        let (catalog, choice) = self.catalog.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        let others = catalog.others(&choice, device, used);
        Some((catalog, choice, others))
    }

    /// Every plugin found, and what became of it.
    pub fn report(&self) -> Arc<Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Shows another report from now on, with what serves in it.
    pub(crate) fn show(&self, mut report: Report, serving: &[Serving]) {
        for one in serving {
            let same = serving.iter().filter(|other| other.origin.path() == one.origin.path());
            let labels: Vec<String> = same.map(|other| other.device.clone()).collect();
            match &one.stale {
                None => report.note_opened(&one.origin.file(), &labels, &one.why),
                Some(why) => report.note_stale(&one.origin.file(), &labels, &one.version, why),
            }
        }
        let idle = |file: &str| !serving.iter().any(|one| one.origin.file() == file);
        report.note_unopened(idle);
        *self.report.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(report);
    }
}

impl Spare for Plugins {
    fn any(&self, device: &str, used: &[String]) -> bool {
        self.others(device, used).is_some_and(|(_, _, others)| !others.is_empty())
    }

    fn open(&self, device: &str, used: &[String]) -> Option<Device> {
        let (catalog, choice, others) = self.others(device, used)?;
        others.into_iter().find_map(|other| {
            let (catalog, choice) = (catalog.clone(), choice.clone());
            // What does not open is said in the log there.
            let open = move || catalog.open_seat(&other.seat, &choice, &|id| tracing_host(id));
            on_thread(self.call_limit, open).0.ok().map(|(device, _)| device)
        })
    }
}
