//! The header of a safetensors file, checked before anything trusts it.
//!
//! Format: 8 bytes little-endian length, then that much JSON `{name: {dtype, shape, data_offsets}}`, then the data.

use crate::{Error, Result};
use serde::Deserialize;
use std::{collections::HashMap, fs::File, io::Read};

/// The most bytes a header may have (the reference implementation's limit).
const MAX_HEADER: u64 = 100_000_000;

/// An element type that is read as weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Element {
    F32,
    F16,
    BF16,
}

impl Element {
    pub(crate) fn size(self) -> usize {
        match self {
            Element::F32 => 4,
            Element::F16 | Element::BF16 => 2,
        }
    }
}

/// Where a tensor lies.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// The type's name in the file, for messages.
    pub(crate) dtype: String,
    pub(crate) shape: Vec<usize>,
    /// Position of the first byte in the file.
    pub(crate) offset: u64,
    /// Bytes.
    pub(crate) len: u64,
}

impl Entry {
    pub(crate) fn element(&self) -> Option<Element> {
        match self.dtype.as_str() {
            "F32" => Some(Element::F32),
            "F16" => Some(Element::F16),
            "BF16" => Some(Element::BF16),
            _ => None,
        }
    }
}

#[derive(Deserialize)]
struct Raw {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// Bits of one element of each type that the format knows.
fn bits(dtype: &str) -> Option<u64> {
    Some(match dtype {
        "F64" | "I64" | "U64" | "C64" => 64,
        "F32" | "I32" | "U32" => 32,
        "F16" | "BF16" | "I16" | "U16" => 16,
        "BOOL" | "U8" | "I8" | "F8_E5M2" | "F8_E4M3" | "F8_E8M0" => 8,
        "F6_E2M3" | "F6_E3M2" => 6,
        "F4" => 4,
        _ => return None,
    })
}

/// Reads and checks a header. `len` is the file's length.
pub(crate) fn read(part: &str, file: &mut File, len: u64) -> Result<HashMap<String, Entry>> {
    let broken = |reason: String| Error::Header { part: part.to_owned(), reason };
    let failed = |error: std::io::Error| Error::Io { part: part.to_owned(), kind: error.kind() };
    if len < 8 {
        return Err(broken(format!("it has {len} bytes, fewer than the shortest safetensors file")));
    }
    let mut prefix = [0u8; 8];
    file.read_exact(&mut prefix).map_err(failed)?;
    if prefix.starts_with(b"PK\x03\x04") || prefix.starts_with(b"\x80\x02") {
        return Err(broken("it is a pickle, which can run code; convert it to safetensors".to_owned()));
    }
    let header_len = u64::from_le_bytes(prefix);
    if header_len > MAX_HEADER || header_len > len - 8 {
        return Err(broken(format!("its header claims {header_len} bytes")));
    }
    let mut text = vec![0u8; usize::try_from(header_len).map_err(|_| broken("its header is too large".to_owned()))?];
    file.read_exact(&mut text).map_err(failed)?;
    let mut raw: HashMap<String, serde_json::Value> =
        serde_json::from_slice(&text).map_err(|e| broken(format!("its header is no JSON object: {e}")))?;
    raw.remove("__metadata__");
    let data = 8 + header_len;
    let mut entries = HashMap::with_capacity(raw.len());
    let mut spans = Vec::with_capacity(raw.len());
    for (name, value) in raw {
        let raw: Raw =
            serde_json::from_value(value).map_err(|e| broken(format!("the entry of `{name}` is not readable: {e}")))?;
        let [start, end] = raw.data_offsets;
        if start > end || end > len - data {
            return Err(broken(format!("`{name}` lies outside of the file: is it truncated?")));
        }
        let bits = bits(&raw.dtype).ok_or_else(|| broken(format!("`{name}` has the unknown type `{}`", raw.dtype)))?;
        let wanted = raw.shape.iter().try_fold(bits, |n, extent| n.checked_mul(*extent)).map(|bits| bits.div_ceil(8));
        if wanted != Some(end - start) {
            let shape = &raw.shape;
            return Err(broken(format!("`{name}` of shape {shape:?} does not fit its {} bytes", end - start)));
        }
        let shape = raw.shape.iter().map(|e| usize::try_from(*e)).collect::<Result<Vec<_>, _>>();
        let shape = shape.map_err(|_| broken(format!("`{name}` is too large")))?;
        spans.push((start, end, name.clone()));
        entries.insert(name, Entry { dtype: raw.dtype, shape, offset: data + start, len: end - start });
    }
    spans.sort();
    for pair in spans.windows(2) {
        if pair[1].0 < pair[0].1 {
            return Err(broken(format!("`{}` and `{}` overlap", pair[0].2, pair[1].2)));
        }
    }
    Ok(entries)
}
