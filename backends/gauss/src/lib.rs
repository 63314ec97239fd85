//! The plugin `gauss`: an exact denoiser without weights, which proves samplers, queues and hosts without a model.
//!
//! See [`gauss`] for the mathematics and the options.

mod gauss;

backend_api::export_backend!(gauss::Gauss);

#[cfg(test)]
mod tests;
