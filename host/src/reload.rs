//! Another version of a plugin takes over while the worker runs.
//!
//! ```text
//! look again ─► who should serve each device now? ─► open it beside ─► draw a picture ─► new jobs go there
//!                      nobody else: unchanged              └─ fails: the present one serves on, and the answer says why
//! ```
//!
//! A plugin that is to run in the worker's own process is tried in one of its own before, where the system can: what
//! ends a process must not end the worker.

use crate::{
    api,
    app::{App, rescan},
    backends::Serving,
    devices::{About, on_thread},
    engine::{Device, Newcomer, Passed},
    fault::{Fault, FaultCode},
    jobs::{Job, JobSpec, Origin},
};
use sd_plugins::{Catalog, Choice, Heir, PluginError, Standing, tracing_host};
use serde::Serialize;
use serde_json::{Value, json};
use std::sync::{Arc, TryLockError};

/// What helps against a plugin that failed its trial.
const REMEDY: &str = "put the earlier file back or a mended one in its place, by renaming, and reload; tell its vendor";

/// What became of a device when plugins were looked for again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Taken {
    /// Nothing else should serve it.
    Unchanged,
    /// Another plugin, or another version, serves it now.
    Switched,
    /// What served it goes on, since nothing else is fit.
    Kept,
}

/// A plugin that is not fit to take over.
#[derive(Debug, Clone, Serialize)]
pub struct Unfit {
    /// The file's name.
    pub file: String,
    /// The plugin's id; empty when it could not be asked.
    pub backend: String,
    /// Its version.
    pub version: String,
    /// A stable code.
    pub code: &'static str,
    /// Why.
    pub reason: String,
    /// What helps.
    pub remedy: String,
}

/// What became of one device.
#[derive(Debug, Clone, Serialize)]
pub struct Change {
    /// A label such as `cpu` or `cuda:0`.
    pub device: String,
    /// What became of it.
    pub outcome: Taken,
    /// The plugin that serves it now.
    pub backend: String,
    /// Its version.
    pub version: String,
    /// The name of the file that it was opened from.
    pub file: String,
    /// One sentence for people.
    pub reason: String,
    /// What should have taken over and is not fit, best first.
    pub unfit: Vec<Unfit>,
}

/// Why a plugin did not take over.
struct Trouble {
    code: &'static str,
    reason: String,
    remedy: String,
}

impl Trouble {
    /// The trouble of a file.
    fn of(self, file: String, backend: String, version: String) -> Unfit {
        Unfit { file, backend, version, code: self.code, reason: self.reason, remedy: self.remedy }
    }
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Self {
        Trouble { code: fault.code.as_str(), reason: fault.message, remedy: REMEDY.to_owned() }
    }
}

impl From<&PluginError> for Trouble {
    fn from(error: &PluginError) -> Self {
        Trouble { code: error.code(), reason: error.to_string(), remedy: error.remedy() }
    }
}

impl App {
    /// Looks for plugins again. A device whose plugin is another version by now, or for which there is a better one, gets
    /// it: opened and tried beside the one that serves, which goes on when the trial fails. Jobs do not notice. Blocks as
    /// long as the trials take.
    pub fn reload_backends(&self) -> Result<Vec<Change>, Fault> {
        if self.shutdown.is_draining() {
            return Err(Fault::new(FaultCode::Draining, "the worker is shutting down"));
        }
        let mut serving = match self.plugins.serving.try_lock() {
            Ok(serving) => serving,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                let text = "plugins are being looked for already; ask again when that is done";
                return Err(Fault::new(FaultCode::Conflict, text));
            }
        };
        let (catalog, choice) = rescan(&self.plugins.args, self.plugins.call_limit);
        let catalog = Arc::new(catalog);
        let mut report = catalog.report(&choice);
        let changes: Vec<Change> = serving.iter_mut().map(|one| self.renew(&catalog, &choice, one)).collect();
        for unfit in changes.iter().flat_map(|change| &change.unfit) {
            report.note_unfit(&unfit.file, &unfit.reason, &unfit.remedy, unfit.code);
        }
        self.plugins.found(&catalog, &choice);
        self.plugins.show(report, &serving);
        // What is mended by now may load what it could not.
        self.engine.forget_stand_ins();
        if changes.iter().any(|change| change.outcome == Taken::Switched) {
            self.start_again();
        }
        Ok(changes)
    }

    /// Finds out who should serve a device, and lets it.
    fn renew(&self, catalog: &Arc<Catalog>, choice: &Choice, one: &mut Serving) -> Change {
        let succession = catalog.succession(choice, &one.device, &one.origin);
        let mut unfit = Vec::new();
        for heir in &succession.heirs {
            match self.succeed(catalog, choice, heir) {
                Ok((serving, how)) => {
                    let reason = format!(
                        "{} {} took over from {} {}; {how}",
                        serving.backend, serving.version, one.backend, one.version
                    );
                    tracing::info!(device = one.device, "{reason}");
                    *one = serving;
                    return change(one, Taken::Switched, reason, unfit);
                }
                Err(trouble) => unfit.push(trouble.of(heir.file.clone(), heir.id.clone(), heir.version.clone())),
            }
        }
        let in_its_place = match &succession.standing {
            Standing::Refused(error) => Some(Trouble::from(error)),
            Standing::Silent(why) => Some(Trouble {
                code: "no_backend",
                reason: why.clone(),
                remedy: "put a file there that offers this device, and reload".to_owned(),
            }),
            Standing::Same | Standing::Changed | Standing::Gone => None,
        };
        unfit.extend(in_its_place.map(|trouble| trouble.of(one.origin.file(), String::new(), String::new())));
        let (outcome, reason) = match &succession.standing {
            Standing::Same if unfit.is_empty() => (Taken::Unchanged, "the plugin's file is as it was"),
            Standing::Same => (Taken::Kept, "what is better is not fit"),
            Standing::Changed => (Taken::Kept, "what lies in the place of its file is not fit"),
            Standing::Gone => (Taken::Kept, "its file is gone; the plugin serves on until the worker ends"),
            Standing::Refused(_) => (Taken::Kept, "what lies in the place of its file may not run"),
            Standing::Silent(_) => (Taken::Kept, "what lies in the place of its file does not offer this device"),
        };
        let own = unfit.iter().find(|u| u.file == one.origin.file()).map(|u| u.reason.clone());
        one.stale = if matches!(succession.standing, Standing::Same) {
            None
        } else {
            Some(own.unwrap_or_else(|| reason.to_owned()))
        };
        for u in &unfit {
            tracing::warn!(
                device = one.device,
                file = u.file,
                code = u.code,
                "a plugin does not take over: {}",
                u.reason
            );
        }
        change(one, outcome, reason.to_owned(), unfit)
    }

    /// Opens a plugin, tries it, and puts it in its place. Answers also how it was tried.
    fn succeed(
        &self,
        catalog: &Arc<Catalog>,
        choice: &Choice,
        heir: &Heir,
    ) -> Result<(Serving, &'static str), Trouble> {
        if catalog.can_rehearse(&heir.seat) {
            let (device, _) = self.opened(catalog, choice, heir, true)?;
            self.try_out(device)?;
        }
        let (device, about) = self.opened(catalog, choice, heir, false)?;
        let serving = Serving::new(&device, &about);
        let (newcomer, passed, how) = self.try_out(device)?;
        self.engine.take_over(newcomer, passed)?;
        Ok((serving, how))
    }

    /// Opens a plugin on a thread of its own; in a process of its own for the rehearsal.
    fn opened(
        &self,
        catalog: &Arc<Catalog>,
        choice: &Choice,
        heir: &Heir,
        rehearsal: bool,
    ) -> Result<(Device, About), Trouble> {
        let (catalog, choice, seat) = (catalog.clone(), choice.clone(), heir.seat.clone());
        let (opened, errors) = on_thread(self.plugins.call_limit, move || {
            if rehearsal {
                catalog.rehearse(&seat, &choice, &|id| tracing_host(id)).map_err(|e| vec![e])
            } else {
                catalog.open_seat(&seat, &choice, &|id| tracing_host(id))
            }
        });
        opened.map_err(|fault| errors.first().map_or_else(|| fault.into(), Trouble::from))
    }

    /// Lets a plugin draw with the model that its device used last.
    fn try_out(&self, device: Device) -> Result<(Newcomer, Passed<'_>, &'static str), Fault> {
        let label = device.tag.device.to_string();
        let places = self.engine.places();
        let here = || places.iter().filter(|p| p.device == label);
        // What the present plugin cannot load is no measure for the next one.
        let beyond =
            |model: &String| here().flat_map(|p| &p.stand_ins).flat_map(|s| &s.models).any(|d| d.model == *model);
        let held: Vec<String> = here().flat_map(|p| p.models.clone()).filter(|model| !beyond(model)).collect();
        let default = self.default_model();
        let spec = held.iter().chain([&default]).find_map(|model| self.trial(model));
        let newcomer = self.engine.newcomer(device);
        let drawn =
            self.engine.audition(&newcomer, &|| Some(Job::new(String::new(), spec.clone()?, Origin::default())));
        let works = spec.as_ref().is_some_and(|spec| held.contains(&spec.model));
        let how = if spec.is_some() { "it has drawn a picture" } else { "it opens; there is no model to try it with" };
        match drawn {
            // Neither a model that wants more than a text, nor one that nobody could load before, speaks against it.
            Err(fault) if fault.field.is_some() || !works && fault.code == FaultCode::ModelInvalid => {
                tracing::info!(device = label, "no picture was drawn to try the backend: {}", fault.message);
                let passed = self.engine.audition(&newcomer, &|| None)?;
                Ok((newcomer, passed, "it opens; the model draws no picture from a text alone"))
            }
            outcome => outcome.map(|passed| (newcomer, passed, how)),
        }
    }

    /// A small picture of a model; `None` when it cannot be asked for.
    fn trial(&self, model: &str) -> Option<JobSpec> {
        let fields = json!({
            "prompt": "a test picture", "model": model, "width": 64, "height": 64, "steps": 2, "seed": 1, "metadata": false,
        });
        let Value::Object(fields) = fields else { return None };
        api::job_spec(self, &fields).ok()
    }
}

fn change(now: &Serving, outcome: Taken, reason: String, unfit: Vec<Unfit>) -> Change {
    Change {
        device: now.device.clone(),
        outcome,
        backend: now.backend.clone(),
        version: now.version.clone(),
        file: now.origin.file(),
        reason,
        unfit,
    }
}
