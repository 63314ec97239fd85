//! The models' own JSON configs, as diffusers and transformers write them, with their defaults.

mod clip;
pub mod unet;
mod vae;

pub use clip::ClipConfig;
pub use unet::UnetConfig;
pub use vae::{TinyConfig, VaeConfig};

use crate::{Error, Result};
use backend_api::ModelSource;
use serde::{Deserialize, de::DeserializeOwned};

/// A field that is one value for all levels, or a list with one for each.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum PerLevel<T> {
    /// One a level, from the outside in. Tried first: in a list of lists the outer one counts levels.
    Each(Vec<T>),
    /// The same everywhere.
    One(T),
}

impl<T: Clone> PerLevel<T> {
    /// One value a level. A list of another length is an error.
    pub fn each(&self, part: &str, field: &str, levels: usize) -> Result<Vec<T>> {
        match self {
            PerLevel::One(value) => Ok(vec![value.clone(); levels]),
            PerLevel::Each(list) if list.len() == levels => Ok(list.clone()),
            PerLevel::Each(list) => {
                Err(Error::config(part, format!("`{field}` has {} entries for {levels} levels", list.len())))
            }
        }
    }
}

/// The config of a part, read from the source. `None`: the source has no config of this role.
pub fn read<T: DeserializeOwned>(source: &ModelSource, part: &str) -> Result<Option<T>> {
    let Some(text) = source.configs.iter().rev().find(|c| c.key.as_str() == part) else { return Ok(None) };
    serde_json::from_str(&text.value).map(Some).map_err(|e| Error::config(part, e))
}

/// A number of a config that must lie in a range, so that no later arithmetic overflows.
pub(crate) fn bounded(part: &str, field: &str, value: usize, low: usize, high: usize) -> Result<usize> {
    if (low..=high).contains(&value) {
        return Ok(value);
    }
    Err(Error::config(part, format!("`{field}` = {value} lies outside of {low}–{high}")))
}

/// Group norms need groups of equal size.
pub(crate) fn divides(part: &str, field: &str, divisor: usize, value: usize) -> Result<()> {
    if divisor > 0 && value.is_multiple_of(divisor) {
        return Ok(());
    }
    Err(Error::config(part, format!("`{field}` = {divisor} does not divide the width {value}")))
}
