//! The plugin `rogue`: the Gaussian backend, until it is told to misbehave. For tests of the host only.
//!
//! A script is a comma-separated list of `deed@method[:n][?first|?a..b|?child]`, from the environment variable `SD_ROGUE` or from the
//! option `rogue` of `open` or of a model. Without `:n` the deed is done at every call, else at the n-th call (1 = the
//! first) of that method in this process. With `?first` only the first process of a backend does it, so a restarted one
//! behaves; with `?a..b` those from the a-th to the b-th, either of which may be left out; with `?child`
//! every process that the worker made for the plugin. [`deeds`] lists the deeds; methods have the names of the interface, with `model_memory`
//! for a model's and `ctor` for the constructor that runs inside `dlopen`.

mod ctor;
mod deeds;
#[path = "../../gauss/src/gauss/mod.rs"]
mod gauss;
mod script;
mod wrap;

backend_api::export_backend!(wrap::Rogue);
