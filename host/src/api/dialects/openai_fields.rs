//! The fields of OpenAI's images requests. Whatever else is sent at top level is a field of our own job.

use crate::api::fields::{Field, JOB_FIELDS, Kind, field, int};
use serde_json::{Map, Value};

const TEXT: Kind = Kind::Text { max: 32_768 };

/// The specification's fields that are not a job's own, or have another range there. Pictures are read on their own.
pub(crate) const FIELDS: &[Field] = &[
    field("prompt", &[], TEXT, "required; a variation needs none", "What to paint."),
    field(
        "model",
        &[],
        Kind::Text { max: 256 },
        "the worker's default model",
        "A model of this worker. OpenAI's own names (`dall-e-*`, `gpt-image-*`, `chatgpt-image-*`) mean the default model.",
    ),
    field("n", &[], int(1, 10), "1", "Pictures to make."),
    field(
        "size",
        &[],
        Kind::Text { max: 16 },
        "`auto`: the model's own, or the picture's",
        "`WIDTHxHEIGHT`, such as `512x512`.",
    ),
    field(
        "response_format",
        &[],
        Kind::Word(&["b64_json", "url"]),
        "`b64_json`; with a `dall-e` model and for variations `url`",
        "Pictures in the answer, or links to them. A link asks for the same token as every other route.",
    ),
    field("output_compression", &[], int(0, 100), "90", "JPEG and WebP quality."),
    field("stream", &[], Kind::Bool, "false", "Answer with server-sent events."),
    field("partial_images", &[], int(0, 3), "0", "Previews in the stream; fewer may come."),
    field(
        "background",
        &[],
        Kind::Word(&["opaque", "auto", "transparent"]),
        "opaque",
        "`transparent` is refused: pictures have no alpha here.",
    ),
    field(
        "quality",
        &[],
        Kind::Word(&["auto", "standard", "hd", "low", "medium", "high", "xhigh", "max"]),
        "auto",
        "Taken and told back; `steps` is what changes the work.",
    ),
    field("style", &[], Kind::Word(&["vivid", "natural"]), "none", "Taken; decides nothing."),
    field("moderation", &[], Kind::Word(&["low", "auto"]), "none", "Taken; decides nothing."),
    field("input_fidelity", &[], Kind::Word(&["high", "low"]), "none", "Taken; `strength` is what decides."),
    field("complexity", &[], Kind::Word(&["low", "medium", "high"]), "none", "Taken; decides nothing."),
    field("user", &[], Kind::Text { max: 512 }, "none", "Taken; decides nothing."),
    field("safety_identifier", &[], Kind::Text { max: 512 }, "none", "Taken; decides nothing."),
];

/// Our names of what OpenAI calls otherwise: for telling faults in the client's words.
pub(crate) const WORDS: &[(&str, &str)] = &[
    ("width", "size"),
    ("height", "size"),
    ("quality", "output_compression"),
    ("init_image", "image"),
    ("mask_image", "mask"),
];

/// Turns a form's texts into what the tables ask for: numbers, truth values, lists and objects.
pub(crate) fn typed(fields: &mut Map<String, Value>) {
    for (name, value) in fields {
        let Value::String(text) = value else { continue };
        let row = FIELDS
            .iter()
            .find(|f| f.name == name)
            .or_else(|| JOB_FIELDS.iter().find(|f| f.name == name || f.aliases.contains(&name.as_str())));
        if row.is_none_or(|row| row.kind.is_text()) {
            continue;
        }
        if let Some(meant) = serde_json::from_str::<Value>(text.trim()).ok().filter(|v| !v.is_string() && !v.is_null())
        {
            *value = meant;
        }
    }
}
