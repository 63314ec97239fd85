//! The device's own thread: the backend, its models, and the commands for them one after the other.

use super::{Call, Command, Desc, LoadProgress, ModelId, Predict, Task, handle::no_model, model::Loaded, pulse::Pulse};
use crate::fault::{Fault, FaultCode};
use abi_stable::{
    sabi_trait::prelude::TD_Opaque,
    std_types::{RArc, RResult},
};
use backend_api::{BackendBox, Control, Control_TO, Ctl, MemReport, ModelSource, Stage};
use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
};

/// The control that a call receives: a flag, and where load progress goes.
struct CallControl {
    stop: Arc<AtomicBool>,
    progress: Option<LoadProgress>,
}

impl Control for CallControl {
    fn cancelled(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
    fn progress(&self, stage: Stage, done: u64, total: u64) {
        if stage == Stage::LOAD
            && let Some(progress) = &self.progress
        {
            progress(done, total);
        }
    }
}

pub(super) fn control(stop: &Arc<AtomicBool>, progress: Option<LoadProgress>) -> Ctl {
    Control_TO::from_ptr(RArc::new(CallControl { stop: stop.clone(), progress }), TD_Opaque)
}

/// What came of looking at a model or loading it. An argument that is wrong is then something in the model's own files.
fn of_model<T>(result: RResult<T, backend_api::AbiError>) -> Result<T, Fault> {
    result.into_result().map_err(|error| {
        let invalid = error.code == backend_api::Code::INVALID;
        let fault = Fault::from(error);
        if invalid { Fault { code: FaultCode::ModelInvalid, ..fault } } else { fault }
    })
}

pub(super) fn abi<T>(result: RResult<T, backend_api::AbiError>) -> Result<T, Fault> {
    result.into_result().map_err(Fault::from)
}

/// What the thread owns.
pub(super) struct Worker {
    // Field order is drop order: the models before the backend.
    models: HashMap<ModelId, Loaded>,
    backend: BackendBox,
}

impl Worker {
    pub(super) fn new(backend: BackendBox) -> Self {
        Worker { models: HashMap::new(), backend }
    }

    /// Obeys until no lane can send any more.
    pub(super) fn run(mut self, inbox: &mpsc::Receiver<Command>, pulse: &Pulse) {
        let mut backlog = VecDeque::new();
        while let Some(command) = backlog.pop_front().or_else(|| inbox.recv().ok()) {
            pulse.beat(|| match command {
                Command::Call(id, Call::Predict(first)) => {
                    let riders = self.gather(id, first, inbox, &mut backlog);
                    match self.models.get_mut(&id) {
                        Some(model) => model.predict(riders),
                        None => riders.into_iter().for_each(|r| {
                            let _ = r.reply.send(Err(no_model()));
                        }),
                    }
                }
                other => self.obey(other),
            });
        }
    }

    // A lane that gave up waiting no longer takes its answer; that is no fault of this thread.
    fn obey(&mut self, command: Command) {
        match command {
            Command::Inspect { source, reply } => {
                let _ = reply.send(of_model(self.backend.inspect(&source)));
            }
            Command::Load { id, task, source, progress, stop, reply } => {
                let _ = reply.send(self.load(id, task, &source, progress, &stop));
            }
            Command::Unload { id, reply } => {
                self.models.remove(&id);
                let _ = reply.send(Ok(()));
            }
            Command::Memory { reply } => {
                let _ = reply.send(Ok(self.backend.memory()));
            }
            Command::Call(id, call) => match self.models.get_mut(&id) {
                Some(model) => model.obey(call),
                None => call.refuse(no_model()),
            },
        }
    }

    fn load(
        &mut self,
        id: ModelId,
        task: Task,
        source: &ModelSource,
        progress: LoadProgress,
        stop: &Arc<AtomicBool>,
    ) -> Result<(Desc, MemReport), Fault> {
        let model = of_model(self.backend.load(source, &control(stop, Some(progress))))?;
        let loaded = Loaded::open(model, task)?;
        let answer = (loaded.desc(), loaded.memory());
        self.models.insert(id, loaded);
        Ok(answer)
    }

    /// Takes further waiting predictions of the same model and latent size, as many as one call may hold.
    fn gather(
        &self,
        id: ModelId,
        first: Predict,
        inbox: &mpsc::Receiver<Command>,
        backlog: &mut VecDeque<Command>,
    ) -> Vec<Predict> {
        let room = self.models.get(&id).map_or(1, Loaded::room);
        let mut count = first.items.len();
        let mut riders = vec![first];
        while count < room {
            match inbox.try_recv() {
                Ok(Command::Call(other, Call::Predict(next)))
                    if other == id && count + next.items.len() <= room && next.x.same_size(&riders[0].x) =>
                {
                    count += next.items.len();
                    riders.push(next);
                }
                Ok(other) => {
                    backlog.push_back(other);
                    break;
                }
                Err(_) => break,
            }
        }
        riders
    }
}

impl Call {
    fn refuse(self, fault: Fault) {
        // As above: nobody may be waiting.
        let _ = match self {
            Call::Text { reply, .. } => reply.send(Err(fault)).is_ok(),
            Call::Predict(one) => one.reply.send(Err(fault)).is_ok(),
            Call::Encode { reply, .. } => reply.send(Err(fault)).is_ok(),
            Call::AddTokens { reply, .. } => reply.send(Err(fault)).is_ok(),
            Call::Decode { reply, .. } | Call::Preview { reply, .. } | Call::Upscale { reply, .. } => {
                reply.send(Err(fault)).is_ok()
            }
        };
    }
}
