//! Typed access to the fields of a config, with bounds, so that no later arithmetic can overflow or run for long.

use crate::{
    error::{ModelError, Result},
    files::Json,
};
use serde_json::Value;

/// The most channels, widths and vocabulary entries of any network that we accept.
const MAX_SIZE: u64 = 1 << 20;

/// One config's fields.
pub(crate) struct Fields<'a> {
    json: &'a Json,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(json: &'a Json) -> Self {
        Self { json }
    }

    pub(crate) fn bad(&self, field: &str, reason: impl Into<String>) -> ModelError {
        ModelError::config(&self.json.file, field, reason)
    }

    /// The value, where absent and `null` mean the same.
    pub(crate) fn get(&self, field: &str) -> Option<&'a Value> {
        self.json.fields.get(field).filter(|value| !value.is_null())
    }

    /// Whether the field is there and `null`.
    pub(crate) fn is_null(&self, field: &str) -> bool {
        self.json.fields.get(field).is_some_and(Value::is_null)
    }

    fn size(&self, field: &str, value: &Value) -> Result<u64> {
        match value.as_u64() {
            Some(n @ 1..=MAX_SIZE) => Ok(n),
            _ => Err(self.bad(field, format!("must be a whole number from 1 to {MAX_SIZE}"))),
        }
    }

    /// A positive number, if given.
    pub(crate) fn uint_opt(&self, field: &str) -> Result<Option<u64>> {
        self.get(field).map(|value| self.size(field, value)).transpose()
    }

    /// A positive number, or its default.
    pub(crate) fn uint(&self, field: &str, default: u64) -> Result<u64> {
        Ok(self.uint_opt(field)?.unwrap_or(default))
    }

    /// A positive number that must be there.
    pub(crate) fn uint_needed(&self, field: &str) -> Result<u64> {
        self.uint_opt(field)?.ok_or_else(|| self.bad(field, "is missing"))
    }

    /// A list of positive numbers.
    pub(crate) fn uints(&self, field: &str, default: &[u64], most: usize) -> Result<Vec<u64>> {
        match self.get(field) {
            None => Ok(default.to_vec()),
            Some(Value::Array(list)) if (1..=most).contains(&list.len()) => {
                list.iter().map(|value| self.size(field, value)).collect()
            }
            Some(_) => Err(self.bad(field, format!("must be a list of 1 to {most} numbers"))),
        }
    }

    /// One number for all `count` blocks, or a list of `count` numbers.
    pub(crate) fn per_block(&self, field: &str, default: u64, count: usize) -> Result<Vec<u64>> {
        match self.get(field) {
            None => Ok(vec![default; count]),
            Some(Value::Array(_)) => {
                let list = self.uints(field, &[], count)?;
                if list.len() != count {
                    return Err(self.bad(field, format!("has {} entries for {count} blocks", list.len())));
                }
                Ok(list)
            }
            Some(value) => Ok(vec![self.size(field, value)?; count]),
        }
    }

    pub(crate) fn bool(&self, field: &str, default: bool) -> Result<bool> {
        match self.get(field) {
            None => Ok(default),
            Some(value) => value.as_bool().ok_or_else(|| self.bad(field, "must be true or false")),
        }
    }

    pub(crate) fn float(&self, field: &str, default: f64) -> Result<f64> {
        match self.get(field) {
            None => Ok(default),
            Some(value) => match value.as_f64() {
                Some(number) if number.is_finite() => Ok(number),
                _ => Err(self.bad(field, "must be a number")),
            },
        }
    }

    pub(crate) fn text(&self, field: &str) -> Result<Option<&'a str>> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.bad(field, "must be a string")),
        }
    }

    /// A list of strings.
    pub(crate) fn texts(&self, field: &str, default: &[&'a str]) -> Result<Vec<&'a str>> {
        match self.get(field) {
            None => Ok(default.to_vec()),
            Some(Value::Array(list)) if list.len() <= 16 => {
                let text =
                    |value: &'a Value| value.as_str().ok_or_else(|| self.bad(field, "must be a list of strings"));
                list.iter().map(text).collect()
            }
            Some(_) => Err(self.bad(field, "must be a list of strings")),
        }
    }

    /// Rows of three numbers, exactly five.
    pub(crate) fn table(&self, field: &str) -> Result<Option<[[f32; 3]; 5]>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let table = serde_json::from_value::<[[f32; 3]; 5]>(value.clone()).ok();
        table
            .filter(|t| t.as_flattened().iter().all(|v| v.is_finite()))
            .map(Some)
            .ok_or_else(|| self.bad(field, "must be five rows of three numbers"))
    }

    /// Refuses a class name other than those known.
    pub(crate) fn class(&self, field: &str, part: &str, found: &str, known: &[&str]) -> Result<()> {
        if known.contains(&found) {
            return Ok(());
        }
        Err(ModelError::UnknownClass {
            file: self.json.file.clone(),
            part: format!("`{field}` of the {part}"),
            class: found.chars().take(64).collect(),
            known: known.join(", "),
        })
    }
}
