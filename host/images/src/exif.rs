//! The little of EXIF that is needed: the orientation, and a recipe in `UserComment` and `MakerNote`.
//!
//! EXIF is a TIFF structure: a byte order, then directories of 12-byte entries. Offsets come from outside; every read
//! is checked and nothing is followed more than one level deep.

const ORIENTATION: u16 = 0x0112;
/// Camera's maker and model, where ComfyUI puts `workflow:{…}` and `prompt:{…}`.
const CAMERA: [u16; 2] = [0x010F, 0x0110];
const EXIF_IFD: u16 = 0x8769;
const MAKER_NOTE: u16 = 0x927C;
const USER_COMMENT: u16 = 0x9286;
const LONG: u16 = 4;
const UNDEFINED: u16 = 7;
/// Marks the maker note as ours.
const MAKER: &[u8] = b"sd-worker\0";
/// The most bytes of a text that is read.
const MAX_TEXT: usize = 1 << 20;

/// What a picture's EXIF data says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Exif {
    /// 1 to 8; 1 where it is missing.
    pub(crate) orientation: u16,
    /// A1111's place for `parameters`.
    pub(crate) user_comment: Option<String>,
    /// Our recipe as JSON.
    pub(crate) recipe: Option<String>,
    /// ComfyUI's `prompt` and `workflow` as JSON.
    pub(crate) texts: Vec<(String, String)>,
}

struct Tiff<'a> {
    data: &'a [u8],
    big: bool,
}

impl<'a> Tiff<'a> {
    fn open(data: &'a [u8]) -> Option<Self> {
        let data = data.strip_prefix(b"Exif\0\0").unwrap_or(data);
        let big = match data.get(..4)? {
            b"MM\0*" => true,
            b"II*\0" => false,
            _ => return None,
        };
        Some(Self { data, big })
    }

    fn u16(&self, at: usize) -> Option<u16> {
        let bytes = self.data.get(at..at.checked_add(2)?)?.try_into().ok()?;
        Some(if self.big { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    }

    fn u32(&self, at: usize) -> Option<usize> {
        let bytes = self.data.get(at..at.checked_add(4)?)?.try_into().ok()?;
        Some(if self.big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) } as usize)
    }

    /// Where the entry of a tag starts, in the directory at `directory`.
    fn entry(&self, directory: usize, tag: u16) -> Option<usize> {
        let count = usize::from(self.u16(directory)?);
        (0..count)
            .map(|i| directory + 2 + i * 12)
            .take_while(|&at| at + 12 <= self.data.len())
            .find(|&at| self.u16(at) == Some(tag))
    }

    /// The bytes of an entry of one-byte values.
    fn bytes(&self, entry: usize) -> Option<&'a [u8]> {
        let length = self.u32(entry + 4)?;
        let at = if length <= 4 { entry + 8 } else { self.u32(entry + 8)? };
        self.data.get(at..at.checked_add(length)?)
    }
}

/// Reads EXIF data; what is missing or broken is left out.
pub(crate) fn read(data: &[u8]) -> Exif {
    let mut exif = Exif { orientation: 1, ..Exif::default() };
    let Some(tiff) = Tiff::open(data) else { return exif };
    let Some(directory) = tiff.u32(4) else { return exif };
    if let Some(entry) = tiff.entry(directory, ORIENTATION) {
        exif.orientation = tiff.u16(entry + 8).filter(|value| (1..=8).contains(value)).unwrap_or(1);
    }
    for tag in CAMERA {
        let value = tiff.entry(directory, tag).and_then(|entry| tiff.bytes(entry)).filter(|v| v.len() <= MAX_TEXT);
        let value = value.map(|v| String::from_utf8_lossy(v));
        if let Some((key, json)) = value.as_deref().and_then(|v| v.trim_end_matches('\0').split_once(':'))
            && matches!(key, "prompt" | "workflow")
        {
            exif.texts.push((key.to_owned(), json.to_owned()));
        }
    }
    let inner = tiff.entry(directory, EXIF_IFD).and_then(|entry| tiff.u32(entry + 8));
    let text = |tag| inner.and_then(|inner| tiff.bytes(tiff.entry(inner, tag)?)).filter(|text| text.len() <= MAX_TEXT);
    exif.user_comment = text(USER_COMMENT).and_then(|bytes| user_comment(bytes, tiff.big));
    let note = text(MAKER_NOTE).and_then(|bytes| bytes.strip_prefix(MAKER));
    exif.recipe = note.and_then(|json| String::from_utf8(json.to_vec()).ok());
    exif
}

fn user_comment(bytes: &[u8], big: bool) -> Option<String> {
    let (kind, text) = bytes.split_at_checked(8)?;
    let text = if kind == b"UNICODE\0" {
        // The standard leaves the byte order open. ASCII makes it visible: its zero bytes come first in big endian.
        let zeros = |offset: usize| text.iter().skip(offset).step_by(2).filter(|&&b| b == 0).count();
        let big = match zeros(0).cmp(&zeros(1)) {
            std::cmp::Ordering::Greater => true,
            std::cmp::Ordering::Less => false,
            std::cmp::Ordering::Equal => big,
        };
        let units = text.chunks_exact(2).map(|pair| match big {
            true => u16::from_be_bytes([pair[0], pair[1]]),
            false => u16::from_le_bytes([pair[0], pair[1]]),
        });
        char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
    } else {
        String::from_utf8_lossy(text).into_owned()
    };
    Some(text.trim_matches(['\0', '\u{feff}']).to_owned())
}

/// Writes EXIF data (a TIFF structure without the `Exif\0\0` in front), as A1111 does: UTF-16, big endian.
pub(crate) fn write(parameters: Option<&str>, recipe: Option<&str>) -> Vec<u8> {
    let mut entries: Vec<(u16, Vec<u8>)> = Vec::new();
    if let Some(json) = recipe {
        entries.push((MAKER_NOTE, [MAKER, json.as_bytes()].concat()));
    }
    if let Some(text) = parameters {
        let units = text.encode_utf16().flat_map(u16::to_be_bytes);
        entries.push((USER_COMMENT, b"UNICODE\0".iter().copied().chain(units).collect()));
    }
    if entries.is_empty() {
        return Vec::new();
    }
    // Header, then a directory with one entry that points to the next one, which starts at byte 26.
    let mut out = b"MM\0*\0\0\0\x08\0\x01".to_vec();
    entry(&mut out, EXIF_IFD, LONG, 1, 26);
    out.extend([0; 4]);
    out.extend((entries.len() as u16).to_be_bytes());
    let mut offset = out.len() + entries.len() * 12 + 4;
    for (tag, value) in &entries {
        entry(&mut out, *tag, UNDEFINED, value.len(), offset);
        offset += value.len();
    }
    out.extend([0; 4]);
    entries.into_iter().for_each(|(_, value)| out.extend(value));
    out
}

fn entry(out: &mut Vec<u8>, tag: u16, kind: u16, count: usize, value: usize) {
    out.extend(tag.to_be_bytes());
    out.extend(kind.to_be_bytes());
    out.extend((count as u32).to_be_bytes());
    out.extend((value as u32).to_be_bytes());
}

/// EXIF data with nothing but an orientation, in little endian, for tests.
#[cfg(test)]
pub(crate) fn orientation_only(orientation: u8) -> Vec<u8> {
    let mut out = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
    out.extend([orientation, 0, 0, 0, 0, 0, 0, 0]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for text in ["a cat\nSteps: 2", "日本 é 😀", ""] {
            let exif = read(&write(Some(text), Some("{\"a\":1}")));
            let (user_comment, recipe) = (Some(text.into()), Some("{\"a\":1}".into()));
            let expected = Exif { orientation: 1, user_comment, recipe, texts: Vec::new() };
            assert_eq!(exif, expected);
        }
        assert_eq!(read(&write(None, Some("{}"))).recipe.as_deref(), Some("{}"));
        assert!(write(None, None).is_empty());
    }

    #[test]
    fn orientation_and_byte_orders() {
        assert_eq!(read(&orientation_only(6)).orientation, 6);
        assert_eq!(read(&orientation_only(77)).orientation, 1);
        assert_eq!(read(b"").orientation, 1);
        let little: Vec<u8> =
            b"UNICODE\0".iter().copied().chain("hi".encode_utf16().flat_map(u16::to_le_bytes)).collect();
        assert_eq!(user_comment(&little, true).as_deref(), Some("hi"));
        assert_eq!(user_comment(b"ASCII\0\0\0hi\0", true).as_deref(), Some("hi"));
        assert_eq!(user_comment(b"short", true), None);
    }

    #[test]
    fn broken_data_is_left_out() {
        let good = write(Some("text"), Some("{}"));
        for end in 0..good.len() {
            read(&good[..end]);
        }
        let mut state = 7u64;
        for _ in 0..20_000 {
            let mut bad = good.clone();
            for _ in 0..3 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let at = (state >> 33) as usize % bad.len();
                bad[at] = (state >> 24) as u8;
            }
            read(&bad);
        }
    }
}
