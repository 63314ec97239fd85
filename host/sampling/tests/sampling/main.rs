//! Tests of the sampling crate from outside, one binary.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper that fails is a test that fails")]
#![allow(clippy::excessive_precision, reason = "reference numbers, as they were printed")]

mod closed_form;
mod names;
mod noise;
mod parity;
mod runs;
mod support;
