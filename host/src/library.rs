//! The models as the worker uses them: resolved, checked, with tokenizers at hand.
//!
//! Resolving reads configs and headers only. The answer is kept for a moment, so that requests are checked in
//! microseconds; loading always looks anew.

use crate::{
    embeddings::Embeddings,
    fault::{Fault, FaultCode},
};
use backend_api::{ModelSource, Param};
use sd_models::{ModelError, ModelName, ModelRef, ResolveOptions, ResolvedModel, UpscalerFile};
use sd_prompt::{Tokenizer, TokenizerFiles};
use sd_sampling::SchedulerConfig;
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, UNIX_EPOCH},
};

/// How long an answer is kept.
const FRESH: Duration = Duration::from_secs(5);
/// Answers kept.
const MAX_KEPT: usize = 64;
/// How long it is kept that a model cannot be used: somebody who repairs it waits no longer than this.
const REFUSED: Duration = Duration::from_secs(1);

/// A model that can be run.
#[derive(Debug)]
pub struct Resolved {
    /// Files, configs, defaults.
    pub model: ResolvedModel,
    /// One tokenizer for each text encoder.
    pub tokenizers: Vec<Tokenizer>,
    /// The model's own schedule.
    pub scheduler: SchedulerConfig,
}

impl Resolved {
    /// What a backend loads from.
    pub fn source(&self) -> ModelSource {
        let source = self.model.to_source();
        let params =
            |pairs: Vec<(String, String)>| pairs.iter().map(|(k, v)| Param::new(k, v)).collect::<Vec<_>>().into();
        ModelSource {
            name: source.name.into(),
            files: params(source.files),
            configs: params(source.configs),
            options: Vec::new().into(),
        }
    }
}

#[derive(Debug)]
struct Kept {
    resolved: Arc<Resolved>,
    at: Instant,
}

/// The models directories, the hub's cache, and the operator's own path if one was given.
#[derive(Debug)]
pub struct Library {
    inner: sd_models::Library,
    /// A model outside the directories, by the name it has here.
    operator: Option<(String, ModelRef)>,
    kept: Mutex<HashMap<String, Kept>>,
    /// The embeddings that a model sees, by its fingerprint, and when they were looked at.
    embeddings: Mutex<HashMap<String, (Instant, Arc<Embeddings>)>>,
    refused: Mutex<HashMap<String, (Instant, Fault)>>,
    listed: Mutex<Option<Listed>>,
}

/// The models as they were read, and what the folders looked like then.
#[derive(Debug)]
struct Listed {
    at: Instant,
    folders: Vec<Seen>,
    entries: Arc<Vec<sd_models::Entry>>,
}

/// A file or folder at a glance: name, size, time of the last change.
type Seen = (std::ffi::OsString, u64, Option<std::time::SystemTime>);

impl Library {
    /// A library. `operator` is what the operator asked to serve: a name or a path.
    pub fn new(inner: sd_models::Library, operator: Option<&str>) -> Result<(Library, Option<String>), Fault> {
        let (operator, name) = match operator.map(ModelRef::from_operator).transpose()? {
            None => (None, None),
            Some(ModelRef::Name(name)) => (None, Some(name.to_string())),
            Some(path @ ModelRef::Path(_)) => {
                let resolved = inner.resolve(&path, ResolveOptions::default())?;
                (Some((resolved.name.clone(), path)), Some(resolved.name))
            }
        };
        let library = Library {
            inner,
            operator,
            kept: Mutex::default(),
            embeddings: Mutex::default(),
            refused: Mutex::default(),
            listed: Mutex::default(),
        };
        Ok((library, name))
    }

    /// Where models are looked for.
    pub fn places(&self) -> &sd_models::Library {
        &self.inner
    }

    /// Checks a name from a request and resolves it, or answers from memory.
    pub fn lookup(&self, name: &str) -> Result<Arc<Resolved>, Fault> {
        if let Some(kept) = self.kept.lock().unwrap_or_else(PoisonError::into_inner).get(name)
            && kept.at.elapsed() < FRESH
        {
            return Ok(kept.resolved.clone());
        }
        if let Some((at, fault)) = self.refused.lock().unwrap_or_else(PoisonError::into_inner).get(name)
            && at.elapsed() < REFUSED
        {
            return Err(fault.clone());
        }
        self.resolve(name).inspect_err(|fault| {
            let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
            if refused.len() >= MAX_KEPT {
                refused.clear();
            }
            refused.insert(name.to_owned(), (Instant::now(), fault.clone()));
        })
    }

    /// All models, from memory while the folders look the same and the reading is fresh.
    fn entries(&self) -> Arc<Vec<sd_models::Entry>> {
        // Held while reading, so that many callers at once cost one reading.
        let mut listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        let folders = self.glance();
        if let Some(known) = listed.as_ref().filter(|l| l.at.elapsed() < FRESH && l.folders == folders) {
            return known.entries.clone();
        }
        let entries = Arc::new(self.inner.list());
        *listed = Some(Listed { at: Instant::now(), folders, entries: entries.clone() });
        entries
    }

    /// What lies directly in the models folders. A change deeper inside a model is seen once the reading is no longer fresh.
    fn glance(&self) -> Vec<Seen> {
        let mut seen: Vec<Seen> = Vec::new();
        for folder in self.inner.dirs.iter().chain(&self.inner.hub_cache) {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                // The folder behind a link is what counts.
                let Ok(about) = std::fs::metadata(entry.path()) else { continue };
                seen.push((entry.path().into_os_string(), about.len(), about.modified().ok()));
            }
        }
        seen.sort();
        seen
    }

    /// Resolves a name from disk.
    pub fn resolve(&self, name: &str) -> Result<Arc<Resolved>, Fault> {
        let reference = match &self.operator {
            Some((own, path)) if own == name => path.clone(),
            _ => ModelRef::Name(ModelName::parse(name)?),
        };
        let model = self.inner.resolve(&reference, ResolveOptions::default())?;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        // Tokenizers are costly to build: the same model keeps its own.
        if let Some(known) = kept.get_mut(name)
            && known.resolved.model.fingerprint == model.fingerprint
        {
            known.at = Instant::now();
            return Ok(known.resolved.clone());
        }
        drop(kept);
        let tokenizers = model.tokenizers.iter().map(load_tokenizer).collect::<Result<Vec<_>, _>>()?;
        let scheduler = serde_json::from_str::<SchedulerConfig>(&model.scheduler)
            .map_err(|e| Fault::new(FaultCode::ModelInvalid, format!("the model's scheduler config: {e}")))?;
        let resolved = Arc::new(Resolved { model, tokenizers, scheduler });
        kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MAX_KEPT {
            kept.clear();
        }
        kept.insert(name.to_owned(), Kept { resolved: resolved.clone(), at: Instant::now() });
        Ok(resolved)
    }

    /// The textual inversions that prompts for a model may name. Looked up anew after a moment, so that a file that was
    /// copied in is found.
    pub fn embeddings(&self, model: &Resolved) -> Arc<Embeddings> {
        let key = &model.model.fingerprint;
        if let Some((at, known)) = self.embeddings.lock().unwrap_or_else(PoisonError::into_inner).get(key)
            && at.elapsed() < FRESH
        {
            return known.clone();
        }
        let found = Arc::new(Embeddings::new(self.inner.embeddings(&model.model), &model.model));
        let mut kept = self.embeddings.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MAX_KEPT {
            kept.clear();
        }
        kept.insert(key.clone(), (Instant::now(), found.clone()));
        found
    }

    /// The upscalers in the models directories; broken ones with their problem.
    pub fn upscalers(&self) -> Vec<UpscalerFile> {
        self.inner.upscalers()
    }

    /// The list of `GET /v1/models`: OpenAI's fields, and ours beside them.
    pub fn list_json(&self, default: &str, loaded: &[String]) -> Vec<Value> {
        let mut entries: Vec<Value> = self
            .entries()
            .iter()
            .map(|m| {
                let created = m.modified.and_then(|t| t.duration_since(UNIX_EPOCH).ok()).map_or(0, |d| d.as_secs());
                let problem = m.problem.as_ref().map(|p| json!({ "code": p.code(), "message": p.to_string() }));
                let defaults = m.model.as_ref().map(|r| {
                    let d = &r.defaults;
                    json!({ "width": d.width, "height": d.height, "steps": d.steps, "guidance_scale": d.guidance, "sampler": d.sampler, "examples": d.examples })
                });
                json!({
                    "id": m.name, "object": "model", "created": created, "owned_by": "sd-worker",
                    "family": m.family().map(|f| f.name()), "format": m.format().map(|f| f.name()),
                    "bytes": m.model.as_ref().map(|r| r.weights.file_bytes), "parameters": m.model.as_ref().map(|r| r.weights.parameters),
                    "defaults": defaults, "complete": m.is_complete(), "problem": problem,
                    "default": m.name == default, "loaded": loaded.contains(&m.name),
                })
            })
            .collect();
        if let Some((name, _)) = &self.operator
            && !entries.iter().any(|e| e["id"] == name.as_str())
        {
            entries.push(json!({
                "id": name, "object": "model", "created": 0, "owned_by": "sd-worker", "complete": true,
                "default": name == default, "loaded": loaded.contains(name),
            }));
        }
        entries
    }
}

impl From<ModelError> for Fault {
    fn from(error: ModelError) -> Self {
        let code = match error.code() {
            "invalid_model_name" => FaultCode::InvalidModelName,
            "model_not_found" | "hub_not_found" => FaultCode::ModelNotFound,
            "disk_full" => FaultCode::HubError,
            code if code.starts_with("hub_") => FaultCode::HubError,
            _ => FaultCode::ModelInvalid,
        };
        Fault::new(code, error.to_string()).about("model")
    }
}

fn load_tokenizer(tokenizer: &sd_models::Tokenizer) -> Result<Tokenizer, Fault> {
    let texts = tokenizer.read()?;
    let files = TokenizerFiles {
        tokenizer_json: texts.tokenizer_json.as_deref(),
        vocab_json: texts.vocab_json.as_deref(),
        merges_txt: texts.merges_txt.as_deref(),
        tokenizer_config: texts.tokenizer_config.as_deref(),
        special_tokens_map: texts.special_tokens_map.as_deref(),
    };
    Tokenizer::load(&files).and_then(|t| t.with_pad(&tokenizer.pad_token)).map_err(|e| {
        Fault::new(FaultCode::ModelInvalid, format!("the tokenizer of {}: {e}", tokenizer.encoder)).about("model")
    })
}
