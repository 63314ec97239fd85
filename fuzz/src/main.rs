//! The fuzzer: libFuzzer over the target that `SD_FUZZ_TARGET` names. `cargo xtask fuzz TARGET` builds and runs it.
#![no_main]
#![allow(clippy::panic, reason = "a target that is not there cannot be run")]

use libfuzzer_sys::fuzz_target;
use std::sync::OnceLock;

static TARGET: OnceLock<&sd_fuzz::Target> = OnceLock::new();

fuzz_target!(|data: &[u8]| {
    let target = TARGET.get_or_init(|| {
        let name = std::env::var("SD_FUZZ_TARGET").unwrap_or_default();
        sd_fuzz::find(&name).unwrap_or_else(|| panic!("SD_FUZZ_TARGET must be one of {}", sd_fuzz::names().join(", ")))
    });
    (target.run)(data);
});
