//! Attention in tiles: scores of a block of queries against a block of keys never leave the cache, and the softmax is
//! corrected as larger scores appear (Milakov and Gimelshein 2018; Dao et al. 2022).

use super::{
    buffer::{Buffer, Out, values_of},
    gemm::{Packed, accumulate},
    math,
    simd::{Kernel, Simd},
};
use crate::{
    Error, Result,
    ops::{Activation, AttentionSpec, KeysValues, View},
};
use rayon::prelude::*;

/// Queries of a block.
const QUERIES: usize = 32;
/// Keys of a block: a multiple of every set's panel width.
const KEYS: usize = 288;
/// Attentions below this many multiplications are not worth a second thread.
const ALONE: usize = 100_000;

/// Keys and values of one head, packed: keys as `[panel][d][panel width]`, scaled; values as `[panel][key][width]`.
struct Head {
    /// Registers of a panel of keys: the same for all but the last one.
    keys: Vec<f32>,
    values: Packed,
    count: usize,
}

/// Registers of a panel of keys.
const ACROSS: usize = 3;

fn pack<S: Simd>(k: (&[f32], View<'_>), v: (&[f32], View<'_>), start: usize, d: usize, scale: f32) -> Head {
    let (count, stride) = (k.1.of.positions(), k.1.of.channels());
    let width = ACROSS * S::LANES;
    let mut keys = vec![0f32; count.div_ceil(width) * d * width];
    for key in 0..count {
        let source = &k.0[key * stride + k.1.start + start..][..d];
        let base = (key / width) * d * width + key % width;
        for (i, value) in source.iter().enumerate() {
            keys[base + i * width] = value * scale;
        }
    }
    let stride = v.1.of.channels();
    let at = v.1.start + start;
    let values = Packed::new::<S>([1, count, d], false, |_, key, column| v.0[key * stride + at + column]);
    Head { keys, values, count }
}

/// One block of queries of one head.
struct Block<'a> {
    head: &'a Head,
    /// The first query's first value; queries are `stride` apart.
    q: *const f32,
    stride: usize,
    rows: usize,
    d: usize,
    /// The number of the first query, for a causal mask.
    causal_from: Option<usize>,
    out: *mut f32,
    out_stride: usize,
}

impl Kernel for Block<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: the caller's promise, handed on.
        unsafe { if S::ROWS == 8 { block::<S, 8>(&self) } else { block::<S, 4>(&self) } }
    }
}

/// `out[.., column ..] (+)= rows · b`, one tile of `M` rows and `N` registers.
#[inline(always)]
unsafe fn tile<S: Simd, const M: usize, const N: usize>(
    rows: &[*const f32; M],
    k: usize,
    b: *const f32,
    out: *mut f32,
    stride: usize,
    add: bool,
) {
    // SAFETY: the caller gives room for `M` rows of `N` registers and rows of `k` values.
    unsafe {
        let mut acc = [[S::splat(0.0); N]; M];
        if add {
            for (i, acc) in acc.iter_mut().enumerate() {
                for (j, acc) in acc.iter_mut().enumerate() {
                    *acc = S::load(out.add(i * stride + j * S::LANES));
                }
            }
        }
        accumulate::<S, M, N>(&mut acc, rows.as_ptr(), 1, 0, k, b);
        for (i, acc) in acc.iter().enumerate() {
            for (j, acc) in acc.iter().enumerate() {
                S::store(out.add(i * stride + j * S::LANES), *acc);
            }
        }
    }
}

#[inline(always)]
unsafe fn block<S: Simd, const M: usize>(b: &Block<'_>) {
    let (width, d) = (ACROSS * S::LANES, b.d);
    let padded = d.div_ceil(S::LANES) * S::LANES;
    let tiles = b.rows.div_ceil(M);
    let mut scores = vec![0f32; QUERIES * KEYS];
    let mut sums = vec![0f32; QUERIES * padded];
    let mut largest = [f32::NEG_INFINITY; QUERIES];
    let mut total = [0f32; QUERIES];
    let seen = |row: usize| b.causal_from.map_or(b.head.count, |first| (first + row + 1).min(b.head.count));
    let end = seen(b.rows - 1);
    let mut first = 0;
    while first < end {
        let count = KEYS.min(end - first);
        // SAFETY: rows past the last one repeat it; panels of keys are padded to their width and blocks of keys begin
        // on a panel; `scores` has room for whole panels and `sums` for whole registers.
        unsafe {
            for t in 0..tiles {
                let mut rows = [std::ptr::null::<f32>(); M];
                for (i, row) in rows.iter_mut().enumerate() {
                    *row = b.q.add((t * M + i).min(b.rows - 1) * b.stride);
                }
                for panel in 0..count.div_ceil(width) {
                    let keys = b.head.keys.as_ptr().add((first / width + panel) * d * width);
                    let out = scores.as_mut_ptr().add(t * M * KEYS + panel * width);
                    tile::<S, M, ACROSS>(&rows, d, keys, out, KEYS, false);
                }
            }
            let whole = count.div_ceil(S::LANES) * S::LANES;
            for row in 0..b.rows {
                let live = seen(row).saturating_sub(first).min(count);
                let line = scores.as_mut_ptr().add(row * KEYS);
                for j in live..whole {
                    *line.add(j) = f32::NEG_INFINITY;
                }
                if live == 0 {
                    std::ptr::write_bytes(line, 0, whole);
                    continue;
                }
                let mut top = S::splat(largest[row]);
                let mut j = 0;
                while j < whole {
                    top = S::max(top, S::load(line.add(j)));
                    j += S::LANES;
                }
                let top = S::largest(top);
                let mut sum = S::splat(0.0);
                j = 0;
                while j < whole {
                    let e = math::exp::<S>(S::sub(S::load(line.add(j)), S::splat(top)));
                    S::store(line.add(j), e);
                    j += S::LANES;
                }
                for j in live..whole {
                    *line.add(j) = 0.0;
                }
                j = 0;
                while j < whole {
                    sum = S::add(sum, S::load(line.add(j)));
                    j += S::LANES;
                }
                let shrink = (largest[row] - top).exp();
                total[row] = total[row] * shrink + S::sum(sum);
                largest[row] = top;
                if shrink != 1.0 && first > 0 {
                    let line = sums.as_mut_ptr().add(row * padded);
                    j = 0;
                    while j < padded {
                        S::store(line.add(j), S::mul(S::load(line.add(j)), S::splat(shrink)));
                        j += S::LANES;
                    }
                }
            }
            for t in 0..tiles {
                let mut rows = [std::ptr::null::<f32>(); M];
                for (i, row) in rows.iter_mut().enumerate() {
                    *row = scores.as_ptr().add((t * M + i) * KEYS);
                }
                let mut column = 0;
                for (start, registers) in b.head.values.iter_panels() {
                    let values = start.add(first * registers * S::LANES);
                    let out = sums.as_mut_ptr().add(t * M * padded + column);
                    match registers {
                        1 => tile::<S, M, 1>(&rows, count, values, out, padded, true),
                        2 => tile::<S, M, 2>(&rows, count, values, out, padded, true),
                        _ => tile::<S, M, 3>(&rows, count, values, out, padded, true),
                    }
                    column += registers * S::LANES;
                }
            }
        }
        first += count;
    }
    for (row, total) in total.iter().enumerate().take(b.rows) {
        let inverse = 1.0 / total;
        let mut j = 0;
        while j < d {
            // SAFETY: the caller gives room for `rows` results of `d` values.
            unsafe {
                let v = S::mul(S::load(sums.as_ptr().add(row * padded + j)), S::splat(inverse));
                S::store_part(b.out.add(row * b.out_stride + j), v, S::LANES.min(d - j));
            }
            j += S::LANES;
        }
    }
}

/// See [`crate::ops::Ops::attention`].
pub(crate) fn attention<S: Simd>(q: View<'_>, kv: &KeysValues<'_>, spec: AttentionSpec) -> Result<Activation> {
    let [n, h, w, stride] = q.of.shape();
    let positions = h * w;
    let (heads, width) = (spec.heads, q.width);
    let d = width / heads.max(1);
    let broken = || Error::Operation("attention got views that do not fit".to_owned());
    let mut items = Vec::with_capacity(n);
    for item in 0..n {
        if matches!(kv, KeysValues::Items(items) if items.len() != n) {
            return Err(broken());
        }
        let (k, v, index) = kv.item(item);
        let fits = |view: &View<'_>| view.width == width && view.start + width <= view.of.channels();
        let lengths = k.of.positions() == v.of.positions() && k.of.positions() > 0;
        if d * heads != width || !fits(&k) || !fits(&v) || q.start + width > stride || !lengths {
            return Err(broken());
        }
        if index >= k.of.batch() || index >= v.of.batch() || (spec.causal && k.of.positions() < positions) {
            return Err(broken());
        }
        items.push((values_of(k.of)?, k, values_of(v.of)?, v, index));
    }
    let queries = values_of(q.of)?;
    let scale = 1.0 / (d as f32).sqrt();
    let work: usize = items.iter().map(|i| positions * i.1.of.positions() * width).sum();
    let pack_one = |i: usize| {
        let (k_values, k, v_values, v, index) = &items[i / heads];
        let of = |values: &'_ [f32], view: &View<'_>| {
            let size = view.of.positions() * view.of.channels();
            (index * size, (index + 1) * size, values.len())
        };
        let (k0, k1, _) = of(k_values, k);
        let (v0, v1, _) = of(v_values, v);
        pack::<S>((&k_values[k0..k1], *k), (&v_values[v0..v1], *v), i % heads * d, d, scale)
    };
    let blocks = positions.div_ceil(QUERIES);
    let mut out = Buffer::new(n * positions * width);
    let pointer: Out = out.pointer();
    let run_block = |packed: &Head, head: usize, block: usize| {
        let first = block * QUERIES;
        let at = head / heads * positions + first;
        let column = head % heads * d;
        let rows = QUERIES.min(positions - first);
        let kernel = Block {
            head: packed,
            q: queries[at * stride + q.start + column..].as_ptr(),
            stride,
            rows,
            d,
            causal_from: spec.causal.then_some(first),
            out: pointer.at(at * width + column),
            out_stride: width,
        };
        // SAFETY: the set was found at run time; blocks differ in queries or in head, so they write disjoint parts.
        unsafe { S::enter(kernel) }
    };
    if work < ALONE {
        for head in 0..n * heads {
            let packed = pack_one(head);
            (0..blocks).for_each(|block| run_block(&packed, head, block));
        }
    } else if n * heads >= 2 * rayon::current_num_threads() {
        (0..n * heads).into_par_iter().with_max_len(1).for_each(|head| {
            let packed = pack_one(head);
            (0..blocks).into_par_iter().with_min_len(8).for_each(|block| run_block(&packed, head, block));
        });
    } else {
        let packed: Vec<Head> = (0..n * heads).into_par_iter().map(pack_one).collect();
        (0..n * heads * blocks).into_par_iter().for_each(|i| run_block(&packed[i / blocks], i / blocks, i % blocks));
    }
    // SAFETY: the blocks cover every query of every head.
    unsafe { out.finish([n, h, w, width]) }
}
