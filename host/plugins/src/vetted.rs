//! The host's guard around a backend, in this process or in a child: no answer is believed before it was checked.
//!
//! * Outputs are filled with NaN before a call; one that comes back with a value that is not finite is an error.
//! * Descriptions must make sense, error texts are cut to one printable line, figures are made plausible.
//! * `CANCELLED` counts only when the caller asked for it.

use crate::error::clean;
use backend_api::{
    AbiError, Backend, Backend_TO, BackendBox, Code, Ctl, DType, Diffusion, Diffusion_TO, DiffusionBox, DiffusionDesc,
    DiffusionOpen, LlmOpen, MemReport, Model, Model_TO, ModelBox, ModelPlan, ModelSource, Param, PredictItem, Res,
    StepStats, TensorMut, TensorRef, TextEncoded, TextRequest, UpscaleOpen, Upscaler, Upscaler_TO, UpscalerBox,
    abi_stable::{
        sabi_trait::prelude::TD_Opaque,
        std_types::{RErr, ROk, RSlice},
    },
};
use std::time::Instant;

/// The code of an output with values that are no numbers, or with parts that were never written. Made by the host; the
/// interface's own codes end below it.
pub const NOT_FINITE: Code = Code(68);

/// Puts the guard around a backend.
pub(crate) fn vetted(backend: BackendBox) -> BackendBox {
    Backend_TO::from_value(Vetted(backend), TD_Opaque)
}

struct Vetted<T>(T);

/// Checks an error on its way to the caller.
fn error<T>(result: Res<T>, ctl: Option<&Ctl>) -> Res<T> {
    result.map_err(|e| {
        if e.code == Code::CANCELLED && ctl.is_none_or(|ctl| !ctl.cancelled()) {
            return AbiError::internal("the backend stopped a call that nobody cancelled");
        }
        let code = if e.code.name().is_some() { e.code } else { Code::INTERNAL };
        AbiError { code, message: clean(&e.message, 500).into(), detail: clean(&e.detail, 4000).into() }
    })
}

fn plausible(mut memory: MemReport) -> MemReport {
    if memory.device_total > 0 {
        memory.device_free = memory.device_free.min(memory.device_total);
        memory.weights = memory.weights.min(memory.device_total);
        memory.scratch = memory.scratch.min(memory.device_total);
    }
    memory
}

impl Backend for Vetted<BackendBox> {
    fn memory(&self) -> MemReport {
        plausible(self.0.memory())
    }
    fn inspect(&self, source: &ModelSource) -> Res<ModelPlan> {
        error(self.0.inspect(source), None)
            .map(|plan| ModelPlan { peak_bytes: plan.peak_bytes.max(plan.weight_bytes), ..plan })
    }
    fn load(&self, source: &ModelSource, ctl: &Ctl) -> Res<ModelBox> {
        error(self.0.load(source, ctl), Some(ctl)).map(|model| Model_TO::from_value(Vetted(model), TD_Opaque))
    }
}

impl Model for Vetted<ModelBox> {
    fn memory(&self) -> MemReport {
        plausible(self.0.memory())
    }
    fn diffusion(&self, options: RSlice<'_, Param>) -> Res<DiffusionOpen> {
        match error(self.0.diffusion(options), None) {
            ROk(open) => match check(&open.desc) {
                Ok(()) => ROk(DiffusionOpen {
                    desc: open.desc,
                    session: Diffusion_TO::from_value(Vetted(open.session), TD_Opaque),
                }),
                Err(what) => RErr(AbiError::internal(format!("the backend describes its model wrongly: {what}"))),
            },
            RErr(e) => RErr(e),
        }
    }
    fn upscaler(&self, options: RSlice<'_, Param>) -> Res<UpscaleOpen> {
        match error(self.0.upscaler(options), None) {
            ROk(open) if (1..=16).contains(&open.desc.factor) && open.desc.tile > 0 => {
                ROk(UpscaleOpen { desc: open.desc, session: Upscaler_TO::from_value(Vetted(open.session), TD_Opaque) })
            }
            ROk(_) => RErr(AbiError::internal("the backend describes its upscaler wrongly")),
            RErr(e) => RErr(e),
        }
    }
    fn llm(&self, options: RSlice<'_, Param>) -> Res<LlmOpen> {
        error(self.0.llm(options), None)
    }
}

/// Whether a description can be true.
fn check(desc: &DiffusionDesc) -> Result<(), String> {
    let within = |name: &str, value: u32, most: u32| {
        if (1..=most).contains(&value) {
            Ok(())
        } else {
            Err(format!("{name} = {value} does not lie between 1 and {most}"))
        }
    };
    within("latent_channels", desc.latent_channels, 128)?;
    within("vae_factor", desc.vae_factor, 128)?;
    within("max_batch", desc.max_batch, 4096)?;
    if desc.encoders.len() > 8 || desc.inputs.len() > 64 || desc.params.len() > 256 {
        return Err("too many encoders, inputs or params".to_owned());
    }
    desc.encoders.iter().try_for_each(|encoder| {
        within("max_length", encoder.max_length, 1 << 16)?;
        within("vocab_size", encoder.vocab_size, 1 << 24)
    })
}

/// Runs a call that fills `out`, with the checks of an output around it.
fn filled(mut out: TensorMut<'_>, ctl: &Ctl, call: impl FnOnce(TensorMut<'_>) -> Res<StepStats>) -> Res<StepStats> {
    if let Err(e) = out.validate() {
        return RErr(e);
    }
    let start = Instant::now();
    let float = out.dtype == DType::F32;
    if float {
        // All bits set is a NaN.
        out.bytes.fill(0xff);
    }
    let inner = TensorMut { dtype: out.dtype, shape: out.shape, bytes: (&mut *out.bytes).into() };
    match error(call(inner), Some(ctl)) {
        ROk(_) if float && !finite(&out.bytes) => RErr(AbiError::new(
            NOT_FINITE,
            "the backend answered numbers that are not finite, or left a part of the answer out",
        )),
        // No device works longer than the call took.
        ROk(stats) => ROk(StepStats { device_ns: stats.device_ns.min(start.elapsed().as_nanos() as u64) }),
        RErr(e) => RErr(e),
    }
}

/// Whether every `f32` is finite. Without a branch per value, so that it runs at the speed of memory.
fn finite(bytes: &[u8]) -> bool {
    const EXPONENT: u32 = 0x7f80_0000;
    let broken = |b: &[u8]| u32::from(u32::from_le_bytes([b[0], b[1], b[2], b[3]]) & EXPONENT == EXPONENT);
    bytes.chunks(1 << 16).all(|part| part.chunks_exact(4).fold(0, |all, b| all | broken(b)) == 0)
}

impl Diffusion for Vetted<DiffusionBox> {
    fn encode_text(&mut self, request: TextRequest<'_>, ctl: &Ctl) -> Res<TextEncoded> {
        error(self.0.encode_text(request, ctl), Some(ctl))
    }
    fn free_cond(&mut self, cond: u64) {
        self.0.free_cond(cond);
    }
    fn predict(
        &mut self,
        x: TensorRef<'_>,
        items: RSlice<'_, PredictItem<'_>>,
        out: TensorMut<'_>,
        ctl: &Ctl,
    ) -> Res<StepStats> {
        filled(out, ctl, |out| self.0.predict(x, items, out, ctl))
    }
    fn decode(
        &mut self,
        latents: TensorRef<'_>,
        options: RSlice<'_, Param>,
        out: TensorMut<'_>,
        ctl: &Ctl,
    ) -> Res<StepStats> {
        filled(out, ctl, |out| self.0.decode(latents, options, out, ctl))
    }
    fn encode(
        &mut self,
        image: TensorRef<'_>,
        options: RSlice<'_, Param>,
        out: TensorMut<'_>,
        ctl: &Ctl,
    ) -> Res<StepStats> {
        filled(out, ctl, |out| self.0.encode(image, options, out, ctl))
    }
    fn preview(&mut self, latents: TensorRef<'_>, out: TensorMut<'_>, ctl: &Ctl) -> Res<StepStats> {
        filled(out, ctl, |out| self.0.preview(latents, out, ctl))
    }
    fn add_tokens(&mut self, encoder: u32, vectors: TensorRef<'_>) -> Res<u32> {
        error(self.0.add_tokens(encoder, vectors), None)
    }
}

impl Upscaler for Vetted<UpscalerBox> {
    fn upscale(&mut self, image: TensorRef<'_>, out: TensorMut<'_>, ctl: &Ctl) -> Res<StepStats> {
        filled(out, ctl, |out| self.0.upscale(image, out, ctl))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finite_sees_every_place() {
        let check = |at: Option<usize>, value: f32| {
            let mut values = vec![1.0f32; 40_000];
            at.into_iter().for_each(|at| values[at] = value);
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            finite(&bytes)
        };
        assert!(check(None, 0.0));
        assert!(check(Some(7), f32::MAX));
        for at in [0, 16_383, 16_384, 39_999] {
            assert!(!check(Some(at), f32::NAN));
            assert!(!check(Some(at), f32::NEG_INFINITY));
        }
    }
}
