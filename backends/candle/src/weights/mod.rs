//! Weights: files checked and read, names resolved, values converted to `f32`.

mod file;
mod header;
mod rename;

use crate::{Error, Result};
use backend_api::{Ctl, ModelSource, Stage, role};
use file::WeightsFile;
use header::{Element, Entry};
use rename::Place;
use std::{
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

/// The largest piece that is read between two polls of the caller's hand.
const PIECE: usize = 8 << 20;

/// All weights of one model part.
pub struct Part {
    name: String,
    files: Vec<WeightsFile>,
    /// The files hold a whole model under its original names.
    checkpoint: Option<rename::Renamer>,
}

impl Part {
    /// Opens a part's files, or finds it in a single-file checkpoint. `None`: the model does not have this part.
    pub fn open(source: &ModelSource, name: &str) -> Result<Option<Self>> {
        let paths = |role: &str| -> Vec<&str> {
            source.files.iter().filter(|f| f.key.as_str() == role).map(|f| f.value.as_str()).collect()
        };
        let open = |paths: Vec<&str>| -> Result<Vec<WeightsFile>> {
            paths.into_iter().map(|p| WeightsFile::open(name, Path::new(p))).collect()
        };
        let own = paths(name);
        if !own.is_empty() {
            return Ok(Some(Part { name: name.to_owned(), files: open(own)?, checkpoint: None }));
        }
        let whole = paths(role::CHECKPOINT);
        let has_config = source.configs.iter().any(|c| c.key.as_str() == name);
        if whole.is_empty() || !has_config {
            return Ok(None);
        }
        let files = open(whole)?;
        let names = files.iter().flat_map(|f| f.entries.keys().map(String::as_str));
        let checkpoint = Some(rename::Renamer::new(name, names));
        Ok(Some(Part { name: name.to_owned(), files, checkpoint }))
    }

    /// Bytes that the part's tensors will hold as `f32`. A checkpoint counts only what belongs to this part.
    pub fn f32_bytes(&self) -> u64 {
        let belongs = |name: &str| self.checkpoint.as_ref().is_none_or(|c| c.owns(name));
        let tensors = self.files.iter().flat_map(|f| f.entries.iter());
        let counted = tensors.filter(|(name, entry)| entry.element().is_some() && belongs(name));
        counted.map(|(_, entry)| entry.shape.iter().product::<usize>() as u64 * 4).sum()
    }

    /// Whether a tensor of this (diffusers) name exists.
    pub fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    fn find(&self, name: &str) -> Option<(&WeightsFile, &Entry, Place)> {
        let place = match &self.checkpoint {
            Some(renamer) => renamer.place(name)?,
            None => Place::whole(name),
        };
        self.files.iter().find_map(|f| f.entries.get(&place.name).map(|e| (f, e, place.clone())))
    }

    /// Fails if a file was rewritten since it was opened.
    pub fn check_unchanged(&self) -> Result<()> {
        self.files.iter().try_for_each(WeightsFile::check_unchanged)
    }
}

/// How far loading is, shared by all parts.
pub struct Progress<'a> {
    ctl: &'a Ctl,
    total: u64,
    done: AtomicU64,
}

impl<'a> Progress<'a> {
    /// `total`: bytes of all parts as `f32`.
    pub fn new(ctl: &'a Ctl, total: u64) -> Self {
        Progress { ctl, total, done: AtomicU64::new(0) }
    }

    fn advance(&self, bytes: u64) -> Result<()> {
        if self.ctl.cancelled() {
            return Err(Error::Cancelled);
        }
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.ctl.progress(Stage::LOAD, done.min(self.total), self.total);
        Ok(())
    }

    /// Reports the end.
    pub fn finish(&self) {
        self.ctl.progress(Stage::LOAD, self.total, self.total);
    }
}

/// A place in the tree of a part's tensors, from which modules read their own.
#[derive(Clone)]
pub struct Vars<'a> {
    part: &'a Part,
    progress: &'a Progress<'a>,
    prefix: String,
}

impl<'a> Vars<'a> {
    /// The root.
    pub fn new(part: &'a Part, progress: &'a Progress<'a>) -> Self {
        Vars { part, progress, prefix: String::new() }
    }

    /// One level down.
    #[must_use]
    pub fn pp(&self, name: impl std::fmt::Display) -> Self {
        let prefix = if self.prefix.is_empty() { name.to_string() } else { format!("{}.{name}", self.prefix) };
        Vars { part: self.part, progress: self.progress, prefix }
    }

    fn path(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}.{name}", self.prefix) }
    }

    /// The part's name.
    pub fn part_name(&self) -> &str {
        &self.part.name
    }

    /// Whether a tensor exists below this place.
    pub fn has(&self, name: &str) -> bool {
        self.part.has(&self.path(name))
    }

    /// The first of several names that exists: models of different years name the same tensor differently.
    pub fn first_of(&self, names: &[&'static str], leaf: &str) -> &'static str {
        names.iter().find(|n| self.has(&format!("{n}.{leaf}"))).or(names.first()).copied().unwrap_or("")
    }

    /// The shape of a tensor, if it exists.
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.part.find(&self.path(name)).map(|(_, entry, place)| place.shape(&entry.shape))
    }

    /// A tensor's values. Shapes may differ in extents of 1 at the end (a 1×1 convolution is a linear layer).
    pub fn get(&self, shape: &[usize], name: &str) -> Result<Vec<f32>> {
        let path = self.path(name);
        let part = || self.part.name.clone();
        let Some((file, entry, place)) = self.part.find(&path) else {
            return Err(Error::MissingTensor { part: part(), name: path });
        };
        let found = place.shape(&entry.shape);
        if trimmed(&found) != trimmed(shape) {
            return Err(Error::Shape { part: part(), name: path, expected: shape.to_vec(), found });
        }
        let Some(element) = entry.element() else {
            return Err(Error::ElementType { part: part(), name: path, dtype: entry.dtype.clone() });
        };
        let values = self.read(file, entry, element, &place)?;
        if values.iter().any(|v| !v.is_finite()) {
            return Err(Error::NotFinite { part: part(), name: path });
        }
        Ok(values)
    }

    /// A tensor's values if it exists.
    pub fn get_opt(&self, shape: &[usize], name: &str) -> Result<Option<Vec<f32>>> {
        if self.has(name) { self.get(shape, name).map(Some) } else { Ok(None) }
    }

    fn read(&self, file: &WeightsFile, entry: &Entry, element: Element, place: &Place) -> Result<Vec<f32>> {
        let (skip, len) = place.bytes(entry);
        let count = usize::try_from(len).unwrap_or(usize::MAX) / element.size();
        let mut values = Vec::with_capacity(count);
        let mut buffer = vec![0u8; PIECE.min(count * element.size())];
        let mut offset = entry.offset + skip;
        while values.len() < count {
            let piece = buffer.len().min((count - values.len()) * element.size());
            file.read(offset, &mut buffer[..piece])?;
            convert(&buffer[..piece], element, &mut values);
            offset += piece as u64;
            self.progress.advance((piece / element.size() * 4) as u64)?;
        }
        Ok(place.arrange(values, &entry.shape))
    }
}

fn trimmed(shape: &[usize]) -> &[usize] {
    let ones = shape.iter().rev().take_while(|e| **e == 1).count();
    &shape[..shape.len() - ones]
}

fn convert(bytes: &[u8], element: Element, out: &mut Vec<f32>) {
    match element {
        Element::F32 => out.extend(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))),
        Element::F16 => out.extend(bytes.chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32())),
        Element::BF16 => out.extend(bytes.chunks_exact(2).map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32())),
    }
}
