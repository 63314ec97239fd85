//! Reading the recipe that a picture carries, without decoding its pixels.

use crate::decode::{packed, split, walk};
use crate::encode::{PARAMETERS, RECIPE};
use crate::{Format, ImageError, Limits, exif};
use std::io::Read;

/// The most bytes of all texts together; compressed ones are inflated no further.
const MAX_TEXT: usize = 1 << 20;

/// What a file says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// The format.
    pub format: Format,
    /// Width in pixels, before the orientation is applied.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// A1111's text.
    pub parameters: Option<String>,
    /// Our JSON.
    pub recipe: Option<String>,
    /// Every text of a PNG by keyword, those above included; of other formats ComfyUI's `prompt` and `workflow`.
    pub texts: Vec<(String, String)>,
}

/// Reads a file's texts. Errors: as [`crate::decode`] where the container itself is at fault; broken or long texts are
/// left out.
pub fn inspect(bytes: &[u8], limits: &Limits) -> Result<Inspection, ImageError> {
    let (format, walk) = walk(bytes, limits)?;
    let mut room = MAX_TEXT;
    let mut texts: Vec<(String, String)> =
        walk.texts.iter().filter_map(|&(kind, content)| text(kind, content, &mut room)).collect();
    let find = |keyword: &str| texts.iter().find(|(key, _)| key == keyword).map(|(_, text)| text.clone());
    let (mut parameters, mut recipe) = (find(PARAMETERS), find(RECIPE));
    if let Some(data) = walk.exif {
        let exif = exif::read(data);
        parameters = parameters.or(exif.user_comment);
        recipe = recipe.or(exif.recipe);
        texts.extend(exif.texts);
    }
    Ok(Inspection { format, width: walk.width, height: walk.height, parameters, recipe, texts })
}

/// One text chunk: keyword, NUL, then what its type says.
fn text(kind: &[u8], content: &[u8], room: &mut usize) -> Option<(String, String)> {
    let (keyword, rest) = split(content)?;
    let keyword = plain(keyword.get(..79.min(keyword.len()))?);
    let text = match (kind, packed(kind, content)) {
        (b"tEXt", _) => plain(cut(rest, *room)),
        (b"zTXt", packed) => plain(&inflate(packed?, *room)?),
        (_, Some(packed)) => String::from_utf8(inflate(packed, *room)?).ok()?,
        (_, None) => {
            let (_language, rest) = split(rest.strip_prefix(b"\0\0")?)?;
            let (_translated, rest) = split(rest)?;
            String::from_utf8(cut(rest, *room).to_vec()).ok()?
        }
    };
    *room = room.checked_sub(text.len())?;
    Some((keyword, text))
}

/// One byte more than there is room for: enough to see that it is too much.
fn cut(bytes: &[u8], room: usize) -> &[u8] {
    &bytes[..bytes.len().min(room + 1)]
}

/// Text of a chunk that the standard says is Latin-1. Many programs write UTF-8 there all the same; what is valid UTF-8
/// is hardly ever meant otherwise.
fn plain(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().map(|&b| char::from(b)).collect(),
    }
}

/// Inflates at most `room` bytes; nothing where there is more.
fn inflate(data: &[u8], room: usize) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    flate2::read::ZlibDecoder::new(data).take(room as u64 + 1).read_to_end(&mut out).ok()?;
    (out.len() <= room).then_some(out)
}

#[cfg(test)]
#[path = "inspect_tests.rs"]
pub(crate) mod tests;
