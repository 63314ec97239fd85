//! One network: an ONNX file opened by the runtime, and a run that can be stopped.

use backend_api::{AbiError, Code, Ctl, author::log};
use ort::{
    session::{RunOptions, Session, SessionInputValue, builder::GraphOptimizationLevel},
    tensor::TensorElementType,
    value::{Tensor, ValueType},
};
use std::{
    borrow::Cow,
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// How often a running network's caller is asked whether to go on.
const LOOK: Duration = Duration::from_millis(2);

/// An error of the runtime: its words name files, so they go to the log only.
pub(crate) fn failed(what: &str, error: &ort::Error) -> AbiError {
    let words = error.to_string();
    let memory = ["Failed to allocate memory", "bad_alloc", "std::bad_alloc"].iter().any(|sign| words.contains(sign));
    let (code, message) = match error.code() {
        _ if memory => (Code::OOM, format!("not enough memory for the {what}")),
        ort::ErrorCode::InvalidProtobuf
        | ort::ErrorCode::NoModel
        | ort::ErrorCode::NoSuchFile
        | ort::ErrorCode::InvalidGraph => (Code::DATA_LOSS, format!("the {what} is no ONNX model that can be read")),
        ort::ErrorCode::NotImplemented => {
            (Code::UNSUPPORTED, format!("this ONNX Runtime lacks an operation of the {what}"))
        }
        _ => (Code::INTERNAL, format!("ONNX Runtime failed in the {what}")),
    };
    log::debug("onnx", &words);
    AbiError::new(code, message).with_detail(words)
}

/// A tensor to feed, in the terms of the interface; the network's own types decide what becomes of it.
pub(crate) enum Feed<'a> {
    Floats(&'a [f32]),
    Tokens(&'a [u32]),
}

/// An input as the network declares it.
struct Input {
    name: String,
    kind: TensorElementType,
    rank: usize,
}

pub(crate) struct Network {
    what: &'static str,
    session: Mutex<Session>,
    inputs: Vec<Input>,
    outputs: Vec<String>,
}

impl Network {
    /// Opens a file. `threads` = 0 leaves the number to the runtime.
    pub(crate) fn open(what: &'static str, path: &Path, threads: usize) -> Result<Self, AbiError> {
        let build = || {
            Session::builder()?
                .with_optimization_level(GraphOptimizationLevel::Level3)?
                .with_intra_threads(threads)?
                // Between two steps the machine is for others.
                .with_intra_op_spinning(false)?
                // Shapes differ from call to call.
                .with_memory_pattern(false)?
                .commit_from_file(path)
        };
        let session = build().map_err(|e| failed(what, &e))?;
        let input = |input: &ort::session::Input| match &input.input_type {
            ValueType::Tensor { ty, shape, .. } => Ok(Input { name: input.name.clone(), kind: *ty, rank: shape.len() }),
            _ => Err(AbiError::unsupported(&format!("the inputs of this {what}"))),
        };
        let inputs = session.inputs.iter().map(input).collect::<Result<_, _>>()?;
        let outputs = session.outputs.iter().map(|output| output.name.clone()).collect();
        Ok(Network { what, session: Mutex::new(session), inputs, outputs })
    }

    pub(crate) fn has_output(&self, name: &str) -> bool {
        self.outputs.iter().any(|output| output == name)
    }

    /// Whether every input is one of these.
    pub(crate) fn takes_only(&self, names: &[&str]) -> Result<(), AbiError> {
        match self.inputs.iter().find(|input| !names.contains(&input.name.as_str())) {
            None => Ok(()),
            Some(input) => Err(AbiError::unsupported(&format!(
                "the input `{}` of the {}",
                input.name.chars().take(60).collect::<String>(),
                self.what
            ))),
        }
    }

    fn value(&self, input: &Input, shape: &[i64], feed: &Feed<'_>) -> Result<SessionInputValue<'static>, AbiError> {
        // A single number may be declared without extents.
        let shape = if input.rank == 0 { Vec::new() } else { shape.to_vec() };
        let made = match (feed, input.kind) {
            (Feed::Floats(v), TensorElementType::Float32) => Tensor::from_array((shape, v.to_vec())).map(Into::into),
            // Older exports take whole timesteps.
            (Feed::Floats(v), TensorElementType::Int64) => {
                Tensor::from_array((shape, v.iter().map(|v| v.round() as i64).collect::<Vec<_>>())).map(Into::into)
            }
            (Feed::Tokens(v), TensorElementType::Int64) => {
                Tensor::from_array((shape, v.iter().map(|v| i64::from(*v)).collect::<Vec<_>>())).map(Into::into)
            }
            (Feed::Tokens(v), TensorElementType::Int32) => {
                Tensor::from_array((shape, v.iter().map(|v| *v as i32).collect::<Vec<_>>())).map(Into::into)
            }
            (_, kind) => {
                return Err(AbiError::unsupported(&format!("{kind:?} as `{}` of the {}", input.name, self.what)));
            }
        };
        made.map_err(|e| failed(self.what, &e))
    }

    /// Runs the network: answers one output's values and shape. Stops when the caller asks for it.
    pub(crate) fn run(
        &self,
        feeds: &[(&str, &[i64], Feed<'_>)],
        output: &str,
        ctl: &Ctl,
    ) -> Result<(Vec<f32>, Vec<i64>), AbiError> {
        let mut values: Vec<(Cow<'_, str>, SessionInputValue<'static>)> = Vec::with_capacity(self.inputs.len());
        for input in &self.inputs {
            let feed = feeds.iter().find(|(name, ..)| *name == input.name);
            let (_, shape, feed) = feed.ok_or_else(|| AbiError::internal(format!("no input for `{}`", input.name)))?;
            values.push((Cow::Borrowed(input.name.as_str()), self.value(input, shape, feed)?));
        }
        let options = RunOptions::new().map_err(|e| failed(self.what, &e))?;
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        if ctl.cancelled() {
            return Err(AbiError::cancelled());
        }
        let (done, stopped) = (AtomicBool::new(false), AtomicBool::new(false));
        let outcome = std::thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                loop {
                    std::thread::park_timeout(LOOK);
                    if done.load(Ordering::Acquire) {
                        return;
                    }
                    if ctl.cancelled() {
                        stopped.store(true, Ordering::Release);
                        // The run ends at its next node.
                        let _ = options.terminate();
                        return;
                    }
                }
            });
            let outcome =
                session.run_with_options(values, &options).map_err(|e| failed(self.what, &e)).and_then(|out| {
                    let value = out.get(output).ok_or_else(|| {
                        AbiError::unsupported(&format!("a {} without the output `{output}`", self.what))
                    })?;
                    let (shape, values) = value.try_extract_tensor::<f32>().map_err(|e| failed(self.what, &e))?;
                    Ok((values.to_vec(), shape.to_vec()))
                });
            done.store(true, Ordering::Release);
            watcher.thread().unpark();
            outcome
        });
        if stopped.load(Ordering::Acquire) { Err(AbiError::cancelled()) } else { outcome }
    }
}
