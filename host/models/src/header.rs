//! The safetensors header, with every check made before anybody maps the file.
//!
//! Format (<https://github.com/huggingface/safetensors>, `docs/format`): eight bytes little-endian header length,
//! a JSON object `name → {dtype, shape, data_offsets}`, then the data, without holes and without overlap.

use crate::{
    error::{ModelError, Result},
    files::FoundFile,
};
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, fmt, io::Read};

/// The longest header that safetensors itself allows.
pub const MAX_HEADER_BYTES: u64 = 100_000_000;
/// The most tensors in one file; the largest real models have some 5,000.
const MAX_TENSORS: usize = 100_000;
/// The longest tensor name in bytes.
const MAX_TENSOR_NAME: usize = 1_024;
/// The most entries of `__metadata__`.
const MAX_NOTES: usize = 10_000;
/// The most dimensions of a tensor.
const MAX_RANK: usize = 8;

/// A number type of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "the names of the format")]
pub enum Dtype {
    Bool,
    U8,
    I8,
    F8E4M3,
    F8E5M2,
    I16,
    U16,
    F16,
    Bf16,
    I32,
    U32,
    F32,
    F64,
    I64,
    U64,
}

impl Dtype {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "BOOL" => Self::Bool,
            "U8" => Self::U8,
            "I8" => Self::I8,
            "F8_E4M3" => Self::F8E4M3,
            "F8_E5M2" => Self::F8E5M2,
            "I16" => Self::I16,
            "U16" => Self::U16,
            "F16" => Self::F16,
            "BF16" => Self::Bf16,
            "I32" => Self::I32,
            "U32" => Self::U32,
            "F32" => Self::F32,
            "F64" => Self::F64,
            "I64" => Self::I64,
            "U64" => Self::U64,
            _ => return None,
        })
    }

    /// The name in the format.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::U8 => "U8",
            Self::I8 => "I8",
            Self::F8E4M3 => "F8_E4M3",
            Self::F8E5M2 => "F8_E5M2",
            Self::I16 => "I16",
            Self::U16 => "U16",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::I32 => "I32",
            Self::U32 => "U32",
            Self::F32 => "F32",
            Self::F64 => "F64",
            Self::I64 => "I64",
            Self::U64 => "U64",
        }
    }

    /// Bytes of one number.
    #[must_use]
    pub fn bytes(self) -> u64 {
        match self {
            Self::Bool | Self::U8 | Self::I8 | Self::F8E4M3 | Self::F8E5M2 => 1,
            Self::I16 | Self::U16 | Self::F16 | Self::Bf16 => 2,
            Self::I32 | Self::U32 | Self::F32 => 4,
            Self::F64 | Self::I64 | Self::U64 => 8,
        }
    }

    /// Whether backends read weights of this type.
    #[must_use]
    pub fn is_weight(self) -> bool {
        matches!(self, Self::F16 | Self::Bf16 | Self::F32 | Self::F64)
    }
}

/// One tensor of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Number type.
    pub dtype: Dtype,
    /// Dimensions.
    pub shape: Vec<u64>,
    /// First byte in the data, and one past the last.
    pub span: (u64, u64),
}

impl TensorInfo {
    /// Numbers in it. The header check has made sure that this does not overflow.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.shape.iter().product()
    }
}

/// The checked header of one file.
#[derive(Debug, Clone)]
pub struct Header {
    /// The file's name inside the model, for messages.
    pub file: String,
    /// All tensors by name.
    pub tensors: BTreeMap<String, TensorInfo>,
    /// Free text that the maker left.
    pub metadata: BTreeMap<String, String>,
    /// Bytes of the whole file.
    pub file_bytes: u64,
    /// SHA-256 of the header's bytes.
    pub digest: [u8; 32],
}

impl Header {
    /// Reads and checks a file's header; at most the header's own bytes are read.
    pub(crate) fn read(file: &FoundFile) -> Result<Self> {
        let bad = |reason: String| ModelError::BadHeader { file: file.name.clone(), reason };
        let mut input = file.open()?;
        let mut start = [0_u8; 16];
        let got = fill(&mut input, &mut start).map_err(|error| ModelError::io(&file.name, error))?;
        // A true header can begin like a pickle (a length of 640 does), but then its JSON begins at byte 8.
        if (start[8] != b'{' || got < 9)
            && let Some(error) = foreign(&file.name, &start[..got])
        {
            return Err(error);
        }
        if got < 10 {
            return Err(ModelError::Truncated { file: file.name.clone(), have: file.len, need: 10 });
        }
        let length =
            u64::from_le_bytes([start[0], start[1], start[2], start[3], start[4], start[5], start[6], start[7]]);
        if length > MAX_HEADER_BYTES {
            return Err(bad(format!(
                "it claims {length} bytes, more than the {MAX_HEADER_BYTES} that the format allows"
            )));
        }
        if length + 8 > file.len {
            return Err(ModelError::Truncated { file: file.name.clone(), have: file.len, need: length + 8 });
        }
        if start[8] != b'{' {
            return Err(bad("it does not begin with `{`".into()));
        }
        let size = usize::try_from(length).map_err(|_| bad("it is too long for this machine".into()))?;
        let mut json = vec![0_u8; size];
        let seen = size.min(got - 8);
        json[..seen].copy_from_slice(&start[8..8 + seen]);
        input.read_exact(&mut json[seen..]).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => {
                ModelError::Truncated { file: file.name.clone(), have: file.len, need: length + 8 }
            }
            _ => ModelError::io(&file.name, error),
        })?;
        let digest = Sha256::digest(&json).into();
        let Parsed { tensors, metadata } = parse(&json).map_err(|error| bad(error.to_string()))?;
        let data = check_spans(&tensors).map_err(bad)?;
        let need = 8 + length + data;
        match file.len.cmp(&need) {
            std::cmp::Ordering::Less => Err(ModelError::Truncated { file: file.name.clone(), have: file.len, need }),
            std::cmp::Ordering::Greater => {
                Err(ModelError::TrailingBytes { file: file.name.clone(), have: file.len, need })
            }
            std::cmp::Ordering::Equal => {
                Ok(Self { file: file.name.clone(), tensors, metadata, file_bytes: file.len, digest })
            }
        }
    }
}

/// Offsets cover the data from its first to its last byte, each tensor exactly as many as dtype × shape.
fn check_spans(tensors: &BTreeMap<String, TensorInfo>) -> Result<u64, String> {
    let mut spans = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        let count = tensor.shape.iter().try_fold(1_u64, |all, &dim| all.checked_mul(dim));
        let bytes = count.and_then(|count| count.checked_mul(tensor.dtype.bytes()));
        let Some(bytes) = bytes else { return Err(format!("the size of `{name}` overflows")) };
        let (begin, end) = tensor.span;
        if end.checked_sub(begin) != Some(bytes) {
            return Err(format!("`{name}` needs {bytes} bytes and its offsets are {begin}..{end}"));
        }
        spans.push((begin, end, name));
    }
    spans.sort_unstable();
    let mut at = 0;
    for (begin, end, name) in spans {
        if begin != at {
            let what = if begin < at { "overlaps the tensor before it" } else { "leaves a hole before it" };
            return Err(format!("`{name}` {what}"));
        }
        at = end;
    }
    Ok(at)
}

/// Recognises files of other formats by their first bytes.
pub(crate) fn foreign(name: &str, start: &[u8]) -> Option<ModelError> {
    let pickle = || Some(ModelError::Pickle { file: name.into() });
    let other = |format| Some(ModelError::UnsupportedFormat { file: name.into(), format });
    match start {
        // torch.save since 1.6 is a zip archive of a pickle; before, a bare pickle of protocol 2 or above.
        [b'P', b'K', 3, 4, ..] | [0x80, 2..=5, ..] => pickle(),
        // Pickle protocol 0 of a dictionary or tuple.
        [b'(', b'd' | b'l' | b'p', ..] => pickle(),
        // Protocol 0 that begins with a call: `c`, the module's name, a new line.
        [b'c', rest @ ..] if rest.contains(&b'\n') && rest.iter().all(|b| b.is_ascii_graphic() || *b == b'\n') => {
            pickle()
        }
        [b'G', b'G', b'U', b'F', ..] => other("a GGUF file"),
        [0x89, b'H', b'D', b'F', ..] => other("an HDF5 (Keras) file"),
        [0x08, 1..=20, 0x12 | 0x1a | 0x22 | 0x3a, ..] => other("an ONNX file"),
        [b'v', b'e', b'r', b's', b'i', b'o', b'n', b' ', b'h', b't', b't', b'p', ..] => {
            other("a Git LFS pointer, not the weights themselves (run `git lfs pull`)")
        }
        [b'<', b'!' | b'h' | b'H', ..] => other("an HTML page, not the weights themselves"),
        [0x1f, 0x8b, ..] => other("a gzip archive"),
        _ => None,
    }
}

/// Whether a file's name ends as pickles do.
#[must_use]
pub(crate) fn is_pickle_name(name: &str) -> bool {
    let ending = name.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
    matches!(ending.as_str(), "ckpt" | "pt" | "pth" | "bin" | "pkl" | "pickle" | "pth-tar")
}

fn fill(input: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut got = 0;
    while got < buffer.len() {
        match input.read(&mut buffer[got..]) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(got)
}

#[derive(Default)]
struct Parsed {
    tensors: BTreeMap<String, TensorInfo>,
    metadata: BTreeMap<String, String>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry<'a> {
    #[serde(borrow)]
    dtype: std::borrow::Cow<'a, str>,
    #[serde(deserialize_with = "bounded_shape")]
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// Stops at the rank bound, so that a header cannot make us hold more than its own size.
fn bounded_shape<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u64>, D::Error> {
    struct Shape;
    impl<'de> Visitor<'de> for Shape {
        type Value = Vec<u64>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of dimensions")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<u64>, A::Error> {
            let mut shape = Vec::with_capacity(4);
            while let Some(dim) = seq.next_element()? {
                if shape.len() == MAX_RANK {
                    return Err(A::Error::custom(format!("a tensor has more than {MAX_RANK} dimensions")));
                }
                shape.push(dim);
            }
            Ok(shape)
        }
    }
    deserializer.deserialize_seq(Shape)
}

/// The maker's notes: few keys, whatever their values.
#[derive(Default)]
struct Notes(BTreeMap<String, String>);

impl<'de> serde::Deserialize<'de> for Notes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NotesVisitor;
        impl<'de> Visitor<'de> for NotesVisitor {
            type Value = Notes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`__metadata__` as an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Notes, A::Error> {
                let mut notes = Notes::default();
                while let Some((key, value)) = map.next_entry()? {
                    if notes.0.len() == MAX_NOTES {
                        return Err(A::Error::custom(format!("`__metadata__` has more than {MAX_NOTES} entries")));
                    }
                    notes.0.insert(key, value);
                }
                Ok(notes)
            }
        }
        deserializer.deserialize_map(NotesVisitor)
    }
}

fn parse(json: &[u8]) -> serde_json::Result<Parsed> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let parsed = deserializer.deserialize_map(HeaderVisitor)?;
    deserializer.end()?;
    Ok(parsed)
}

/// Reads the map entry by entry, so that bounds and duplicates are seen while reading.
struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Parsed;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Parsed, A::Error> {
        let mut parsed = Parsed::default();
        let mut seen_metadata = false;
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                if std::mem::replace(&mut seen_metadata, true) {
                    return Err(A::Error::custom("`__metadata__` stands twice"));
                }
                parsed.metadata = map.next_value::<Notes>()?.0;
                continue;
            }
            if name.len() > MAX_TENSOR_NAME {
                return Err(A::Error::custom("a tensor's name is longer than 1,024 bytes"));
            }
            let entry: Entry<'_> = map.next_value()?;
            let dtype = Dtype::parse(&entry.dtype)
                .ok_or_else(|| A::Error::custom(format!("`{name}` has the unknown dtype `{:.16}`", entry.dtype)))?;
            if parsed.tensors.len() == MAX_TENSORS {
                return Err(A::Error::custom(format!("more than {MAX_TENSORS} tensors")));
            }
            let info = TensorInfo { dtype, shape: entry.shape, span: entry.data_offsets };
            if let Some(_twice) = parsed.tensors.insert(name, info) {
                return Err(A::Error::custom("a tensor's name stands twice"));
            }
        }
        Ok(parsed)
    }
}
