//! What crosses the sockets between the host and a child.

use crate::load::Description;
use backend_api::{
    AbiError, Code, DType, DiffusionDesc, EncoderDesc, HwDevice, HwKind, LogLevel, MemReport, ModelPlan, ModelSource,
    Param, Task, UpscalerDesc,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::io::{Error, ErrorKind, Read, Result, Write};

/// The longest frame that the host takes from a child.
pub(super) const FROM_CHILD: u32 = 4 << 20;
/// The longest frame that a child takes from the host.
pub(super) const FROM_HOST: u32 = 256 << 20;

pub(super) type Pairs = Vec<(String, String)>;

pub(super) fn pairs(params: &[Param]) -> Pairs {
    params.iter().map(|p| (p.key.to_string(), p.value.to_string())).collect()
}

pub(super) fn params(pairs: &Pairs) -> Vec<Param> {
    pairs.iter().map(|(key, value)| Param { key: key.as_str().into(), value: value.as_str().into() }).collect()
}

/// A tensor in the shared memory.
#[derive(Serialize, Deserialize, Debug, Clone)]
pub(super) struct Tensor {
    pub(super) name: String,
    pub(super) dtype: u32,
    pub(super) shape: Vec<u64>,
    pub(super) offset: usize,
    pub(super) len: usize,
}

impl Tensor {
    pub(super) fn dtype(&self) -> DType {
        DType(self.dtype)
    }
}

#[derive(Serialize, Deserialize, Debug)]
pub(super) struct Item {
    pub(super) cond: u64,
    pub(super) timestep: f32,
    pub(super) sigma: f32,
    pub(super) extra: Vec<Tensor>,
    pub(super) params: Pairs,
}

#[derive(Serialize, Deserialize, Debug)]
pub(super) struct Input {
    pub(super) encoder: u32,
    pub(super) chunk_length: u32,
    pub(super) tokens: Vec<u32>,
    pub(super) weights: Vec<f32>,
    pub(super) empty: Vec<u32>,
    pub(super) params: Pairs,
}

#[derive(Serialize, Deserialize, Debug)]
pub(super) struct Device {
    kind: u32,
    vendor_id: u32,
    device_id: u32,
    bus_id: String,
    name: String,
    mem_total: u64,
    features: Vec<String>,
    params: Pairs,
}

impl From<&HwDevice> for Device {
    fn from(d: &HwDevice) -> Self {
        Device {
            kind: d.kind.0,
            vendor_id: d.vendor_id,
            device_id: d.device_id,
            bus_id: d.bus_id.to_string(),
            name: d.name.to_string(),
            mem_total: d.mem_total,
            features: d.features.iter().map(ToString::to_string).collect(),
            params: pairs(&d.params),
        }
    }
}

impl From<&Device> for HwDevice {
    fn from(d: &Device) -> Self {
        HwDevice {
            kind: HwKind(d.kind),
            vendor_id: d.vendor_id,
            device_id: d.device_id,
            bus_id: d.bus_id.as_str().into(),
            name: d.name.as_str().into(),
            mem_total: d.mem_total,
            features: d.features.iter().map(|f| f.as_str().into()).collect(),
            params: params(&d.params).into(),
        }
    }
}

#[derive(Serialize, Deserialize, Debug)]
pub(super) struct Source {
    name: String,
    files: Pairs,
    configs: Pairs,
    options: Pairs,
}

impl From<&ModelSource> for Source {
    fn from(s: &ModelSource) -> Self {
        Source {
            name: s.name.to_string(),
            files: pairs(&s.files),
            configs: pairs(&s.configs),
            options: pairs(&s.options),
        }
    }
}

impl From<&Source> for ModelSource {
    fn from(s: &Source) -> Self {
        ModelSource {
            name: s.name.as_str().into(),
            files: params(&s.files).into(),
            configs: params(&s.configs).into(),
            options: params(&s.options).into(),
        }
    }
}

/// From the host.
#[derive(Serialize, Deserialize, Debug)]
pub(super) enum Request {
    /// Load the library and say what it is.
    Probe {
        hardware: Vec<Device>,
    },
    Open {
        device: Device,
        options: Pairs,
    },
    Load {
        source: Source,
    },
    Diffusion {
        model: u64,
        options: Pairs,
    },
    Upscaler {
        model: u64,
        options: Pairs,
    },
    EncodeText {
        session: u64,
        inputs: Vec<Input>,
        params: Pairs,
    },
    FreeCond {
        session: u64,
        cond: u64,
    },
    Predict {
        session: u64,
        x: Tensor,
        items: Vec<Item>,
        out: Tensor,
    },
    Decode {
        session: u64,
        latents: Tensor,
        options: Pairs,
        out: Tensor,
    },
    Encode {
        session: u64,
        image: Tensor,
        options: Pairs,
        out: Tensor,
    },
    Preview {
        session: u64,
        latents: Tensor,
        out: Tensor,
    },
    AddTokens {
        session: u64,
        encoder: u32,
        vectors: Tensor,
    },
    Upscale {
        session: u64,
        image: Tensor,
        out: Tensor,
    },
    DropSession {
        session: u64,
    },
    DropModel {
        model: u64,
    },
    // The side socket takes these.
    Ping,
    Memory,
    ModelMemory {
        model: u64,
    },
    Inspect {
        source: Source,
    },
}

/// From the child.
#[derive(Serialize, Deserialize, Debug)]
pub(super) enum Reply {
    /// To [`Request::Probe`].
    Described(Description),
    /// To [`Request::Probe`]: `code` and `reason` of a [`crate::PluginError`].
    Refused {
        code: String,
        reason: String,
    },
    Done,
    Failed(Failure),
    Model {
        id: u64,
    },
    Diffusion {
        id: u64,
        desc: Desc,
    },
    Upscaler {
        id: u64,
        factor: u32,
        tile: u32,
        overlap: u32,
        params: Pairs,
    },
    Encoded {
        cond: u64,
        tokens: u32,
        bytes: u64,
        params: Pairs,
    },
    Stats {
        device_ns: u64,
    },
    Token {
        first: u32,
    },
    /// How far a call is; not the end of it.
    Progress {
        stage: u32,
        done: u64,
        total: u64,
    },
    Pong,
    Memory {
        device_total: u64,
        device_free: u64,
        weights: u64,
        scratch: u64,
    },
    Plan {
        task: u32,
        weight_bytes: u64,
        peak_bytes: u64,
        params: Pairs,
    },
    /// A line for the log; not an answer.
    Log {
        level: u32,
        target: String,
        message: String,
    },
}

#[derive(Serialize, Deserialize, Debug)]
pub(super) struct Failure {
    code: u32,
    message: String,
    detail: String,
}

impl From<&AbiError> for Failure {
    fn from(e: &AbiError) -> Self {
        let cut = |text: &str, most: usize| crate::error::clean(text, most);
        Failure { code: e.code.0, message: cut(&e.message, 2000), detail: cut(&e.detail, 8000) }
    }
}

impl From<Failure> for AbiError {
    fn from(f: Failure) -> Self {
        AbiError { code: Code(f.code), message: f.message.into(), detail: f.detail.into() }
    }
}

#[derive(Serialize, Deserialize, Debug)]
pub(super) struct Desc {
    latent_channels: u32,
    vae_factor: u32,
    sample_size: u32,
    max_batch: u32,
    encoders: Vec<(String, u32, u32, u32, Pairs)>,
    inputs: Vec<String>,
    params: Pairs,
}

impl From<&DiffusionDesc> for Desc {
    fn from(d: &DiffusionDesc) -> Self {
        let encoder =
            |e: &EncoderDesc| (e.name.to_string(), e.max_length, e.hidden_size, e.vocab_size, pairs(&e.params));
        Desc {
            latent_channels: d.latent_channels,
            vae_factor: d.vae_factor,
            sample_size: d.sample_size,
            max_batch: d.max_batch,
            encoders: d.encoders.iter().map(encoder).collect(),
            inputs: d.inputs.iter().map(ToString::to_string).collect(),
            params: pairs(&d.params),
        }
    }
}

impl From<&Desc> for DiffusionDesc {
    fn from(d: &Desc) -> Self {
        let encoder =
            |(name, max_length, hidden_size, vocab_size, more): &(String, u32, u32, u32, Pairs)| EncoderDesc {
                name: name.as_str().into(),
                max_length: *max_length,
                hidden_size: *hidden_size,
                vocab_size: *vocab_size,
                params: params(more).into(),
            };
        DiffusionDesc {
            latent_channels: d.latent_channels,
            vae_factor: d.vae_factor,
            sample_size: d.sample_size,
            max_batch: d.max_batch,
            encoders: d.encoders.iter().map(encoder).collect(),
            inputs: d.inputs.iter().map(|i| i.as_str().into()).collect(),
            params: params(&d.params).into(),
        }
    }
}

pub(super) fn upscaler(factor: u32, tile: u32, overlap: u32, more: &Pairs) -> UpscalerDesc {
    UpscalerDesc { factor, tile, overlap, params: params(more).into() }
}

pub(super) fn memory(m: MemReport) -> Reply {
    let MemReport { device_total, device_free, weights, scratch } = m;
    Reply::Memory { device_total, device_free, weights, scratch }
}

pub(super) fn plan(plan: &ModelPlan) -> Reply {
    Reply::Plan {
        task: plan.task.0,
        weight_bytes: plan.weight_bytes,
        peak_bytes: plan.peak_bytes,
        params: pairs(&plan.params),
    }
}

pub(super) fn model_plan(task: u32, weight_bytes: u64, peak_bytes: u64, more: &Pairs) -> ModelPlan {
    ModelPlan { task: Task(task), weight_bytes, peak_bytes, params: params(more).into() }
}

pub(super) fn log(level: LogLevel, target: &str, message: &str) -> Reply {
    let clean = crate::error::clean;
    Reply::Log { level: level.0, target: clean(target, 64), message: clean(message, 4096) }
}

/// Writes one frame, in one call.
pub(super) fn send(mut to: impl Write, message: &impl Serialize) -> Result<()> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, message)?;
    let len = u32::try_from(frame.len() - 4).map_err(|_| Error::from(ErrorKind::InvalidInput))?;
    frame[..4].copy_from_slice(&len.to_le_bytes());
    to.write_all(&frame)
}

/// Reads one frame of at most `most` bytes. An end between frames is `UnexpectedEof`, anything odd `InvalidData`.
pub(super) fn receive<T: DeserializeOwned>(mut from: impl Read, most: u32) -> Result<T> {
    let mut len = [0; 4];
    from.read_exact(&mut len)?;
    let len = u32::from_le_bytes(len);
    if len > most {
        return Err(Error::new(ErrorKind::InvalidData, format!("a frame of {len} bytes")));
    }
    let mut frame = vec![0; len as usize];
    from.read_exact(&mut frame)?;
    serde_json::from_slice(&frame).map_err(|e| Error::new(ErrorKind::InvalidData, e))
}
