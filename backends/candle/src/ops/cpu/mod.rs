//! Our own kernels for processors.

use super::{Ops, portable::Portable};
use candle_core::Device;

/// Names of the kernels that run on this machine, best first.
pub fn available() -> Vec<&'static str> {
    vec!["portable"]
}

/// Kernels by name; `auto` takes the best. `None` for a name that is not available here.
pub fn choose(name: &str) -> Option<Box<dyn Ops>> {
    let names = available();
    let name = if name == "auto" { names.first().copied()? } else { name };
    (name == "portable").then(|| Box::new(Portable::new(Device::Cpu)) as Box<dyn Ops>)
}

/// Tells the C library to keep freed memory: every operation makes a buffer, and fresh pages cost more than many
/// operations do.
pub fn keep_freed_memory() {}
