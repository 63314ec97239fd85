//! Our own kernels for processors: one source, compiled for each instruction set, chosen at run time.

mod allocator;
mod attention;
mod buffer;
mod gemm;
mod math;
mod norm;
mod product;
mod simd;

use super::{
    Act, Activation, AttentionSpec, Conv2d, ConvSpec, KeysValues, Linear, LinearSpec, Norm, Ops, View,
    portable::Portable,
};
use crate::{Error, Result};
pub(crate) use allocator::GiveBack;
pub use allocator::keep_freed_memory;
use buffer::{Buffer, values_of};
use candle_core::Device;
use rayon::prelude::*;
use simd::{Generic, Simd};
use std::marker::PhantomData;

/// Values that one task of a simple operation takes on.
const CHUNK: usize = 65_536;

/// Names of the kernels that run on this machine, best first. `portable` is the reference on candle's tensors.
pub fn available() -> Vec<&'static str> {
    let mut names = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        if avx2 && is_x86_feature_detected!("avx512f") {
            names.push(simd::Avx512::NAME);
        }
        if avx2 {
            names.push(simd::Avx2::NAME);
        }
    }
    names.extend([Generic::NAME, "portable"]);
    names
}

/// Kernels by name; `auto` takes the best. `None` for a name that is not available here.
pub fn choose(name: &str) -> Option<Box<dyn Ops>> {
    let names = available();
    let name = if name == "auto" { names.first().copied()? } else { names.iter().copied().find(|n| *n == name)? };
    match name {
        #[cfg(target_arch = "x86_64")]
        "avx512" => Some(Box::new(CpuOps::<simd::Avx512>::new())),
        #[cfg(target_arch = "x86_64")]
        "avx2" => Some(Box::new(CpuOps::<simd::Avx2>::new())),
        "generic" => Some(Box::new(CpuOps::<Generic>::new())),
        _ => Some(Box::new(Portable::new(Device::Cpu))),
    }
}

/// The operations with the kernels of one instruction set.
struct CpuOps<S> {
    device: Device,
    set: PhantomData<S>,
}

impl<S: Simd> CpuOps<S> {
    /// Only for a set that was found on this machine.
    fn new() -> Self {
        CpuOps { device: Device::Cpu, set: PhantomData }
    }

    fn elementwise(&self, x: &Activation, y: Option<&Activation>, [a, b]: [f32; 2], act: Act) -> Result<Activation> {
        if let Some(y) = y
            && y.shape() != x.shape()
        {
            return Err(Error::Operation(format!("{:?} and {:?} differ in shape", x.shape(), y.shape())));
        }
        let (values, others) = (values_of(x)?, y.map(values_of).transpose()?);
        let mut out = Buffer::new(values.len());
        let pointer = out.pointer();
        let piece = |(i, x): (usize, &[f32])| {
            let y = others.as_deref().map(|y| &y[i * CHUNK..][..x.len()]);
            let kernel = math::Map { x, y, out: pointer.at(i * CHUNK), a, b, act };
            // SAFETY: the set was found at run time; pieces are disjoint and as long as their results.
            unsafe { S::enter(kernel) }
        };
        if values.len() <= CHUNK {
            values.chunks(CHUNK).enumerate().for_each(piece);
        } else {
            values.par_chunks(CHUNK).enumerate().for_each(piece);
        }
        // SAFETY: the pieces cover everything.
        unsafe { out.finish(x.shape()) }
    }
}

impl<S: Simd> Ops for CpuOps<S> {
    fn name(&self) -> &'static str {
        S::NAME
    }

    fn device(&self) -> &Device {
        &self.device
    }

    fn conv2d(&self, spec: ConvSpec, weight: Vec<f32>, bias: Option<Vec<f32>>) -> Result<Box<dyn Conv2d>> {
        Ok(Box::new(product::CpuConv::<S>::new(spec, &weight, bias)))
    }

    fn linear(&self, spec: LinearSpec, weight: Vec<f32>, bias: Option<Vec<f32>>) -> Result<Box<dyn Linear>> {
        Ok(Box::new(product::CpuLinear::<S>::new(spec, &weight, bias)))
    }

    fn group_norm(&self, groups: usize, eps: f64, act: Act, gain: Vec<f32>, bias: Vec<f32>) -> Result<Box<dyn Norm>> {
        Ok(Box::new(norm::CpuGroupNorm::<S> { groups, eps, act, gain, bias, set: PhantomData }))
    }

    fn layer_norm(&self, eps: f64, gain: Vec<f32>, bias: Vec<f32>) -> Result<Box<dyn Norm>> {
        Ok(Box::new(norm::CpuLayerNorm::<S> { eps, gain, bias, set: PhantomData }))
    }

    fn attention(&self, q: View<'_>, kv: &KeysValues<'_>, spec: AttentionSpec) -> Result<Activation> {
        attention::attention::<S>(q, kv, spec)
    }

    fn concat(&self, a: &Activation, b: &Activation) -> Result<Activation> {
        let ([n, h, w, ca], [.., cb]) = (a.shape(), b.shape());
        if b.shape()[..3] != [n, h, w] {
            return Err(Error::Operation(format!("{:?} and {:?} cannot stand side by side", a.shape(), b.shape())));
        }
        let (a, b) = (values_of(a)?, values_of(b)?);
        let mut out = Vec::with_capacity(a.len() + b.len());
        for (a, b) in a.chunks_exact(ca).zip(b.chunks_exact(cb)) {
            out.extend_from_slice(a);
            out.extend_from_slice(b);
        }
        Activation::from_vec(out, [n, h, w, ca + cb], &self.device)
    }

    fn add(&self, a: &Activation, b: &Activation) -> Result<Activation> {
        self.elementwise(a, Some(b), [1.0, 0.0], Act::Identity)
    }

    fn map(&self, x: &Activation, act: Act) -> Result<Activation> {
        self.elementwise(x, None, [1.0, 0.0], act)
    }

    fn affine(&self, x: &Activation, a: f32, b: f32) -> Result<Activation> {
        self.elementwise(x, None, [a, b], Act::Identity)
    }
}
