//! The matrix product under convolutions, linear layers and attention.
//!
//! The right side is packed once into panels of up to three registers' width, `[panel][tap][k][columns]`. The left side
//! is never copied: a tile of rows is a list of pointers, one per row and tap, so a convolution is a product whose rows
//! point at the pixels under the kernel (and at zeros outside of the picture). What follows a product (bias, residual,
//! activation, gate) happens while the result is still in registers.

use super::{
    math,
    simd::{Kernel, Simd},
};
use crate::ops::Act;

/// Most registers across a tile.
pub(crate) const ACROSS: usize = 3;
/// Bytes of a packed panel's piece that is worked on at a time: it stays in the second-level cache.
const PIECE: usize = 256 << 10;

/// How the columns of a product are split into panels: register counts, as even as possible (4 → 2 + 2).
pub(crate) fn panels(columns: usize, lanes: usize, gated: bool) -> Vec<usize> {
    let registers = columns.div_ceil(lanes);
    if gated {
        // A panel holds a register of values and the register of their gates.
        return vec![2; registers];
    }
    let count = registers.div_ceil(ACROSS);
    (0..count).map(|i| registers * (i + 1) / count - registers * i / count).collect()
}

/// A packed right side.
pub(crate) struct Packed {
    /// Values of the packed panels.
    data: Vec<f32>,
    /// Registers of each panel.
    panels: Vec<usize>,
    /// Where each panel begins in `data`.
    starts: Vec<usize>,
    pub(crate) taps: usize,
    pub(crate) k: usize,
    /// Columns of the result.
    pub(crate) columns: usize,
    gated: bool,
}

impl Packed {
    /// `weight(tap, k, column)`; with `gated` the columns `columns ..` are the gates.
    pub(crate) fn new<S: Simd>(
        [taps, k, columns]: [usize; 3],
        gated: bool,
        weight: impl Fn(usize, usize, usize) -> f32,
    ) -> Self {
        let panels = panels(columns, S::LANES, gated);
        let mut data = Vec::with_capacity(panels.iter().sum::<usize>() * S::LANES * taps * k);
        let mut starts = Vec::with_capacity(panels.len());
        let mut first = 0;
        for registers in &panels {
            starts.push(data.len());
            for tap in 0..taps {
                for row in 0..k {
                    for lane in 0..registers * S::LANES {
                        let (column, shift) = match (gated, lane / S::LANES) {
                            (true, half) => (first + lane % S::LANES, half * columns),
                            _ => (first + lane, 0),
                        };
                        data.push(if column < columns { weight(tap, row, column + shift) } else { 0.0 });
                    }
                }
            }
            first += if gated { S::LANES } else { registers * S::LANES };
        }
        Packed { data, panels, starts, taps, k, columns, gated }
    }

    pub(crate) fn panel_count(&self) -> usize {
        self.panels.len()
    }
}

/// What happens to a result before it is stored.
#[derive(Clone, Copy)]
pub(crate) struct Epilogue<'a> {
    /// One value a column (with a gate: values, then gates).
    pub(crate) bias: Option<&'a [f32]>,
    /// One value an item and column; `rows_per_item` rows are an item.
    pub(crate) item_bias: Option<&'a [f32]>,
    pub(crate) rows_per_item: usize,
    /// As large as the result.
    pub(crate) residual: Option<&'a [f32]>,
    pub(crate) act: Act,
    /// The residual is added behind the activation.
    pub(crate) residual_last: bool,
}

/// Rows `first ..` of a product, for the panels `panels`.
pub(crate) struct Product<'a> {
    pub(crate) packed: &'a Packed,
    /// `[tile][tap][row]`: where each row's values begin; tiles have [`Simd::ROWS`] rows, the last one repeats rows.
    pub(crate) rows: &'a [*const f32],
    /// The first row's number in the whole result.
    pub(crate) first: usize,
    /// How many rows.
    pub(crate) count: usize,
    pub(crate) panels: std::ops::Range<usize>,
    /// The whole result, `columns` values a row.
    pub(crate) out: *mut f32,
    pub(crate) epilogue: Epilogue<'a>,
}

impl Kernel for Product<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for panel in self.panels.clone() {
            // SAFETY: the caller's promise, handed on.
            unsafe {
                match (self.packed.panels[panel], S::ROWS) {
                    (1, 8) => panel_rows::<S, 8, 1>(&self, panel),
                    (2, 8) => panel_rows::<S, 8, 2>(&self, panel),
                    (_, 8) => panel_rows::<S, 8, 3>(&self, panel),
                    (1, _) => panel_rows::<S, 4, 1>(&self, panel),
                    (2, _) => panel_rows::<S, 4, 2>(&self, panel),
                    (_, _) => panel_rows::<S, 4, 3>(&self, panel),
                }
            }
        }
    }
}

/// Adds `k` products for each of `taps` rows of pointers to the accumulators.
///
/// # Safety
/// As [`Simd`]; each pointer is valid for `k` values, `b` for `taps · k · N` registers.
#[inline(always)]
pub(crate) unsafe fn accumulate<S: Simd, const M: usize, const N: usize>(
    acc: &mut [[S::V; N]; M],
    rows: *const *const f32,
    taps: usize,
    skip: usize,
    k: usize,
    mut b: *const f32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        for tap in 0..taps {
            let mut a = [std::ptr::null::<f32>(); M];
            for (i, a) in a.iter_mut().enumerate() {
                *a = (*rows.add(tap * M + i)).add(skip);
            }
            for kk in 0..k {
                let mut column = [S::splat(0.0); N];
                for (j, column) in column.iter_mut().enumerate() {
                    *column = S::load(b.add(j * S::LANES));
                }
                for i in 0..M {
                    let value = S::splat(*a[i].add(kk));
                    for j in 0..N {
                        acc[i][j] = S::fma(value, column[j], acc[i][j]);
                    }
                }
                b = b.add(N * S::LANES);
            }
        }
    }
}

/// All rows for one panel, in pieces of the long dimension that stay in the cache.
#[inline(always)]
unsafe fn panel_rows<S: Simd, const M: usize, const N: usize>(p: &Product<'_>, panel: usize) {
    let packed = p.packed;
    let (taps, k, columns) = (packed.taps, packed.k, packed.columns);
    let start: usize =
        if packed.gated { panel * S::LANES } else { packed.panels[..panel].iter().sum::<usize>() * S::LANES };
    let most = (PIECE / (N * S::LANES * 4)).max(1);
    // A piece is some whole taps, or a part of one tap. A gated result cannot be resumed, so it has one piece.
    let (tap_step, k_step) = match (packed.gated, k <= most) {
        (true, _) => (taps, k),
        (false, true) => (most / k, k),
        (false, false) => (1, k.div_ceil(k.div_ceil(most))),
    };
    // SAFETY: pieces stay inside of the panel and of the rows by the ranges below; results inside of `out` because
    // rows and columns are cut to what is there.
    unsafe {
        let base = packed.data.as_ptr().add(packed.starts[panel]);
        let mut tap = 0;
        while tap < taps {
            let tap_count = tap_step.min(taps - tap);
            let mut skip = 0;
            while skip < k {
                let k_count = k_step.min(k - skip);
                let b = base.add((tap * k + skip) * N * S::LANES);
                let begin = tap == 0 && skip == 0;
                let end = tap + tap_count == taps && skip + k_count == k;
                let mut tile = 0;
                while tile * M < p.count {
                    let rows = p.rows.as_ptr().add((tile * taps + tap) * M);
                    let row = p.first + tile * M;
                    let live = M.min(p.count - tile * M);
                    let mut acc = [[S::splat(0.0); N]; M];
                    if !begin {
                        for (i, acc) in acc.iter_mut().enumerate().take(live) {
                            for (j, acc) in acc.iter_mut().enumerate() {
                                let column = start + j * S::LANES;
                                let lanes = S::LANES.min(columns - column);
                                *acc = S::load_part(p.out.add((row + i) * columns + column), lanes);
                            }
                        }
                    }
                    accumulate::<S, M, N>(&mut acc, rows, tap_count, skip, k_count, b);
                    for (i, acc) in acc.iter().enumerate().take(live) {
                        if packed.gated {
                            store_gated::<S, N>(p, row + i, start, acc);
                        } else {
                            store::<S, N>(p, row + i, start, acc, end);
                        }
                    }
                    tile += 1;
                }
                skip += k_count;
            }
            tap += tap_count;
        }
    }
}

#[inline(always)]
unsafe fn store<S: Simd, const N: usize>(p: &Product<'_>, row: usize, start: usize, acc: &[S::V; N], end: bool) {
    let (columns, e) = (p.packed.columns, &p.epilogue);
    for (j, value) in acc.iter().enumerate() {
        let column = start + j * S::LANES;
        let lanes = S::LANES.min(columns - column);
        let mut v = *value;
        // SAFETY: `lanes` values from `column` lie inside of a row of each slice.
        unsafe {
            if end {
                if let Some(bias) = e.bias {
                    v = S::add(v, S::load_part(bias.as_ptr().add(column), lanes));
                }
                if let Some(bias) = e.item_bias {
                    let at = row / e.rows_per_item * columns + column;
                    v = S::add(v, S::load_part(bias.as_ptr().add(at), lanes));
                }
                if e.residual_last {
                    v = math::act::<S>(v, e.act);
                }
                if let Some(residual) = e.residual {
                    v = S::add(v, S::load_part(residual.as_ptr().add(row * columns + column), lanes));
                }
                if !e.residual_last {
                    v = math::act::<S>(v, e.act);
                }
            }
            S::store_part(p.out.add(row * columns + column), v, lanes);
        }
    }
}

#[inline(always)]
unsafe fn store_gated<S: Simd, const N: usize>(p: &Product<'_>, row: usize, column: usize, acc: &[S::V; N]) {
    let (columns, e) = (p.packed.columns, &p.epilogue);
    let lanes = S::LANES.min(columns - column);
    let (mut value, mut gate) = (acc[0], acc[N - 1]);
    // SAFETY: `lanes` values from `column` lie inside of a row of each slice.
    unsafe {
        if let Some(bias) = e.bias {
            value = S::add(value, S::load_part(bias.as_ptr().add(column), lanes));
            gate = S::add(gate, S::load_part(bias.as_ptr().add(columns + column), lanes));
        }
        let mut v = S::mul(value, math::act::<S>(gate, e.act));
        if let Some(residual) = e.residual {
            v = S::add(v, S::load_part(residual.as_ptr().add(row * columns + column), lanes));
        }
        S::store_part(p.out.add(row * columns + column), v, lanes);
    }
}

impl Packed {
    /// Where each panel begins, and its registers.
    pub(crate) fn iter_panels(&self) -> impl Iterator<Item = (*const f32, usize)> + '_ {
        self.starts.iter().zip(&self.panels).map(|(start, registers)| (self.data[*start..].as_ptr(), *registers))
    }
}
