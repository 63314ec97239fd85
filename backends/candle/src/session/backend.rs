//! An opened device.

use super::{
    model::{Loaded, Parts, plan},
    upscale::{self, Enlarger, LoadedUpscaler},
};
use crate::{Error, Result, ops::Ops};
use backend_api::{
    AbiError, Ctl, MemReport, ModelPlan, ModelSource,
    author::{self, system_memory},
};
use rayon::ThreadPool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// A device with its operations and the threads that run them.
pub struct CandleBackend {
    ops: Arc<dyn Ops>,
    pool: Arc<ThreadPool>,
    loaded: Living<Parts>,
    upscalers: Living<Enlarger>,
}

/// What was loaded and is still there. A weak reference keeps the block that its object lay in, so those to objects that
/// are gone are dropped whenever one comes or is counted.
struct Living<T>(Mutex<Vec<Weak<T>>>);

impl<T> Living<T> {
    fn swept(&self) -> MutexGuard<'_, Vec<Weak<T>>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|one| one.strong_count() > 0);
        all
    }

    fn add(&self, one: &Arc<T>) {
        self.swept().push(Arc::downgrade(one));
    }

    fn all(&self) -> Vec<Arc<T>> {
        self.swept().iter().filter_map(Weak::upgrade).collect()
    }
}

impl CandleBackend {
    /// `threads`: how many compute; at least one.
    pub fn new(ops: Arc<dyn Ops>, threads: usize) -> Result<Self> {
        let builder =
            rayon::ThreadPoolBuilder::new().num_threads(threads.max(1)).thread_name(|i| format!("sd-cpu-{i}"));
        let pool = builder.build().map_err(|e| Error::Operation(e.to_string()))?;
        Ok(CandleBackend {
            ops,
            pool: Arc::new(pool),
            loaded: Living(Mutex::default()),
            upscalers: Living(Mutex::default()),
        })
    }
}

impl author::Backend for CandleBackend {
    fn memory(&self) -> MemReport {
        let (device_total, device_free) = system_memory();
        let mut report = MemReport { device_total, device_free, weights: 0, scratch: 0 };
        for parts in self.loaded.all() {
            let held = author::Model::memory(&Loaded(parts));
            report.weights += held.weights;
            report.scratch += held.scratch;
        }
        for enlarger in self.upscalers.all() {
            report.weights += author::Model::memory(&LoadedUpscaler(enlarger)).weights;
        }
        report
    }

    fn inspect(&self, source: &ModelSource) -> Result<ModelPlan, AbiError> {
        Ok(if upscale::is_upscaler(source) { upscale::plan(source)? } else { plan(source)? })
    }

    fn load(&self, source: &ModelSource, ctl: &Ctl) -> Result<Box<dyn author::Model>, AbiError> {
        if upscale::is_upscaler(source) {
            let load = || Enlarger::load(source, self.ops.clone(), self.pool.clone(), ctl);
            let enlarger = Arc::new(self.pool.install(load)?);
            self.upscalers.add(&enlarger);
            return Ok(Box::new(LoadedUpscaler(enlarger)));
        }
        let load = || Parts::load(source, self.ops.clone(), self.pool.clone(), ctl);
        let parts = Arc::new(self.pool.install(load)?);
        self.loaded.add(&parts);
        Ok(Box::new(Loaded(parts)))
    }
}
