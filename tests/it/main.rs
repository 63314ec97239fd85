//! Integration tests: a real host process, real plugins, the bundled model, over HTTP as a client would.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "tests stop at the first surprise")]

mod abuse; // wrong fields, foreign pages
#[cfg(target_os = "linux")]
mod admission; // what requests cost that come faster than they are worked on
mod batches; // split as the memory wants it
mod bounds; // how much of anything may come, how slowly, how often
#[cfg(target_os = "linux")]
mod builds; // plugins that were compiled otherwise than the worker
mod contract; // what the interface says of itself; HEAD, streams in figures
mod crash; // plugins that die or hang in processes of their own
mod devices; // several devices: which are opened, which does a job, what one's death means
mod dialects; // OpenAI and A1111 over HTTP
mod edit; // masks, sizes, outpainting, variations
mod edits; // edited pictures against diffusers
mod embeddings; // textual inversion
mod fallback; // models that a plugin cannot load, jobs that kill it twice
#[cfg(target_os = "linux")]
mod footprint; // many swaps, and the size of the idle worker
#[cfg(unix)]
mod generate; // drawing from the command line, pictures in terminals
mod hires; // second passes against two requests and against diffusers
mod hub; // models that are fetched when a job names them
mod idempotency; // requests that are sent again
mod images; // pictures of requests: bombs, damage, links, other programs' files
mod keys; // turns, rates and ids of several keys
mod lifecycle; // cancel, disconnect, full queue, shutdown
#[cfg(target_os = "linux")]
mod memory; // memory runs out by a limit of the kernel's
mod models; // several models on one device: which stay, which go
mod numbers; // outputs that are no numbers, memory that does not suffice
mod onnx; // another runtime beside candle: waits for `cargo xtask onnx`
mod parity; // whole pictures over HTTP against diffusers
mod pictures; // what tests of pictures share
mod previews; // by factors, by decoders
mod probe; // the health check of containers
mod readme; // the README's examples, word for word
mod refiner; // another model finishes the pictures
mod reload; // new versions of plugins while the worker runs
mod restart; // kill, drain, full disk: nothing gets lost
mod road; // prompt in, events and picture out
mod rules; // dependency rules, lints, words that do not belong
mod sampling; // noise levels, churn and adaptive steps of a request
#[cfg(target_os = "linux")]
mod sandbox; // models of an isolated backend
mod secrets; // tokens: asked for, never shown
mod singlefile; // single-file checkpoints, import, inspect, rm
mod streams; // readers cut at any byte; a hive in any mood
mod support; // what several of these share
mod swaps; // models while the worker runs
mod upscale; // enlarging pictures
mod webhooks; // telling others of a job's end
mod weights; // files that rot under a running worker
