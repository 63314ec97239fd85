//! The ESRGAN family of upscalers: residual in residual dense blocks (Wang et al. 2018), as Real-ESRGAN uses them.
//!
//! Files name the same tensors in three ways (see [`Names`]); sizes and factor follow from the tensors themselves. A
//! factor of 2 or 1 may stand for the network of factor 4 on a picture whose pixels were folded into channels first.

use super::{Builder, poll};
use crate::{
    Error, Result,
    ops::{Act, Activation, Conv2d, ConvCall, ConvSpec, Ops},
    weights::Vars,
};
use backend_api::Ctl;

/// The part's name in messages: the role of its file.
const PART: &str = backend_api::role::UPSCALER;
/// Bounds on what a file may describe.
const MAX_BLOCKS: usize = 64;
const MAX_WIDTH: usize = 512;
/// What a block adds is scaled by this.
const SHARE: f32 = 0.2;

/// How a file names the tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Names {
    /// `body.0.rdb1.conv1`: BasicSR and Real-ESRGAN.
    Body,
    /// `RRDB_trunk.0.RDB1.conv1`: ESRGAN's second form.
    Trunk,
    /// `model.1.sub.0.RDB1.conv1.0`: ESRGAN's first form; `usize`: number of enlargements.
    Sequence(usize),
}

impl Names {
    fn find(vars: &Vars<'_>) -> Option<Self> {
        if vars.has("body.0.rdb1.conv1.weight") {
            return Some(Names::Body);
        }
        if vars.has("RRDB_trunk.0.RDB1.conv1.weight") {
            return Some(Names::Trunk);
        }
        // Each enlargement takes three places: itself, its convolution, an activation.
        let last = |ups: &usize| vars.has(&format!("model.{}.weight", 4 + 3 * ups));
        vars.has("model.1.sub.0.RDB1.conv1.0.weight").then(|| (0..=3).rev().find(last)).flatten().map(Names::Sequence)
    }

    fn first(self) -> &'static str {
        if matches!(self, Names::Sequence(_)) { "model.0" } else { "conv_first" }
    }

    fn block(self, block: usize, dense: usize, conv: usize) -> String {
        match self {
            Names::Body => format!("body.{block}.rdb{dense}.conv{conv}"),
            Names::Trunk => format!("RRDB_trunk.{block}.RDB{dense}.conv{conv}"),
            Names::Sequence(_) => format!("model.1.sub.{block}.RDB{dense}.conv{conv}.0"),
        }
    }

    fn body(self, blocks: usize) -> String {
        match self {
            Names::Body => "conv_body".to_owned(),
            Names::Trunk => "trunk_conv".to_owned(),
            Names::Sequence(_) => format!("model.1.sub.{blocks}"),
        }
    }

    fn ups(self) -> Vec<String> {
        match self {
            Names::Body => (1..=2).map(|i| format!("conv_up{i}")).collect(),
            Names::Trunk => (1..=2).map(|i| format!("upconv{i}")).collect(),
            Names::Sequence(ups) => (0..ups).map(|i| format!("model.{}", 3 + 3 * i)).collect(),
        }
    }

    fn tail(self) -> [String; 2] {
        match self {
            Names::Body => ["conv_hr".to_owned(), "conv_last".to_owned()],
            Names::Trunk => ["HRconv".to_owned(), "conv_last".to_owned()],
            Names::Sequence(ups) => [2, 4].map(|i| format!("model.{}", i + 3 * ups)),
        }
    }
}

/// Five convolutions, each of which sees all before it.
struct Dense([Box<dyn Conv2d>; 5]);

impl Dense {
    fn new(b: &Builder<'_>, names: Names, block: usize, dense: usize, width: usize, growth: usize) -> Result<Self> {
        let inner = |conv: usize| {
            let act = Act::LeakyRelu;
            let spec = ConvSpec { act, ..ConvSpec::same(width + (conv - 1) * growth, growth, 3) };
            b.conv(names.block(block, dense, conv), spec)
        };
        // The last one's share is worked into its weights.
        let spec = ConvSpec::same(width + 4 * growth, width, 3);
        let vars = b.vars.pp(names.block(block, dense, 5));
        let scaled = |mut values: Vec<f32>| {
            values.iter_mut().for_each(|v| *v *= SHARE);
            values
        };
        let weight = scaled(vars.get(&[spec.outputs, spec.inputs, 3, 3], "weight")?);
        let bias = vars.get_opt(&[spec.outputs], "bias")?.map(scaled);
        Ok(Dense([inner(1)?, inner(2)?, inner(3)?, inner(4)?, b.ops.conv2d(spec, weight, bias)?]))
    }

    fn forward(&self, ops: &dyn Ops, x: &Activation) -> Result<Activation> {
        let [first, second, third, fourth, last] = &self.0;
        let mut seen = x.clone();
        for conv in [first, second, third, fourth] {
            seen = ops.concat(&seen, &conv.forward(&seen, ConvCall::default())?)?;
        }
        last.forward(&seen, ConvCall { residual: Some(x), ..ConvCall::default() })
    }
}

/// The network.
pub struct Rrdb {
    fold: usize,
    factor: usize,
    width: usize,
    first: Box<dyn Conv2d>,
    blocks: Vec<[Dense; 3]>,
    body: Box<dyn Conv2d>,
    ups: Vec<Box<dyn Conv2d>>,
    tail: [Box<dyn Conv2d>; 2],
}

fn missing(name: &str) -> Error {
    Error::MissingTensor { part: PART.to_owned(), name: name.to_owned() }
}

fn odd(field: &'static str, value: impl ToString) -> Error {
    Error::Architecture { part: PART.to_owned(), field, value: value.to_string() }
}

impl Rrdb {
    /// Builds the network that the tensors describe.
    pub fn new(b: &Builder<'_>) -> Result<Self> {
        // Training scripts save under one of these, the averaged weights first.
        let root = ["params_ema", "params"].into_iter().map(|p| b.pp(p)).find(|b| Names::find(&b.vars).is_some());
        let b = &root.unwrap_or_else(|| b.clone());
        let names = Names::find(&b.vars).ok_or_else(|| missing("body.0.rdb1.conv1.weight"))?;
        if b.vars.has("model.1.sub.0.RDB1.conv1x1.weight") {
            return Err(odd("conv1x1", "ESRGAN+"));
        }
        let shape = |name: String| {
            let name = format!("{name}.weight");
            let shape = b.vars.shape(&name).filter(|s| s.len() == 4);
            shape.ok_or_else(|| missing(&name))
        };
        let head = shape(names.first().to_owned())?;
        let (width, inputs) = (head[0], head[1]);
        let growth = shape(names.block(0, 1, 1))?[0];
        if width == 0 || width > MAX_WIDTH || growth == 0 || growth > MAX_WIDTH {
            return Err(odd("width", format!("{width}, {growth}")));
        }
        let fold = [1, 2, 4].into_iter().find(|f| 3 * f * f == inputs).ok_or_else(|| odd("conv_first", inputs))?;
        let ups = names.ups();
        let factor = (1usize << ups.len()) / fold;
        if factor == 0 {
            return Err(odd("conv_first", inputs));
        }
        let count = (0..=MAX_BLOCKS).find(|i| !b.vars.has(&format!("{}.weight", names.block(*i, 1, 1))));
        let count = count.filter(|n| *n > 0).ok_or_else(|| odd("blocks", format!("more than {MAX_BLOCKS}")))?;
        let block = |i: usize| -> Result<[Dense; 3]> {
            let dense = |d| Dense::new(b, names, i, d, width, growth);
            Ok([dense(1)?, dense(2)?, dense(3)?])
        };
        let act = Act::LeakyRelu;
        let wide = ConvSpec { act, ..ConvSpec::same(width, width, 3) };
        let [hr, last] = names.tail();
        Ok(Rrdb {
            fold,
            factor,
            width,
            first: b.conv(names.first(), ConvSpec::same(inputs, width, 3))?,
            blocks: (0..count).map(block).collect::<Result<_>>()?,
            body: b.conv(names.body(count), ConvSpec::same(width, width, 3))?,
            ups: ups.iter().map(|name| b.conv(name, wide)).collect::<Result<_>>()?,
            tail: [b.conv(hr, wide)?, b.conv(last, ConvSpec::same(width, 3, 3))?],
        })
    }

    /// Output pixels per input pixel, in each direction.
    pub fn factor(&self) -> usize {
        self.factor
    }

    /// Bytes of buffers for a picture of `height × width` pixels: the widest moment is the end, at full size.
    pub fn scratch(&self, height: usize, width: usize) -> u64 {
        (height * self.factor * width * self.factor * self.width * 4 * 3) as u64
    }

    /// `[1, h, w, 3]` in 0 … 1 → `[1, h·f, w·f, 3]`, not clamped.
    pub fn forward(&self, ops: &dyn Ops, x: &Activation, ctl: &Ctl) -> Result<Activation> {
        let [_, height, width, _] = x.shape();
        let folded = folded(ops, x, self.fold)?;
        let head = self.first.forward(&folded, ConvCall::default())?;
        let mut h = head.clone();
        for block in &self.blocks {
            poll(ctl)?;
            let mut inner = h.clone();
            for dense in block {
                inner = dense.forward(ops, &inner)?;
            }
            h = ops.add(&ops.affine(&inner, SHARE, 0.0)?, &h)?;
        }
        h = self.body.forward(&h, ConvCall { residual: Some(&head), ..ConvCall::default() })?;
        for up in &self.ups {
            poll(ctl)?;
            let resize = Some((h.height() * 2, h.width() * 2));
            h = up.forward(&h, ConvCall { resize, ..ConvCall::default() })?;
        }
        for conv in &self.tail {
            poll(ctl)?;
            h = conv.forward(&h, ConvCall::default())?;
        }
        cut(ops, h, height * self.factor, width * self.factor)
    }
}

/// Folds squares of `fold` × `fold` pixels into channels, in torch's `pixel_unshuffle` order. The right and lower edges
/// are mirrored up to whole squares.
fn folded(ops: &dyn Ops, x: &Activation, fold: usize) -> Result<Activation> {
    if fold == 1 {
        return Ok(x.clone());
    }
    let [n, h, w, c] = x.shape();
    let (rows, columns) = (h.div_ceil(fold), w.div_ceil(fold));
    let values = x.to_vec()?;
    let mirror = |i: usize, side: usize| if i < side { i } else { (2 * (side - 1)).saturating_sub(i) };
    let mut out = Vec::with_capacity(n * rows * columns * c * fold * fold);
    for picture in values.chunks_exact(h * w * c) {
        for (row, column) in (0..rows).flat_map(|r| (0..columns).map(move |q| (r, q))) {
            for (channel, dy) in (0..c).flat_map(|c| (0..fold).map(move |dy| (c, dy))) {
                let y = mirror(row * fold + dy, h);
                out.extend((0..fold).map(|dx| picture[(y * w + mirror(column * fold + dx, w)) * c + channel]));
            }
        }
    }
    Activation::from_vec(out, [n, rows, columns, c * fold * fold], ops.device())
}

/// The upper left part of a picture.
fn cut(ops: &dyn Ops, x: Activation, height: usize, width: usize) -> Result<Activation> {
    let [n, h, w, c] = x.shape();
    if (h, w) == (height, width) {
        return Ok(x);
    }
    let values = x.to_vec()?;
    let rows = values.chunks_exact(h * w * c).flat_map(|p| p.chunks_exact(w * c).take(height));
    let kept = rows.flat_map(|row| row[..width * c].iter().copied()).collect();
    Activation::from_vec(kept, [n, height, width, c], ops.device())
}
