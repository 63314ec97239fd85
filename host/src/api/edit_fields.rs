//! The fields inside a job's objects: what `extend` and `hires` hold.

use super::fields::{Field, Kind, MAX_SIDE, field, int};

/// Most pixels by which a picture grows on one side.
const MAX_GROWTH: i128 = 2048;

/// `extend`: how far a picture grows on each side.
pub(super) const EXTEND_FIELDS: &[Field] = &[
    field("left", &[], int(0, MAX_GROWTH), "0", "Pixels to the left."),
    field("right", &[], int(0, MAX_GROWTH), "0", "Pixels to the right."),
    field("top", &[], int(0, MAX_GROWTH), "0", "Pixels upwards."),
    field("bottom", &[], int(0, MAX_GROWTH), "0", "Pixels downwards."),
];

/// `hires`: the second pass.
pub(super) const HIRES_FIELDS: &[Field] = &[
    field("scale", &[], Kind::Float { min: 1.0, max: 8.0 }, "2", "How many times as wide and high, in whole cells."),
    field(
        "width",
        &[],
        Kind::Int { min: 16, max: MAX_SIDE, step: 8 },
        "from the scale",
        "The finished width in pixels, in place of `scale`. Other proportions than the first pass's are cut on both sides.",
    ),
    field("height", &[], Kind::Int { min: 16, max: MAX_SIDE, step: 8 }, "from the scale", "The finished height."),
    field(
        "upscaler",
        &[],
        Kind::Text { max: 256 },
        "latent",
        "How the first pass's result is enlarged; `GET /v1/upscalers` lists the ways.",
    ),
    field(
        "steps",
        &[],
        int(1, 150),
        "the job's",
        "Steps of the second pass's schedule; `strength` says how many of them are run.",
    ),
    field("strength", &["denoising_strength"], Kind::Float { min: 0.0, max: 1.0 }, "0.7", "How much is redone."),
    field("sampler", &[], Kind::Text { max: 64 }, "the job's", "The second pass's sampler."),
    field("schedule", &[], Kind::Text { max: 64 }, "the job's", "How its noise levels are spaced."),
    field("prompt", &[], Kind::Text { max: 32_768 }, "the job's", "What to paint in the second pass."),
    field("negative_prompt", &[], Kind::Text { max: 32_768 }, "the job's", "What not to paint in it."),
    field("guidance_scale", &["cfg_scale"], Kind::Float { min: 0.0, max: 30.0 }, "the job's", "Its guidance."),
];
