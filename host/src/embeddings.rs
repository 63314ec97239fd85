//! Textual inversions as prompts name them: what is installed and fits a model.

use crate::fault::{Fault, FaultCode};
use sd_models::{Embedding, EmbeddingFile, ModelError, ResolvedModel};
use serde_json::{Map, Value, json};
use std::collections::HashMap;

/// The files that a model sees.
#[derive(Debug)]
pub struct Embeddings {
    files: Vec<EmbeddingFile>,
    /// Role and width of the model's text encoders.
    encoders: Vec<(&'static str, u64)>,
    /// Small letters of the name → index of a file that fits.
    usable: HashMap<String, usize>,
}

impl Embeddings {
    pub(crate) fn new(files: Vec<EmbeddingFile>, model: &ResolvedModel) -> Self {
        let encoders = model.encoder_widths();
        let fits = |file: &EmbeddingFile| file.embedding.as_ref().is_ok_and(|e| e.fits(&encoders));
        let usable = files.iter().enumerate().filter(|(_, file)| fits(file));
        let usable = usable.map(|(i, file)| (file.name.to_lowercase(), i)).collect();
        Embeddings { files, encoders, usable }
    }

    /// The embedding of a name, whatever its case.
    pub(crate) fn find(&self, name: &str) -> Option<&Embedding> {
        let index = self.usable.get(&name.to_lowercase())?;
        self.files[*index].embedding.as_ref().ok()
    }

    /// The vectors for each text encoder, `[vectors, width]` each.
    pub(crate) fn vectors(&self, name: &str) -> Result<Vec<Vec<f32>>, Fault> {
        let Some(embedding) = self.find(name) else { return Err(self.absent(name)) };
        let read = |i| embedding.read(&self.encoders, i).map(Option::unwrap_or_default);
        (0..self.encoders.len()).map(read).collect::<Result<_, _>>().map_err(|e| unusable(name, &e))
    }

    /// Why a name cannot be used.
    pub(crate) fn absent(&self, name: &str) -> Fault {
        let file = self.files.iter().find(|file| file.name.eq_ignore_ascii_case(name));
        match file.map(|file| &file.embedding) {
            Some(Err(error)) => unusable(name, error),
            Some(Ok(_)) => {
                let message = format!(
                    "the embedding \"{name}\" was made for another family of models: its vectors have another width"
                );
                Fault::new(FaultCode::InvalidRequest, message).about("prompt")
            }
            None => {
                let message = format!(
                    "the prompt asks for the embedding \"{name}\", which is not installed; put it into `embeddings` of a models directory, it is not fetched"
                );
                Fault::new(FaultCode::InvalidRequest, message).about("prompt")
            }
        }
    }

    /// A1111's list: those that fit the model, and the others.
    pub(crate) fn json(&self) -> Value {
        let (mut loaded, mut skipped) = (Map::new(), Map::new());
        for file in &self.files {
            let Ok(embedding) = &file.embedding else { continue };
            let entry = json!({
                "step": null, "sd_checkpoint": null, "sd_checkpoint_name": null,
                "shape": embedding.width(), "vectors": embedding.vectors(),
            });
            let list = if self.find(&file.name).is_some() { &mut loaded } else { &mut skipped };
            list.insert(file.name.clone(), entry);
        }
        json!({ "loaded": loaded, "skipped": skipped })
    }
}

fn unusable(name: &str, error: &ModelError) -> Fault {
    let message = format!("the embedding \"{name}\" cannot be used: {error}");
    Fault::new(FaultCode::InvalidRequest, message).about("prompt")
}
