//! A1111's options: the few that mean something here, kept while the worker runs, and overridden by a request.

use super::sdapi_fields::{Type, forgive};
use crate::{
    api::App,
    fault::{Fault, FaultCode},
};
use serde_json::{Map, Value, json};
use std::sync::{Mutex, PoisonError};

/// The options that are known besides the checkpoint, with their types and what they are at first.
const OPTIONS: &[(&str, Type, &str)] = &[
    ("sd_checkpoint_hash", Type::Any, "null"),
    ("sd_vae", Type::Text, "\"Automatic\""),
    ("CLIP_stop_at_last_layers", Type::Int, "1"),
    ("samples_format", Type::Text, "\"png\""),
    ("jpeg_quality", Type::Int, "80"),
    ("randn_source", Type::Text, "\"CPU\""),
    ("emphasis", Type::Text, "\"Original\""),
    ("show_progress_every_n_steps", Type::Int, "10"),
];

/// What clients have changed.
#[derive(Debug, Default)]
pub(crate) struct SdOptions(Mutex<Map<String, Value>>);

impl SdOptions {
    /// The changed ones.
    pub(crate) fn changed(&self) -> Map<String, Value> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes some. They must have been read by [`read`].
    pub(crate) fn change(&self, options: Map<String, Value>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(options);
    }
}

/// All options as a client sees them.
pub(crate) fn all(app: &App) -> Map<String, Value> {
    let mut all: Map<String, Value> = OPTIONS
        .iter()
        .map(|(name, _, first)| ((*name).to_owned(), serde_json::from_str(first).unwrap_or_default()))
        .collect();
    all.extend(app.sdapi_options.changed());
    all.insert("sd_model_checkpoint".to_owned(), app.default_model().into());
    all
}

/// The known ones of what a client sent, checked. Unknown ones are left out: clients send back the whole list of
/// another worker. The checkpoint is not among them; see [`checkpoint`].
pub(crate) fn read(given: &Map<String, Value>) -> Result<Map<String, Value>, Vec<Fault>> {
    let mut faults = Vec::new();
    let mut known = Map::new();
    for (name, kind, _) in OPTIONS {
        let Some(value) = given.get(*name).filter(|v| !v.is_null()) else { continue };
        match forgive(*kind, value)
            .ok_or_else(|| Fault::field(name, "has the wrong type"))
            .and_then(|v| usable(name, v))
        {
            Ok(value) => {
                known.insert((*name).to_owned(), value);
            }
            Err(fault) => faults.push(fault),
        }
    }
    if faults.is_empty() { Ok(known) } else { Err(faults) }
}

fn usable(name: &str, value: Value) -> Result<Value, Fault> {
    let text = value.as_str().unwrap_or_default();
    let lower = text.to_ascii_lowercase();
    let among = |words: &[&str]| {
        if words.contains(&lower.as_str()) {
            Ok(())
        } else {
            Err(Fault::field(name, format!("must be one of {}", words.join(", "))))
        }
    };
    let within = |low: i64, high: i64| match value.as_i64() {
        Some(number) if (low..=high).contains(&number) => Ok(()),
        _ => Err(Fault::field(name, format!("must be a whole number from {low} to {high}"))),
    };
    match name {
        "sd_vae" if !["automatic", "none", ""].contains(&lower.as_str()) => {
            Err(Fault::new(FaultCode::Unsupported, "a model is used with its own VAE; send Automatic").about(name))
        }
        "CLIP_stop_at_last_layers" => within(1, 12),
        "jpeg_quality" => within(1, 100),
        "show_progress_every_n_steps" => within(-1, 150),
        "samples_format" => among(&["png", "jpg", "jpeg", "webp"]),
        "randn_source" => among(&["cpu", "gpu", "nv"]),
        "emphasis" => among(&["none", "ignore", "original", "no norm"]),
        _ => Ok(()),
    }
    .map(|()| value)
}

/// The checkpoint that options name.
pub(crate) fn checkpoint(given: &Map<String, Value>) -> Option<String> {
    given.get("sd_model_checkpoint").and_then(Value::as_str).filter(|t| !t.is_empty()).map(model_of)
}

/// "name [hash]" and "name.safetensors" both name a model.
pub(crate) fn model_of(title: &str) -> String {
    let name = title.split(" [").next().unwrap_or(title).trim();
    name.strip_suffix(".safetensors").unwrap_or(name).to_owned()
}

/// What options mean for a job.
pub(crate) fn apply(options: &Map<String, Value>, steps: u64, job: &mut Map<String, Value>) {
    // 1 is "none" there, whatever the model's own is.
    if let Some(layers) = options.get("CLIP_stop_at_last_layers").filter(|l| l.as_i64() > Some(1)) {
        job.insert("clip_skip".into(), layers.clone());
    }
    let word = |name: &str| options.get(name).and_then(Value::as_str).map(str::to_ascii_lowercase);
    if let Some(format) = word("samples_format") {
        job.insert("output_format".into(), if format == "jpg" { "jpeg".into() } else { format.into() });
        job.insert("quality".into(), options.get("jpeg_quality").cloned().unwrap_or(json!(80)));
    }
    // "GPU" is the device's own generator there; the worker's default stands for it.
    if word("randn_source").as_deref() == Some("nv") {
        job.insert("rng".into(), "philox".into());
    }
    let emphasis = match word("emphasis").as_deref() {
        Some("none" | "ignore") => Some("none"),
        Some("no norm") => Some("no_norm"),
        _ => None,
    };
    if let Some(emphasis) = emphasis {
        job.insert("emphasis".into(), emphasis.into());
    }
    // Clients poll for previews without asking for them first.
    let every = match options.get("show_progress_every_n_steps").and_then(Value::as_i64) {
        Some(every) => u64::try_from(every).unwrap_or(0),
        None => (steps / 10).max(1),
    };
    job.insert("preview_every".into(), every.into());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap_or_default()
    }

    #[test]
    fn options_become_fields_of_the_job() {
        for (options, field, value) in [
            (json!({ "CLIP_stop_at_last_layers": 2 }), "clip_skip", json!(2)),
            (json!({ "CLIP_stop_at_last_layers": "2" }), "clip_skip", json!(2)),
            (json!({ "samples_format": "jpg" }), "output_format", json!("jpeg")),
            (json!({ "samples_format": "jpg" }), "quality", json!(80)),
            (json!({ "samples_format": "WEBP", "jpeg_quality": 50 }), "quality", json!(50)),
            (json!({ "randn_source": "NV" }), "rng", json!("philox")),
            (json!({ "emphasis": "No norm" }), "emphasis", json!("no_norm")),
            (json!({ "show_progress_every_n_steps": -1 }), "preview_every", json!(0)),
            (json!({}), "preview_every", json!(5)),
        ] {
            let mut job = Map::new();
            apply(&read(&object(options.clone())).unwrap(), 50, &mut job);
            assert_eq!(job.get(field), Some(&value), "{options}");
        }
    }

    #[test]
    fn what_cannot_be_done_is_refused_and_the_unknown_left_out() {
        let faults =
            read(&object(json!({ "sd_vae": "other.pt", "samples_format": "gif", "CLIP_stop_at_last_layers": 0 })));
        let fields: Vec<_> = faults.unwrap_err().into_iter().filter_map(|f| f.field).collect();
        assert_eq!(fields, ["sd_vae", "CLIP_stop_at_last_layers", "samples_format"]);
        assert!(read(&object(json!({ "sd_lora": "None", "sd_vae": "None" }))).unwrap().len() == 1);
    }

    #[test]
    fn titles_name_models() {
        for (title, name) in [
            ("a", Some("a")),
            ("a.safetensors", Some("a")),
            ("a.safetensors [0123456789]", Some("a")),
            ("a [0123456789]", Some("a")),
            ("", None),
        ] {
            assert_eq!(checkpoint(&object(json!({ "sd_model_checkpoint": title }))).as_deref(), name, "{title}");
        }
    }
}
