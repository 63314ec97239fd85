//! From networks to a backend: loading, sessions, memory.

mod backend;
mod decode;
mod diffusion;
mod memory;
mod model;
mod text;
mod tiles;
mod upscale;

pub use backend::CandleBackend;
