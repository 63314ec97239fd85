//! A session of the engine.

use crate::{
    Handle,
    table::{Control, Error, Item, Strings, Table, Tensor, Text},
};
use backend_api::{
    AbiError, Ctl, DType, Param, PredictItem, Stage, StepStats, TensorMut, TensorRef, TextEncoded, TextRequest,
    abi_stable::std_types::RVec, author,
};
use std::{sync::Arc, time::Instant};

pub(crate) struct Session {
    table: Table,
    /// Dropped before the model.
    handle: Handle,
    _model: Arc<Handle>,
}

/// Bytes at a multiple of eight, so that the engine may read them as numbers.
struct Aligned(Vec<u64>);

impl Aligned {
    fn of(bytes: &[u8]) -> Self {
        let mut words = vec![0u64; bytes.len().div_ceil(8)];
        for (word, bytes) in words.iter_mut().zip(bytes.chunks(8)) {
            let mut whole = [0; 8];
            whole[..bytes.len()].copy_from_slice(bytes);
            *word = u64::from_ne_bytes(whole);
        }
        Aligned(words)
    }

    fn copy_to(&self, bytes: &mut [u8]) {
        for (bytes, word) in bytes.chunks_mut(8).zip(&self.0) {
            bytes.copy_from_slice(&word.to_ne_bytes()[..bytes.len()]);
        }
    }
}

fn tensor(dtype: DType, shape: [usize; 4], data: &mut Aligned) -> Tensor {
    let shape = shape.map(|extent| extent as u64);
    Tensor { struct_size: size_of::<Tensor>() as u32, dtype: dtype.0, shape, data: data.0.as_mut_ptr().cast() }
}

impl Session {
    pub(crate) fn new(table: Table, handle: Handle, model: Arc<Handle>) -> Self {
        Session { table, handle, _model: model }
    }

    /// A call from one tensor to another; the output is written when it went well.
    fn through(
        &mut self,
        input: &TensorRef<'_>,
        out: &mut TensorMut<'_>,
        call: impl FnOnce(&Self, &Tensor, &mut Tensor, &mut Error) -> i32,
    ) -> Result<StepStats, AbiError> {
        let start = Instant::now();
        let (mut from, mut to) = (Aligned::of(&input.bytes), Aligned::of(&out.bytes));
        let (input, mut output) =
            (tensor(input.dtype, input.dims()?, &mut from), tensor(out.dtype, out.dims()?, &mut to));
        let mut error = Error::default();
        let code = call(self, &input, &mut output, &mut error);
        error.check(code)?;
        to.copy_to(&mut out.bytes);
        Ok(StepStats::since(start))
    }
}

impl author::Diffusion for Session {
    fn encode_text(&mut self, request: &TextRequest<'_>, ctl: &Ctl) -> Result<TextEncoded, AbiError> {
        let encode = self.table.encode_text.ok_or_else(|| AbiError::unsupported("texts"))?;
        // The engine knows its own vocabulary.
        let input = author::only_text(request, u32::MAX)?;
        let params = Strings::new(&request.params);
        let text = Text {
            struct_size: size_of::<Text>() as u32,
            chunk_length: input.chunk_length,
            tokens: input.tokens.as_ptr(),
            weights: input.weights.as_ptr(),
            n_tokens: input.tokens.len(),
            params: params.as_ptr(),
            n_params: params.len(),
        };
        let (control, mut error, mut cond) = (Control::new(ctl, Stage::LOAD), Error::default(), 0);
        // SAFETY: the handle is alive and every pointer outlives the call; both lists have `n_tokens` entries.
        let code =
            unsafe { encode(self.handle.pointer, &raw const text, control.raw(), &raw mut cond, &raw mut error) };
        error.check(code)?;
        Ok(TextEncoded { cond, tokens: input.tokens.len() as u32, bytes: 0, params: RVec::new() })
    }

    fn free_cond(&mut self, cond: u64) {
        if let Some(free) = self.table.free_cond {
            // SAFETY: the handle is alive.
            unsafe { free(self.handle.pointer, cond) };
        }
    }

    fn predict(
        &mut self,
        x: TensorRef<'_>,
        items: &[PredictItem<'_>],
        mut out: TensorMut<'_>,
        ctl: &Ctl,
    ) -> Result<StepStats, AbiError> {
        let predict = self.table.predict.ok_or_else(|| AbiError::unsupported("steps"))?;
        let item = |item: &PredictItem<'_>| Item {
            struct_size: size_of::<Item>() as u32,
            cond: item.cond,
            timestep: item.timestep,
            sigma: item.sigma,
        };
        let items: Vec<Item> = items.iter().map(item).collect();
        let control = Control::new(ctl, Stage::DECODE);
        self.through(&x, &mut out, |session, x, out, error| {
            // SAFETY: the handle is alive, every pointer outlives the call, and the tensors hold what their shapes say.
            unsafe { predict(session.handle.pointer, x, items.as_ptr(), items.len(), out, control.raw(), error) }
        })
    }

    fn decode(
        &mut self,
        latents: TensorRef<'_>,
        _: &[Param],
        mut out: TensorMut<'_>,
        ctl: &Ctl,
    ) -> Result<StepStats, AbiError> {
        let decode = self.table.decode.ok_or_else(|| AbiError::unsupported("decoding"))?;
        let control = Control::new(ctl, Stage::DECODE);
        self.through(&latents, &mut out, |session, latents, out, error| {
            // SAFETY: as in `predict`.
            unsafe { decode(session.handle.pointer, latents, out, control.raw(), error) }
        })
    }

    fn encode(
        &mut self,
        image: TensorRef<'_>,
        _: &[Param],
        mut out: TensorMut<'_>,
        ctl: &Ctl,
    ) -> Result<StepStats, AbiError> {
        let encode = self.table.encode.ok_or_else(|| AbiError::unsupported("encoding of pictures"))?;
        let control = Control::new(ctl, Stage::ENCODE);
        self.through(&image, &mut out, |session, image, out, error| {
            // SAFETY: as in `predict`.
            unsafe { encode(session.handle.pointer, image, out, control.raw(), error) }
        })
    }
}
