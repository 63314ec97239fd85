//! Textual inversion: small safetensors files with learned vectors that stand for a word (Gal et al. 2022).
//!
//! Layouts: `emb_params` (AUTOMATIC1111, SD 1 and 2), one tensor named by its token (diffusers), `clip_l` and `clip_g`
//! (SDXL). Files lie in `embeddings/` of a models directory or of a model's own folder; a file's name is the word.

use crate::{
    drop_ins,
    error::{ModelError, Result},
    files::{Folder, FoundFile},
    header::{Dtype, Header, is_pickle_name},
    library::Library,
    resolved::{Format, ResolvedModel},
};
use half::{bf16, f16};
use std::{
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

/// The folder's name.
pub(crate) const FOLDER: &str = "embeddings";
/// The most files of one folder that are looked at.
const MAX_FILES: usize = 4_000;
/// The largest file in bytes: 75 vectors for both encoders of SDXL in f64 need 1.2 MB.
const MAX_BYTES: u64 = 16 << 20;
/// The most vectors of one embedding: a chunk of 77 tokens without its start and end.
const MAX_VECTORS: u64 = 75;
/// The widest vector.
const MAX_WIDTH: u64 = 16_384;

/// A file in an `embeddings` folder.
#[derive(Debug)]
pub struct EmbeddingFile {
    /// The file's name without its ending.
    pub name: String,
    /// What it holds, or why it cannot be used.
    pub embedding: Result<Embedding>,
}

/// Learned vectors whose header was checked.
#[derive(Debug, Clone)]
pub struct Embedding {
    file: FoundFile,
    /// Where the data begins.
    data: u64,
    parts: Vec<Part>,
}

#[derive(Debug, Clone)]
struct Part {
    /// The encoder that the tensor's name tells: 0 for CLIP-L, 1 for OpenCLIP-G.
    encoder: Option<usize>,
    vectors: u64,
    width: u64,
    dtype: Dtype,
    span: (u64, u64),
}

impl Embedding {
    /// Number of vectors: the tokens it stands for.
    #[must_use]
    pub fn vectors(&self) -> u32 {
        self.parts.first().map_or(0, |part| part.vectors as u32)
    }

    /// Width of the (first encoder's) vectors.
    #[must_use]
    pub fn width(&self) -> u32 {
        self.parts.first().map_or(0, |part| part.width as u32)
    }

    /// Whether there are vectors for every text encoder: pairs of role and width of its hidden states.
    #[must_use]
    pub fn fits(&self, encoders: &[(&str, u64)]) -> bool {
        // An SDXL embedding's half for CLIP-L was learned together with the other half: alone it means something else.
        let halved = self.parts.iter().any(|part| part.encoder == Some(1))
            && !encoders.iter().any(|(role, _)| *role == "text_encoder_2");
        !encoders.is_empty() && !halved && (0..encoders.len()).all(|i| self.part(encoders, i).is_some())
    }

    /// The vectors for encoder `index`, `[vectors, width]` in f32; `None` if the file has none for it.
    ///
    /// # Errors
    /// [`ModelError::Io`]; [`ModelError::BadHeader`] for values that are no numbers.
    pub fn read(&self, encoders: &[(&str, u64)], index: usize) -> Result<Option<Vec<f32>>> {
        let Some(part) = self.part(encoders, index) else { return Ok(None) };
        let io = |error| ModelError::io(&self.file.name, error);
        let mut input = self.file.open()?;
        input.seek(SeekFrom::Start(self.data + part.span.0)).map_err(io)?;
        let mut bytes = vec![0; (part.span.1 - part.span.0) as usize];
        input.read_exact(&mut bytes).map_err(io)?;
        let values = numbers(&bytes, part.dtype);
        if values.iter().any(|v| !v.is_finite()) {
            let reason = "it holds values that are no numbers".to_owned();
            return Err(ModelError::BadHeader { file: self.file.name.clone(), reason });
        }
        Ok(Some(values))
    }

    fn part(&self, encoders: &[(&str, u64)], index: usize) -> Option<&Part> {
        let (role, width) = encoders.get(index)?;
        let number = usize::from(*role == "text_encoder_2");
        let fits = |part: &&Part| part.width == *width;
        let named = self.parts.iter().find(|part| part.encoder == Some(number));
        // A tensor without an encoder's name belongs to a model with one encoder.
        let only = self.parts.iter().find(|part| part.encoder.is_none() && encoders.len() == 1);
        named.or(only).filter(fits)
    }
}

impl Library {
    /// All files in the `embeddings` folders that a model sees, sorted by name; of equal names the first wins: the
    /// model's own folder, then the models directories in their order.
    #[must_use]
    pub fn embeddings(&self, model: &ResolvedModel) -> Vec<EmbeddingFile> {
        let (own, dirs) = (own_folder(model), self.dirs.iter());
        let found = drop_ins::list(own.iter().chain(dirs), FOLDER, MAX_FILES, check);
        found.into_iter().map(|(name, embedding)| EmbeddingFile { name, embedding }).collect()
    }
}

impl ResolvedModel {
    /// Role and width of the hidden states of each text encoder, in the order of the tokenizers.
    #[must_use]
    pub fn encoder_widths(&self) -> Vec<(&'static str, u64)> {
        let encoders = ["text_encoder", "text_encoder_2"].into_iter().zip(&self.networks.encoders);
        encoders.filter_map(|(role, config)| Some((role, config.as_ref()?.hidden))).collect()
    }
}

/// The folder of a diffusers model.
fn own_folder(model: &ResolvedModel) -> Option<PathBuf> {
    let (_, file) = model.files.iter().find(|(role, _)| *role == "unet" && model.format == Format::Folder)?;
    file.parent()?.parent().map(Path::to_path_buf)
}

fn check(folder: &Folder, name: &str) -> Result<Embedding> {
    if is_pickle_name(name) {
        return Err(ModelError::Pickle { file: name.to_owned() });
    }
    let file = folder.need(name)?;
    let bad = |reason: String| ModelError::BadHeader { file: name.to_owned(), reason };
    if file.len > MAX_BYTES {
        return Err(bad(format!("it has {} bytes; embeddings have at most {MAX_BYTES}", file.len)));
    }
    let header = Header::read(&file)?;
    let mut parts = Vec::new();
    for (tensor, info) in header.tensors.iter().filter(|(tensor, _)| !tensor.starts_with("t5")) {
        let (vectors, width) = match info.shape[..] {
            [width] => (1, width),
            [vectors, width] => (vectors, width),
            _ => return Err(bad(format!("`{tensor}` is not a list of vectors"))),
        };
        if !(1..=MAX_VECTORS).contains(&vectors) || !(1..=MAX_WIDTH).contains(&width) {
            return Err(bad(format!("`{tensor}` has {vectors} vectors of {width}; at most {MAX_VECTORS} fit a chunk")));
        }
        if !info.dtype.is_weight() {
            let dtype = info.dtype.name().to_owned();
            return Err(ModelError::UnsupportedDtype { file: name.to_owned(), tensor: tensor.clone(), dtype });
        }
        let encoder = match tensor.as_str() {
            "clip_l" => Some(0),
            "clip_g" => Some(1),
            _ => None,
        };
        parts.push(Part { encoder, vectors, width, dtype: info.dtype, span: info.span });
    }
    let Some(first) = parts.first() else { return Err(bad("it has no vectors".to_owned())) };
    if parts.iter().any(|part| part.vectors != first.vectors) {
        return Err(bad("its encoders have different numbers of vectors".to_owned()));
    }
    if parts.iter().filter(|part| part.encoder.is_none()).count() > 1 {
        return Err(bad("it has several tensors that name no encoder; this is no embedding".to_owned()));
    }
    let data = header.file_bytes - header.tensors.values().map(|info| info.span.1).max().unwrap_or(0);
    Ok(Embedding { file, data, parts })
}

fn numbers(bytes: &[u8], dtype: Dtype) -> Vec<f32> {
    match dtype {
        Dtype::F16 => bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
        Dtype::Bf16 => bytes.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
        Dtype::F64 => bytes
            .chunks_exact(8)
            .map(|b| f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]) as f32)
            .collect(),
        _ => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
    }
}
