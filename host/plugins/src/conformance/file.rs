//! From the file to an opened device.

use super::{Outcome, Plan, Run, life::Watched, not_tried, wrong};
use crate::{Catalog, Choice, Isolate, PluginError, Search, hardware::label, load};
use backend_api::{BackendBox, HwDevice, HwKind, Offer};
use std::{collections::HashSet, path::Path};

/// A device opened without the worker's guards around it.
pub(super) struct Opened {
    pub(super) backend: BackendBox,
    /// How to open the same again.
    pub(super) choice: Choice,
    /// Whether it computes in the machine's own memory.
    pub(super) cpu: bool,
}

pub(super) fn checks(run: &mut Run<'_>, file: &Path, plan: &Plan<'_>, watched: &Watched) -> Option<Opened> {
    let search = Search { isolate: Isolate::Never, child: None, cache: None, ..plan.search.clone() };
    let mut catalog = None;
    run.check("loads", || {
        let found = Catalog::of_file(&search, file);
        let Some(about) = found.report(&Choice::default()).plugins.into_iter().next() else {
            return wrong("the file was not found");
        };
        if about.id.is_empty() {
            return wrong(about.reason);
        }
        let words = format!("{} {} by {}, interface {}", about.id, about.version, about.vendor, about.interface);
        catalog = Some((found, about.id, about.version));
        Ok(words)
    });
    let (catalog, id, version) = catalog?;
    (run.report.id, run.report.version) = (id.clone(), version);
    run.check("probes", || probe(file, catalog.hardware()));
    let choice = Choice { backend: Some(id), device: plan.device.clone(), options: plan.options.clone() };
    let mut opened = None;
    run.check("opens", || {
        let (path, hardware, why) = match catalog.best(&choice) {
            Ok(best) => best,
            Err(e @ PluginError::NoChoice { .. }) => return not_tried(e.to_string()),
            Err(e) => return wrong(e.to_string()),
        };
        let library = load::open(path).or_else(|e| wrong(e.to_string()))?;
        let backend =
            (library.module.open())(hardware, plan.options.as_slice().into(), watched.host()).into_result()?;
        opened = Some((Opened { backend, choice: choice.clone(), cpu: hardware.kind == HwKind::CPU }, label(hardware)));
        Ok(format!("{}: {why}", label(hardware)))
    });
    let (opened, device) = opened?;
    device.clone_into(&mut run.report.device);
    Some(opened)
}

/// Asks the library itself: the worker would pass over what is wrong with its offers.
fn probe(file: &Path, hardware: &[HwDevice]) -> Outcome {
    let path = std::fs::canonicalize(file).or_else(|e| wrong(e.kind().to_string()))?;
    let library = load::open(&path).or_else(|e| wrong(e.to_string()))?;
    let ask = |hardware: &[HwDevice]| (library.module.probe())(hardware.into()).into_vec();
    let offers = ask(hardware);
    let mut devices = HashSet::new();
    let mut words = Vec::new();
    for Offer { hw_index, score, why, .. } in &offers {
        let Some(device) = hardware.get(*hw_index as usize) else {
            return wrong(format!("it claims device {hw_index} of a list of {}", hardware.len()));
        };
        if !devices.insert(*hw_index) {
            return wrong(format!("it claims {} twice", label(device)));
        }
        if *score > 100_000 {
            return wrong(format!("score {score} lies above 100000"));
        }
        if why.trim().is_empty() {
            return wrong(format!("its offer for {} gives no reason", label(device)));
        }
        words.push(format!("{} {score} {why}", label(device)));
    }
    let facts = |offers: &[Offer]| offers.iter().map(|o| (o.hw_index, o.score)).collect::<Vec<_>>();
    if facts(&ask(hardware)) != facts(&offers) {
        return wrong("it answers differently when asked twice");
    }
    if !ask(&[]).is_empty() {
        return wrong("it claims devices of an empty list");
    }
    if words.is_empty() { Ok("no offer for this machine".to_owned()) } else { Ok(words.join("; ")) }
}
