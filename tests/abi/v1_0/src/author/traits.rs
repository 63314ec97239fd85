//! The traits an author implements. The exported twins of the parent module say what each call takes and answers.

use crate::{
    AbiError, Ctl, DiffusionDesc, HostRef, HwDevice, MemReport, ModelPlan, ModelSource, Offer, Param, PluginInfo,
    PredictItem, StepStats, TensorMut, TensorRef, TextEncoded, TextRequest, UpscalerDesc,
};

/// The library as a whole.
pub trait Plugin {
    /// Who made it.
    fn info() -> PluginInfo;
    /// Claims devices from the host's list without touching them.
    fn probe(hardware: &[HwDevice]) -> Vec<Offer>;
    /// Opens a device.
    fn open(hardware: &HwDevice, options: &[Param], host: HostRef) -> Result<Box<dyn Backend>, AbiError>;
}

/// See [`crate::Backend`].
pub trait Backend: Send + Sync {
    /// The device's memory.
    fn memory(&self) -> MemReport;
    /// What loading would need, from configs and headers alone.
    fn inspect(&self, source: &ModelSource) -> Result<ModelPlan, AbiError>;
    /// Loads a model.
    fn load(&self, source: &ModelSource, ctl: &Ctl) -> Result<Box<dyn Model>, AbiError>;
}

/// See [`crate::Model`].
pub trait Model: Send + Sync {
    /// What this model holds.
    fn memory(&self) -> MemReport;
    /// Opens the model for denoising.
    fn diffusion(&self, options: &[Param]) -> Result<(DiffusionDesc, Box<dyn Diffusion>), AbiError> {
        let _ = options;
        Err(AbiError::unsupported("diffusion for this model"))
    }
    /// Opens the model for enlarging pictures.
    fn upscaler(&self, options: &[Param]) -> Result<(UpscalerDesc, Box<dyn Upscaler>), AbiError> {
        let _ = options;
        Err(AbiError::unsupported("upscaling for this model"))
    }
}

/// See [`crate::Diffusion`]. Tensors arrive with shape and bytes already found to agree.
pub trait Diffusion: Send {
    /// Encodes a text.
    fn encode_text(&mut self, request: &TextRequest<'_>, ctl: &Ctl) -> Result<TextEncoded, AbiError>;
    /// Forgets an encoded text.
    fn free_cond(&mut self, cond: u64);
    /// Runs the denoiser once.
    fn predict(
        &mut self,
        x: TensorRef<'_>,
        items: &[PredictItem<'_>],
        out: TensorMut<'_>,
        ctl: &Ctl,
    ) -> Result<StepStats, AbiError>;
    /// Decodes latents.
    fn decode(
        &mut self,
        latents: TensorRef<'_>,
        options: &[Param],
        out: TensorMut<'_>,
        ctl: &Ctl,
    ) -> Result<StepStats, AbiError>;
    /// Encodes pictures.
    fn encode(
        &mut self,
        image: TensorRef<'_>,
        options: &[Param],
        out: TensorMut<'_>,
        ctl: &Ctl,
    ) -> Result<StepStats, AbiError> {
        let _ = (image, options, out, ctl);
        Err(AbiError::unsupported("encoding of pictures"))
    }
    /// Decodes latents fast and roughly.
    fn preview(&mut self, latents: TensorRef<'_>, out: TensorMut<'_>, ctl: &Ctl) -> Result<StepStats, AbiError> {
        let _ = (latents, out, ctl);
        Err(AbiError::unsupported("previews by a network"))
    }
    /// Adds token embeddings to one encoder.
    fn add_tokens(&mut self, encoder: u32, vectors: TensorRef<'_>) -> Result<u32, AbiError> {
        let _ = (encoder, vectors);
        Err(AbiError::unsupported("added tokens"))
    }
}

/// See [`crate::Upscaler`].
pub trait Upscaler: Send {
    /// Enlarges one picture.
    fn upscale(&mut self, image: TensorRef<'_>, out: TensorMut<'_>, ctl: &Ctl) -> Result<StepStats, AbiError>;
}
