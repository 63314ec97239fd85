//! The lanes' hand on a device: sends commands to its thread, and notices when no answer comes.

use super::{Call, Command, Desc, LoadProgress, ModelId, Reply, Task, pulse::Pulse, thread::Worker};
use crate::fault::{Fault, FaultCode};
use backend_api::{BackendBox, MemReport, ModelPlan, ModelSource};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

/// Commands that may wait for one device. Lanes wait for each answer, so more than their number never stand here.
const MAX_COMMANDS: usize = 256;

/// Which plugin drives which device.
#[derive(Debug, Clone)]
pub struct Tag {
    /// A label such as `cpu` or `cuda:0`.
    pub device: Arc<str>,
    /// The plugin's id.
    pub backend: Arc<str>,
    /// The plugin's version.
    pub version: Arc<str>,
    /// The name of the file that it was opened from.
    pub file: Arc<str>,
}

impl std::fmt::Display for Tag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.backend, self.version)
    }
}

/// A device. When the last clone goes, its thread drops all models and the backend, and ends.
#[derive(Debug, Clone)]
pub struct Device {
    /// What it is.
    pub tag: Tag,
    commands: mpsc::SyncSender<Command>,
    pulse: Arc<Pulse>,
    call_limit: Duration,
}

impl Device {
    /// Starts the device's thread, which opens the backend itself and answers one fact about it. `call_limit` is the
    /// longest a single call may take before the device counts as hung.
    pub fn start<E, T>(
        call_limit: Duration,
        open: impl FnOnce() -> Result<(BackendBox, Tag, T), E> + Send + 'static,
    ) -> Result<(Device, T), Fault>
    where
        E: Send + 'static,
        Fault: From<E>,
        T: Send + 'static,
    {
        let (commands, inbox) = mpsc::sync_channel(MAX_COMMANDS);
        let (opened, answer) = mpsc::sync_channel(1);
        let pulse = Arc::new(Pulse::default());
        let beating = pulse.clone();
        std::thread::Builder::new()
            .name("device".to_owned())
            .spawn(move || {
                let (backend, tag, fact) = match open() {
                    Ok(parts) => parts,
                    Err(error) => {
                        // Whoever asked waits for exactly this answer.
                        let _ = opened.send(Err(error));
                        return;
                    }
                };
                if opened.send(Ok((tag, fact))).is_ok() {
                    Worker::new(backend).run(&inbox, &beating);
                }
            })
            .map_err(|e| Fault::internal(format!("a thread could not be started: {e}")))?;
        let (tag, fact) = answer.recv().map_err(|_| Fault::internal("the device's thread ended while opening"))??;
        Ok((Device { tag, commands, pulse, call_limit }, fact))
    }

    /// The same device with another limit for a single call.
    #[must_use]
    pub fn with_call_limit(self, call_limit: Duration) -> Self {
        Device { call_limit, ..self }
    }

    /// Whether a call outlived its limit and has not come back.
    pub fn is_stuck(&self) -> bool {
        self.pulse.is_stuck()
    }

    fn ask<T>(&self, stop: Option<&AtomicBool>, make: impl FnOnce(Reply<T>) -> Command) -> Result<T, Fault> {
        let gone = || Fault::new(FaultCode::BackendDied, "the device's thread has ended; restart the worker");
        let hung = || Fault::new(FaultCode::BackendHung, "the backend does not answer");
        if self.is_stuck() {
            return Err(hung());
        }
        let (reply, answer) = mpsc::sync_channel(1);
        self.commands.send(make(reply)).map_err(|_| gone())?;
        let mut stopped = None;
        loop {
            match answer.recv_timeout(Duration::from_millis(250)) {
                Ok(result) => return result,
                Err(mpsc::RecvTimeoutError::Disconnected) => return Err(gone()),
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    if stopped.is_none() && stop.is_some_and(|s| s.load(Ordering::Acquire)) {
                        // A call that polls its control comes back soon; one that does not gets the limit from here on.
                        stopped = Some(Instant::now());
                    }
                    if self.pulse.outlived(self.call_limit, stopped) {
                        return Err(hung());
                    }
                }
            }
        }
    }

    /// Calls one of the device's models.
    pub(in crate::engine) fn call<T>(
        &self,
        model: ModelId,
        stop: Option<&AtomicBool>,
        make: impl FnOnce(Reply<T>) -> Call,
    ) -> Result<T, Fault> {
        self.ask(stop, |reply| Command::Call(model, make(reply)))
    }

    /// What loading a model would need, from its headers.
    pub fn inspect(&self, source: &ModelSource) -> Result<ModelPlan, Fault> {
        self.ask(None, |reply| Command::Inspect { source: Box::new(source.clone()), reply })
    }

    /// Loads a model beside those that are there, and opens it for a task.
    pub fn load(
        &self,
        id: ModelId,
        task: Task,
        source: &ModelSource,
        progress: LoadProgress,
        stop: &Arc<AtomicBool>,
    ) -> Result<(Desc, MemReport), Fault> {
        self.ask(Some(stop), |reply| Command::Load {
            id,
            task,
            source: Box::new(source.clone()),
            progress,
            stop: stop.clone(),
            reply,
        })
    }

    /// Drops a model.
    pub fn unload(&self, id: ModelId) -> Result<(), Fault> {
        self.ask(None, |reply| Command::Unload { id, reply })
    }

    /// Drops a model without waiting for it.
    pub fn forget(&self, id: ModelId) {
        let (reply, _) = mpsc::sync_channel(1);
        // A thread that takes no commands has no model to drop, or will never get to it.
        let _ = self.commands.try_send(Command::Unload { id, reply });
    }

    /// The device's memory.
    pub fn memory(&self) -> Result<MemReport, Fault> {
        self.ask(None, |reply| Command::Memory { reply })
    }
}

/// What a lane hears when its model is gone.
pub(super) fn no_model() -> Fault {
    Fault::new(FaultCode::NotReady, "the model is no longer on this device")
}
