//! An opened device.

use super::{
    memory,
    model::{Loaded, Parts, plan},
};
use crate::{Error, Result, ops::Ops};
use backend_api::{AbiError, Ctl, MemReport, ModelPlan, ModelSource, author};
use rayon::ThreadPool;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// A device with its operations and the threads that run them.
pub struct CandleBackend {
    ops: Arc<dyn Ops>,
    pool: Arc<ThreadPool>,
    loaded: Mutex<Vec<Weak<Parts>>>,
}

impl CandleBackend {
    /// `threads`: how many compute; at least one.
    pub fn new(ops: Arc<dyn Ops>, threads: usize) -> Result<Self> {
        let builder =
            rayon::ThreadPoolBuilder::new().num_threads(threads.max(1)).thread_name(|i| format!("sd-cpu-{i}"));
        let pool = builder.build().map_err(|e| Error::Operation(e.to_string()))?;
        Ok(CandleBackend { ops, pool: Arc::new(pool), loaded: Mutex::new(Vec::new()) })
    }
}

impl author::Backend for CandleBackend {
    fn memory(&self) -> MemReport {
        let (device_total, device_free) = memory::system();
        let mut report = MemReport { device_total, device_free, weights: 0, scratch: 0 };
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        loaded.retain(|parts| parts.strong_count() > 0);
        for parts in loaded.iter().filter_map(Weak::upgrade) {
            let held = author::Model::memory(&Loaded(parts));
            report.weights += held.weights;
            report.scratch += held.scratch;
        }
        report
    }

    fn inspect(&self, source: &ModelSource) -> Result<ModelPlan, AbiError> {
        Ok(plan(source)?)
    }

    fn load(&self, source: &ModelSource, ctl: &Ctl) -> Result<Box<dyn author::Model>, AbiError> {
        let load = || Parts::load(source, self.ops.clone(), self.pool.clone(), ctl);
        let parts = Arc::new(self.pool.install(load)?);
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&parts));
        Ok(Box::new(Loaded(parts)))
    }
}
