//! The networks, each written once in its own terms on the [`crate::ops`] layer.

pub mod autoencoder;
pub mod clip;
pub mod embedding;
pub mod resnet;
pub mod rrdb;
pub mod tiny;
pub mod transformer;
pub mod unet;

use crate::{
    Error, Result,
    ops::{Act, Conv2d, ConvSpec, Linear, LinearSpec, Norm, Ops},
    weights::Vars,
};
use backend_api::Ctl;

/// A place in a part's weights together with the operations to build from them.
#[derive(Clone)]
pub struct Builder<'a> {
    /// The device's operations.
    pub ops: &'a dyn Ops,
    /// The weights.
    pub vars: Vars<'a>,
}

impl<'a> Builder<'a> {
    /// At the root of a part.
    pub fn new(ops: &'a dyn Ops, vars: Vars<'a>) -> Self {
        Builder { ops, vars }
    }

    /// One level down.
    #[must_use]
    pub fn pp(&self, name: impl std::fmt::Display) -> Self {
        Builder { ops: self.ops, vars: self.vars.pp(name) }
    }

    /// A convolution from `name.weight` and, where there is one, `name.bias`.
    pub fn conv(&self, name: impl std::fmt::Display, spec: ConvSpec) -> Result<Box<dyn Conv2d>> {
        let vars = self.vars.pp(name);
        let weight = vars.get(&[spec.outputs, spec.inputs, spec.kernel, spec.kernel], "weight")?;
        let bias = vars.get_opt(&[spec.outputs], "bias")?;
        self.ops.conv2d(spec, weight, bias)
    }

    /// A linear layer from `name.weight` and, where there is one, `name.bias`.
    pub fn linear(&self, name: impl std::fmt::Display, spec: LinearSpec) -> Result<Box<dyn Linear>> {
        self.fused(&[&name.to_string()], spec)
    }

    /// Several linear layers of one input and equal widths as one; `spec.outputs` counts all of them.
    pub fn fused(&self, names: &[&str], spec: LinearSpec) -> Result<Box<dyn Linear>> {
        let outputs = spec.outputs / names.len();
        let mut weight = Vec::with_capacity(spec.outputs * spec.inputs);
        let mut bias = Vec::new();
        for name in names {
            let vars = self.vars.pp(name);
            weight.extend(vars.get(&[outputs, spec.inputs], "weight")?);
            match vars.get_opt(&[outputs], "bias")? {
                Some(values) => bias.extend(values),
                None => bias.resize(bias.len() + outputs, 0.0),
            }
        }
        let bias = bias.iter().any(|b| *b != 0.0).then_some(bias);
        self.ops.linear(spec, weight, bias)
    }

    /// A group norm.
    pub fn group_norm(&self, name: &str, channels: usize, groups: usize, eps: f64, act: Act) -> Result<Box<dyn Norm>> {
        if groups == 0 || !channels.is_multiple_of(groups) {
            let reason = format!("{groups} groups do not divide the {channels} channels of `{name}`");
            return Err(Error::config(self.vars.part_name(), reason));
        }
        let vars = self.vars.pp(name);
        self.ops.group_norm(groups, eps, act, vars.get(&[channels], "weight")?, vars.get(&[channels], "bias")?)
    }

    /// A layer norm.
    pub fn layer_norm(&self, name: &str, channels: usize, eps: f64) -> Result<Box<dyn Norm>> {
        let vars = self.vars.pp(name);
        self.ops.layer_norm(eps, vars.get(&[channels], "weight")?, vars.get(&[channels], "bias")?)
    }
}

/// Asks the caller's hand; called between the blocks of a network.
pub(crate) fn poll(ctl: &Ctl) -> Result<()> {
    if ctl.cancelled() { Err(Error::Cancelled) } else { Ok(()) }
}
