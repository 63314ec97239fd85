//! Pictures: read from untrusted bytes within bounds, resized, masked, and written with their recipe inside.
//!
//! Nothing here knows HTTP, models or plugins. Colours are 8-bit sRGB; colour profiles are ignored, not applied.
#![forbid(unsafe_code)]

mod compose;
mod decode;
mod encode;
mod error;
mod exif;
mod fill;
mod infotext;
mod inspect;
mod latents;
mod mask;
mod outpaint;
mod picture;
mod preview;
mod recipe;
mod resample;
mod resize;
mod source;
mod tiles;

pub use compose::{CropRegion, Extend, composite, crop_region, extend, paste_back};
pub use decode::{Format, Limits, decode, sniff};
pub use encode::{Embedded, OutputFormat, encode};
pub use error::ImageError;
pub use fill::fill_masked;
pub use infotext::Infotext;
pub use inspect::{Inspection, inspect};
pub use latents::{LatentResize, resize_latents};
pub use mask::{LatentMask, Mask};
pub use picture::Picture;
pub use preview::{Factors, latents_to_rgb, preview_jpeg};
pub use recipe::Recipe;
pub use resample::{Filter, resample};
pub use resize::{ResizeMode, resize};
pub use source::bytes_from_text;
pub use tiles::{Blend, Tile, tiles};
