//! A host from the future opens the plugin named on its command line with today's loader, and says what it found.
#![allow(dead_code, clippy::unwrap_used, reason = "the loader's files are shared whole; a test program may fail")]

#[path = "../../../../host/plugins/src/error.rs"]
mod error;
#[path = "../../../../host/plugins/src/load.rs"]
mod load;
#[path = "../../../../host/plugins/src/pinned.rs"]
mod pinned;
mod hardware {
    pub(crate) fn label(device: &backend_api::HwDevice) -> &str {
        device.name.as_str()
    }
}

use backend_api::{
    Host, Host_TO, HwDevice, HwKind, LogLevel,
    abi_stable::{
        sabi_trait::prelude::TD_Opaque,
        std_types::{RArc, RSlice, RStr, RVec},
    },
};
pub(crate) use error::PluginError;

#[derive(Clone)]
struct Quiet;
impl Host for Quiet {
    fn log(&self, _: LogLevel, _: RStr<'_>, _: RStr<'_>) {}
}

fn main() {
    let path = std::env::args_os().nth(1).unwrap();
    let path = std::fs::canonicalize(path).unwrap();
    let device = HwDevice {
        kind: HwKind::CPU,
        vendor_id: 0,
        device_id: 0,
        bus_id: "".into(),
        name: "cpu".into(),
        mem_total: 0,
        features: RVec::new(),
        params: RVec::new(),
    };
    let library = match load::open(&path) {
        Ok(library) => library,
        Err(e) => return println!("refused: {e}"),
    };
    let about = load::describe(library, &path, std::slice::from_ref(&device)).unwrap();
    let host = Host_TO::from_ptr(RArc::new(Quiet), TD_Opaque);
    let backend = (library.module.open())(&device, RSlice::EMPTY, host).unwrap();
    // The trailing function is missing in a 1.0 plugin; the trailing method runs its default.
    let test = library.module.self_test().map(|f| f());
    println!(
        "interface {}; self_test {test:?}; idle {}; total {}",
        about.interface,
        backend.idle(),
        backend.memory().device_total
    );
}
