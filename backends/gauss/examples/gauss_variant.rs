//! The plugin `gauss` once more, under a name of its own, so that builds for other processors (`cargo xtask variants
//! --gauss`) do not replace it.

#[path = "../src/gauss/mod.rs"]
mod gauss;

backend_api::export_backend!(gauss::Gauss);
