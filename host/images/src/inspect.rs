//! Reading the recipe that a picture carries, without decoding its pixels.

use crate::decode::walk;
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
    /// Every text of a PNG by keyword, those above included.
    pub texts: Vec<(String, String)>,
}

/// Reads a file's texts. Errors: as [`crate::decode`] where the container itself is at fault; broken or huge texts are
/// left out.
pub fn inspect(bytes: &[u8], limits: &Limits) -> Result<Inspection, ImageError> {
    let (format, walk) = walk(bytes, limits)?;
    let mut room = MAX_TEXT;
    let texts: Vec<(String, String)> =
        walk.texts.iter().filter_map(|&(kind, content)| text(kind, content, &mut room)).collect();
    let find = |keyword: &str| texts.iter().find(|(key, _)| key == keyword).map(|(_, text)| text.clone());
    let (mut parameters, mut recipe) = (find(PARAMETERS), find(RECIPE));
    if let Some(data) = walk.exif {
        let exif = exif::read(data);
        parameters = parameters.or(exif.user_comment);
        recipe = recipe.or(exif.recipe);
    }
    Ok(Inspection { format, width: walk.width, height: walk.height, parameters, recipe, texts })
}

/// One text chunk: keyword, NUL, then what its type says.
fn text(kind: &[u8], content: &[u8], room: &mut usize) -> Option<(String, String)> {
    let (keyword, rest) = split(content)?;
    let keyword = latin1(keyword.get(..79.min(keyword.len()))?);
    let text = match kind {
        b"tEXt" => latin1(rest.get(..)?.get(..rest.len().min(*room + 1))?),
        b"zTXt" => latin1(&inflate(rest.strip_prefix(b"\0")?, *room)?),
        _ => {
            let (&compressed, rest) = rest.split_first()?;
            let rest = rest.get(1..)?;
            let (_language, rest) = split(rest)?;
            let (_translated, rest) = split(rest)?;
            match compressed {
                0 => String::from_utf8(rest.get(..rest.len().min(*room + 1))?.to_vec()).ok()?,
                _ => String::from_utf8(inflate(rest, *room)?).ok()?,
            }
        }
    };
    *room = room.checked_sub(text.len())?;
    Some((keyword, text))
}

fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|&b| b == 0)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|&b| char::from(b)).collect()
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
