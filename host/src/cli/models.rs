//! `sd-worker models`: what models there are, and what can be done with them.

use super::{
    ModelsCommand,
    terminal::{bytes, say},
};
use crate::{
    app,
    fault::{Fault, FaultCode},
    library::Library,
};
use indicatif::{ProgressBar, ProgressStyle};
use sd_models::{HubOptions, ModelName, ModelRef, Precision, PullEvent, ResolveOptions};
use std::ops::ControlFlow;

pub(super) fn run(command: &ModelsCommand) -> Result<(), Fault> {
    match command {
        ModelsCommand::List { json, models } => {
            let places = app::model_places(models);
            if *json {
                let (library, _) = Library::new(places, None)?;
                let list = library.list_json(app::BUNDLED_MODEL, &[]);
                say(&serde_json::to_string_pretty(&list).map_err(|e| Fault::internal(e.to_string()))?);
            } else {
                print(&places);
            }
            Ok(())
        }
        ModelsCommand::Inspect { name, models } => inspect(name, &app::model_places(models)),
        ModelsCommand::Import { file, name, models } => {
            let imported = app::model_places(models).import(file, name.as_deref())?;
            say(&format!("imported as {}", imported.name));
            Ok(())
        }
        ModelsCommand::Pull { name, models } => pull(name, &app::model_places(models)),
        ModelsCommand::Rm { name, models } => {
            let freed = app::model_places(models).remove(&ModelName::parse(name)?)?;
            say(&format!("removed {name} ({})", bytes(freed)));
            Ok(())
        }
    }
}

/// Prints the list; answers how many models are usable.
pub(super) fn print(places: &sd_models::Library) -> usize {
    let list = places.list();
    for entry in &list {
        match (&entry.model, &entry.problem) {
            (Some(model), _) => {
                let (family, format) = (model.family.name(), model.format.name());
                say(&format!("  {:<28} {family:<14} {format:<11} {}", entry.name, bytes(model.weights.file_bytes)));
            }
            (None, Some(problem)) => say(&format!("  {:<28} cannot be used: {problem}", entry.name)),
            (None, None) => {}
        }
    }
    list.iter().filter(|entry| entry.is_complete()).count()
}

fn inspect(name: &str, places: &sd_models::Library) -> Result<(), Fault> {
    let report = places.check(&ModelRef::from_operator(name)?, ResolveOptions::default())?;
    let Some(model) = report.model else {
        say(&format!("name         {}", report.name));
        for problem in &report.problems {
            say(&format!("problem      {problem}"));
        }
        let missing = report.missing();
        if !missing.is_empty() {
            say(&format!("missing      {}", missing.join(", ")));
        }
        return Err(Fault::new(FaultCode::ModelInvalid, format!("{name} cannot be used as it is")));
    };
    let defaults = &model.defaults;
    say(&format!("name         {}", model.name));
    say(&format!("family       {}", model.family.name()));
    say(&format!("format       {}", model.format.name()));
    say(&format!("fingerprint  {}", model.fingerprint));
    say(&format!("parameters   {:.1} million in {}", model.weights.parameters as f64 / 1e6, model.weights.precision()));
    say(&format!(
        "defaults     {} × {}, {} steps, guidance {}, {}",
        defaults.width, defaults.height, defaults.steps, defaults.guidance, defaults.sampler
    ));
    say("memory       weights and one picture, estimated, in f32 (16-bit halves the weights)");
    let mut sides = vec![defaults.width, 512, 768, 1024];
    sides.sort_unstable();
    sides.dedup();
    for side in sides {
        let estimate = model.estimate(side, side, Precision::F32);
        say(&format!("             {side:>4} × {side:<4} {}", bytes(estimate.peak)));
    }
    say("missing      nothing");
    Ok(())
}

fn pull(name: &str, places: &sd_models::Library) -> Result<(), Fault> {
    let wanted = ModelName::parse(name)?;
    let id = wanted.hub().ok_or_else(|| {
        Fault::new(
            FaultCode::InvalidModelName,
            "not a name of the hub: write org/name[@revision] or a short name such as sd-v1-5",
        )
    })?;
    let cache = places
        .hub_cache
        .clone()
        .ok_or_else(|| Fault::new(FaultCode::NotReady, "there is no cache directory: set HF_HOME or HOME"))?;
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{bar:32} {bytes}/{total_bytes} {bytes_per_sec} {msg}") {
        bar.set_style(style);
    }
    // Without a terminal the log tells every tenth.
    let mut tenths = 0;
    let pulled = sd_models::pull(&id, &HubOptions::from_env(cache), &mut |event| {
        match event {
            PullEvent::Planned { files, bytes } => {
                bar.set_length(*bytes);
                if bar.is_hidden() {
                    tracing::info!(model = %id, files, bytes, "fetching");
                }
            }
            PullEvent::Progress { file, total_done, total, .. } => {
                let now = total_done * 10 / (*total).max(1);
                if bar.is_hidden() && now > tenths {
                    tenths = now;
                    tracing::info!(model = %id, bytes = total_done, total, percent = now * 10, "fetching");
                }
                bar.set_message(file.clone());
                bar.set_length(*total);
                bar.set_position(*total_done);
            }
            PullEvent::Retrying { file, reason, .. } => {
                tracing::warn!(file, reason, "trying again");
            }
            _ => {}
        }
        ControlFlow::Continue(())
    })?;
    bar.finish_and_clear();
    say(&format!("{name} is here: {} files, {}", pulled.files, bytes(pulled.bytes)));
    Ok(())
}
