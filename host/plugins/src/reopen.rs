//! A device in this process that is opened anew after a panic: the author's guard refuses a poisoned device for ever.

use crate::load::Library;
use backend_api::{
    AbiError, Backend, Backend_TO, BackendBox, Code, Ctl, HostRef, HwDevice, MemReport, ModelBox, ModelPlan,
    ModelSource, Param, Res,
    abi_stable::{sabi_trait::prelude::TD_Opaque, std_types::RErr},
};
use std::sync::{Arc, PoisonError, RwLock};

struct Reopening {
    library: Library,
    device: HwDevice,
    options: Vec<Param>,
    host: HostRef,
    backend: RwLock<Arc<BackendBox>>,
}

/// Opens a device, now and after each panic.
pub(crate) fn open(
    library: Library,
    device: HwDevice,
    options: Vec<Param>,
    host: HostRef,
) -> Result<BackendBox, AbiError> {
    let first = fresh(library, &device, &options, &host)?;
    let backend = RwLock::new(Arc::new(first));
    Ok(Backend_TO::from_value(Reopening { library, device, options, host, backend }, TD_Opaque))
}

fn fresh(library: Library, device: &HwDevice, options: &[Param], host: &HostRef) -> Result<BackendBox, AbiError> {
    (library.module.open())(device, options.into(), host.clone()).into_result()
}

impl Reopening {
    fn now(&self) -> Arc<BackendBox> {
        Arc::clone(&self.backend.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes a call; a device that panicked in it is replaced before the answer goes out.
    fn call<T>(&self, call: impl FnOnce(&BackendBox) -> Res<T>) -> Res<T> {
        let backend = self.now();
        let result = call(&backend);
        if let RErr(e) = &result
            && [Code::PANICKED, Code::PRECONDITION, Code::DEVICE_LOST].contains(&e.code)
            && let Ok(new) = fresh(self.library, &self.device, &self.options, &self.host)
        {
            let mut slot = self.backend.write().unwrap_or_else(PoisonError::into_inner);
            // Another thread may have replaced it already.
            if Arc::ptr_eq(&slot, &backend) {
                *slot = Arc::new(new);
            }
        }
        result
    }
}

impl Backend for Reopening {
    fn memory(&self) -> MemReport {
        self.now().memory()
    }
    fn inspect(&self, source: &ModelSource) -> Res<ModelPlan> {
        self.call(|b| b.inspect(source))
    }
    fn load(&self, source: &ModelSource, ctl: &Ctl) -> Res<ModelBox> {
        self.call(|b| b.load(source, ctl))
    }
}
