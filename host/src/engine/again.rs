//! Where a job goes on whose backend failed.
//!
//! ```text
//! the backend died            ─► once more there, on a fresh process (elsewhere when a hanging call keeps the place)
//! twice, over loading a model ─► the device's next plugin, which serves the model from now on
//! twice, over anything else   ─► another device, once
//! it could not load a model   ─► the device's next plugin, likewise
//! ```

use super::{
    Engine, Place,
    mount::{Mount, is_of_plugin},
    place::is_death,
};
use crate::{fault::Fault, jobs::Job};
use std::sync::Arc;

/// A job's way so far.
#[derive(Debug)]
pub(super) struct Way<'e> {
    pub(super) place: &'e Place,
    pub(super) mount: Arc<Mount>,
    /// Deaths of this backend in a row.
    deaths: u32,
    /// The job has left its first device.
    moved: bool,
    /// What the first plugin said that could not load a model, and which.
    unloaded: Option<(String, Fault)>,
    /// Devices whose backend died twice over the job.
    pub(super) suspects: Vec<&'e Place>,
}

/// The models that a job needs.
fn models(job: &Job) -> Vec<&str> {
    job.spec.models().collect()
}

impl<'e> Way<'e> {
    pub(super) fn new(place: &'e Place, job: &Job) -> Way<'e> {
        let mount = place.mount_for(&models(job));
        Way { place, mount, deaths: 0, moved: false, unloaded: None, suspects: Vec::new() }
    }

    /// Leads a job on after a fault; answers why, for people. The error is the fault that the job ends with.
    pub(super) fn on(&mut self, engine: &'e Engine, job: &Job, fault: Fault) -> Result<String, Fault> {
        let models = models(job);
        let death = is_death(fault.code);
        self.deaths += u32::from(death);
        let stuck = self.mount.device.is_stuck();
        if death && self.deaths == 1 && !stuck && !self.moved {
            // Another version may have taken over meanwhile.
            self.mount = self.place.mount_for(&models);
            return Ok(format!("{}; the job runs once more from its start", fault.message));
        }
        let unloaded = models.iter().find_map(|model| Some((*model, self.mount.declined(model)?)));
        if let Some((model, why)) = unloaded
            && why.code == fault.code
            && !stuck
        {
            if let Some(next) = engine.spare(self.place, &self.mount, model, &why) {
                let why = format!(
                    "{} cannot load the model: {}; trying {}",
                    self.mount.device.tag, fault.message, next.device.tag
                );
                self.unloaded.get_or_insert_with(|| (model.to_owned(), fault));
                (self.mount, self.deaths) = (next, 0);
                return Ok(why);
            }
            if let Some((model, first)) = self.unloaded.take() {
                // Nobody can: the first one's words are the ones to tell, and it is asked first again.
                self.place.spares.forget(&model);
                return Err(first);
            }
        }
        if !death {
            return Err(fault);
        }
        if !stuck && Arc::ptr_eq(&self.mount, &self.place.mount()) {
            self.suspects.push(self.place);
        }
        let other = engine.places.iter().find(|p| p.label != self.place.label && p.takes_jobs());
        match other.filter(|_| !self.moved) {
            Some(other) => {
                let label = &other.label;
                let why = format!("{}; the job runs once more from its start, on {label}", fault.message);
                (self.place, self.mount) = (other, other.mount_for(&models));
                (self.deaths, self.moved) = (0, true);
                Ok(why)
            }
            None => Err(fault),
        }
    }
}

impl Engine {
    /// The plugin of a device after one that could not load a model, said aloud.
    fn spare(&self, place: &Place, failed: &Arc<Mount>, model: &str, fault: &Fault) -> Option<Arc<Mount>> {
        let spares = self.spares.as_ref()?;
        let make = |used: &[String]| {
            let device = spares.open(&place.label, used)?;
            Some(Mount::new(device, self.max_models, self.metrics.clone()))
        };
        let next = place.spares.after(failed, &place.mount(), (model, fault), make)?;
        tracing::warn!(
            device = place.label,
            model,
            failed = %failed.device.tag,
            next = %next.device.tag,
            code = fault.code.as_str(),
            message = %fault.message,
            "a backend cannot load a model; the next one serves it from now on"
        );
        Some(next)
    }

    /// Where a model goes outside of a job when a backend could not load it.
    pub(super) fn spare_for_load(
        &self,
        place: &Place,
        failed: &Arc<Mount>,
        model: &str,
        fault: &Fault,
    ) -> Option<Arc<Mount>> {
        if !is_of_plugin(fault.code) || failed.device.is_stuck() {
            return None;
        }
        let why = failed.declined(model).filter(|why| why.code == fault.code)?;
        self.spare(place, failed, model, &why)
    }

    /// Whether a device has a plugin besides those that are open there.
    pub(super) fn has_spare(&self, place: &Place) -> bool {
        let used: Vec<String> = place.mounts().iter().map(|m| m.device.tag.file.to_string()).collect();
        self.spares.as_ref().is_some_and(|spares| spares.any(&place.label, &used))
    }
}
