//! Convolutions and linear layers on the packed matrix product.

use super::{
    buffer::{Buffer, Out, Rows, values_of},
    gemm::{Epilogue, Packed, Product},
    simd::Simd,
};
use crate::{
    Error, Result,
    ops::{Activation, Conv2d, ConvCall, ConvSpec, Linear, LinearSpec},
};
use rayon::prelude::*;
use std::marker::PhantomData;

/// Products below this many multiplications are not worth a second thread.
const ALONE: usize = 200_000;
/// Rows that one task takes on: their pixels stay in the second-level cache.
const ROWS_A_TASK: usize = 256;

/// Runs a product in tasks. `rows(range)` lists the pointers for some rows: `[tile][tap][row]`.
fn run<S: Simd>(
    packed: &Packed,
    total: usize,
    out: Out,
    epilogue: &Epilogue<'_>,
    rows: impl Fn(std::ops::Range<usize>) -> Rows + Sync,
) {
    let (panels, work) = (packed.panel_count(), total * packed.taps * packed.k * packed.columns);
    let threads = if work < ALONE { 1 } else { rayon::current_num_threads() };
    let tiles = total.div_ceil(S::ROWS);
    // Rows are shared out first; where there are too few of them, panels are.
    let chunks = tiles.div_ceil(ROWS_A_TASK / S::ROWS).max(if tiles >= 2 * threads { threads } else { 1 });
    let groups = if chunks >= threads { 1 } else { threads.min(panels) };
    let tiles_a_chunk = tiles.div_ceil(chunks.max(1)).max(1);
    let task = |i: usize| {
        let (chunk, group) = (i / groups, i % groups);
        let first = (chunk * tiles_a_chunk * S::ROWS).min(total);
        let count = (tiles_a_chunk * S::ROWS).min(total - first);
        if count == 0 {
            return;
        }
        let pointers = rows(first..first + count);
        let product = Product {
            packed,
            rows: &pointers.0,
            first,
            count,
            panels: panels * group / groups..panels * (group + 1) / groups,
            out: out.at(0),
            epilogue: *epilogue,
        };
        // SAFETY: the set was found at run time; tasks differ in rows or in columns, so they write disjoint parts.
        unsafe { S::enter(product) }
    };
    if threads == 1 {
        (0..chunks * groups).for_each(task);
    } else {
        (0..chunks * groups).into_par_iter().with_max_len(1).for_each(task);
    }
}

fn same(found: [usize; 4], wanted: [usize; 4], what: &str) -> Result<()> {
    if found == wanted { Ok(()) } else { Err(Error::Operation(format!("{what} is {found:?}, expected {wanted:?}"))) }
}

pub(crate) struct CpuConv<S> {
    spec: ConvSpec,
    packed: Packed,
    bias: Option<Vec<f32>>,
    /// What kernels see outside of the picture.
    zeros: Vec<f32>,
    set: PhantomData<S>,
}

impl<S: Simd> CpuConv<S> {
    pub(crate) fn new(spec: ConvSpec, weight: &[f32], bias: Option<Vec<f32>>) -> Self {
        let (k, taps) = (spec.inputs, spec.kernel * spec.kernel);
        let packed = Packed::new::<S>([taps, k, spec.outputs], false, |tap, k_, n| weight[(n * k + k_) * taps + tap]);
        CpuConv { spec, packed, bias, zeros: vec![0.0; k], set: PhantomData }
    }
}

impl<S: Simd> Conv2d for CpuConv<S> {
    fn forward(&self, x: &Activation, call: ConvCall<'_>) -> Result<Activation> {
        let spec = &self.spec;
        let [n, h, w, c] = x.shape();
        same([n, h, w, c], [n, h, w, spec.inputs], "a convolution's input")?;
        let (rh, rw) = call.resize.unwrap_or((h, w));
        let (oh, ow) = (spec.output_size(rh), spec.output_size(rw));
        let shape = [n, oh, ow, spec.outputs];
        let values = values_of(x)?;
        if let Some(bias) = call.item_bias {
            same(bias.shape(), [n, 1, 1, spec.outputs], "an item's bias")?;
        }
        if let Some(residual) = call.residual {
            same(residual.shape(), shape, "a residual")?;
        }
        let item_bias = call.item_bias.map(values_of).transpose()?;
        let residual = call.residual.map(values_of).transpose()?;
        let epilogue = Epilogue {
            bias: self.bias.as_deref(),
            item_bias: item_bias.as_deref(),
            rows_per_item: oh * ow,
            residual: residual.as_deref(),
            act: spec.act,
            residual_last: false,
        };
        // Where the pixel under each place of the kernel is; the nearest one where the input is enlarged.
        let source = |o: usize, k: usize, size: usize, from: usize| -> Option<usize> {
            let at = (o * spec.stride + k).checked_sub(spec.pad_before)?;
            if at >= size {
                return None;
            }
            // A division a pixel is worth leaving out.
            Some(if from == size { at } else { at * from / size })
        };
        let rows = |range: std::ops::Range<usize>| -> Rows {
            let taps = spec.kernel * spec.kernel;
            let tiles = range.len().div_ceil(S::ROWS);
            let mut pointers = vec![self.zeros.as_ptr(); tiles * taps * S::ROWS];
            let (mut item, mut oy, mut ox) = (range.start / (oh * ow), range.start / ow % oh, range.start % ow);
            for place in 0..tiles * S::ROWS {
                // Counted on, not divided out; past the end the last pixel stays.
                if place > 0 && range.start + place < range.end {
                    ox += 1;
                    if ox == ow {
                        (ox, oy) = (0, oy + 1);
                    }
                    if oy == oh {
                        (oy, item) = (0, item + 1);
                    }
                }
                let base = (place / S::ROWS) * taps * S::ROWS + place % S::ROWS;
                for ky in 0..spec.kernel {
                    let Some(y) = source(oy, ky, rh, h) else { continue };
                    for kx in 0..spec.kernel {
                        let Some(x) = source(ox, kx, rw, w) else { continue };
                        let at = ((item * h + y) * w + x) * c;
                        pointers[base + (ky * spec.kernel + kx) * S::ROWS] = values[at..at + c].as_ptr();
                    }
                }
            }
            Rows(pointers)
        };
        let total = n * oh * ow;
        let mut out = Buffer::new(total * spec.outputs);
        run::<S>(&self.packed, total, out.pointer(), &epilogue, rows);
        // SAFETY: the tasks cover every row and every panel.
        unsafe { out.finish(shape) }
    }
}

pub(crate) struct CpuLinear<S> {
    spec: LinearSpec,
    packed: Packed,
    bias: Option<Vec<f32>>,
    set: PhantomData<S>,
}

impl<S: Simd> CpuLinear<S> {
    pub(crate) fn new(spec: LinearSpec, weight: &[f32], bias: Option<Vec<f32>>) -> Self {
        let columns = if spec.gated { spec.outputs / 2 } else { spec.outputs };
        let packed = Packed::new::<S>([1, spec.inputs, columns], spec.gated, |_, k, n| weight[n * spec.inputs + k]);
        CpuLinear { spec, packed, bias, set: PhantomData }
    }
}

impl<S: Simd> Linear for CpuLinear<S> {
    fn forward(&self, x: &Activation, residual: Option<&Activation>) -> Result<Activation> {
        let [n, h, w, c] = x.shape();
        same([n, h, w, c], [n, h, w, self.spec.inputs], "a linear layer's input")?;
        let shape = [n, h, w, self.packed.columns];
        if let Some(residual) = residual {
            same(residual.shape(), shape, "a residual")?;
        }
        let values = values_of(x)?;
        let residual = residual.map(values_of).transpose()?;
        let total = n * h * w;
        let epilogue = Epilogue {
            bias: self.bias.as_deref(),
            item_bias: None,
            rows_per_item: total.max(1),
            residual: residual.as_deref(),
            act: self.spec.act,
            residual_last: true,
        };
        let rows = |range: std::ops::Range<usize>| -> Rows {
            let places = range.len().div_ceil(S::ROWS) * S::ROWS;
            let row = |place: usize| (range.start + place).min(range.end - 1);
            Rows((0..places).map(|place| values[row(place) * c..][..c].as_ptr()).collect())
        };
        let mut out = Buffer::new(total * self.packed.columns);
        run::<S>(&self.packed, total, out.pointer(), &epilogue, rows);
        // SAFETY: the tasks cover every row and every panel.
        unsafe { out.finish(shape) }
    }
}
