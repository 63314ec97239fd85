//! Everything that is wrong with a model at once, for `inspect` and for the catalogue.

use crate::{
    error::{ModelError, Result},
    folder::{self, ResolveOptions},
    library::{Library, Place, resolve_place},
    name::ModelRef,
    resolved::{ResolvedModel, TokenizerSource},
    tokenizer,
};

/// What was found out about one model.
#[derive(Debug)]
pub struct Report {
    /// The model's name.
    pub name: String,
    /// The model, if it is whole.
    pub model: Option<ResolvedModel>,
    /// What is wrong, each problem once; empty for a model that can be loaded.
    pub problems: Vec<ModelError>,
}

impl Report {
    /// Names of files and parts that are absent.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        let absent = |problem: &ModelError| match problem {
            ModelError::MissingFile { file, .. } => Some(file.clone()),
            ModelError::MissingPart { part, .. } => Some(part.clone()),
            ModelError::MissingTokenizer { folder } => Some(folder.clone()),
            ModelError::MissingTensor { tensor, .. } => Some(tensor.clone()),
            _ => None,
        };
        self.problems.iter().filter_map(absent).collect()
    }
}

impl Library {
    /// Reads a model as thoroughly as possible without its weights: beyond [`Library::resolve`], all parts are
    /// looked at even if one is broken, and vocabularies are compared with their encoders.
    ///
    /// # Errors
    /// Only if there is no such model; what is wrong with it is in the report.
    pub fn check(&self, model: &ModelRef, options: ResolveOptions) -> Result<Report> {
        let (place, name) = self.find(model)?;
        Ok(check_place(&place, name, options))
    }
}

pub(crate) fn check_place(place: &Place, name: String, options: ResolveOptions) -> Report {
    match resolve_place(place, &name, options) {
        Ok(model) => {
            let problems = vocabularies(place, &model);
            Report { name, model: problems.is_empty().then_some(model), problems }
        }
        Err(error) => {
            let problems = match place {
                Place::Folder(folder) => folder::problems(folder, options, error),
                Place::File(..) => vec![error],
            };
            Report { name, model: None, problems }
        }
    }
}

fn vocabularies(place: &Place, model: &ResolvedModel) -> Vec<ModelError> {
    let Place::Folder(folder) = place else { return Vec::new() };
    let own = |source: &TokenizerSource| matches!(source, TokenizerSource::VocabMerges { .. });
    let sub = |encoder: &str| if encoder == "text_encoder_2" { "tokenizer_2" } else { "tokenizer" };
    let checked = model.tokenizers.iter().filter(|tokenizer| own(&tokenizer.source));
    checked.filter_map(|t| tokenizer::check_vocabulary(folder, sub(t.encoder), t.vocab_size).err()).collect()
}
