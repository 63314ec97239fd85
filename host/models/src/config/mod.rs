//! What the JSON configs of diffusers and transformers say about a network's shape.

pub(crate) mod clip;
mod fields;
pub(crate) mod unet;
pub(crate) mod vae;

pub(crate) use fields::Fields;
