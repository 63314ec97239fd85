//! A Brownian path per image, so that SDE samplers see one consistent noise at all their noise levels.
//!
//! Follows `torchsde.BrownianTree` as k-diffusion, A1111 and ComfyUI use it: time is sigma, the path is fixed by the
//! seed alone, whatever points are asked for. A path between two known points is split in the middle again and again
//! (Lévy's construction), down to a millionth; every split has its own seed from a [`first_state`] key.

use super::Rng;
use super::seed_sequence::first_state;

/// The Brownian path of one image over `[start, end]` in sigma.
pub(super) struct BrownianTree {
    rng: Rng,
    seed: u64,
    start: f64,
    end: f64,
    /// The path at `end`; it is 0 at `start`.
    total: Vec<f64>,
    /// The latest points asked for: the next request begins where the last one ended.
    known: Vec<(f64, Vec<f64>)>,
}

/// Points that are remembered.
const REMEMBERED: usize = 4;

impl BrownianTree {
    pub(super) fn new(rng: Rng, seed: u64, len: usize, start: f64, end: f64) -> Self {
        let (start, end) = (single(start), single(end));
        let deviation = (end - start).sqrt();
        let total = normals(rng, first_state(seed, &[]), len).map(|x| deviation * x).collect();
        Self { rng, seed, start: round(start), end: round(end), total, known: Vec::new() }
    }

    /// Noise of unit variance for the way from `from` to `to`, from the path's increment.
    pub(super) fn increment(&mut self, from: f64, to: f64) -> Vec<f32> {
        let (from, to) = (single(from), single(to));
        if from == to {
            // No way, no noise; the scale below would be infinite.
            return vec![0.0; self.total.len()];
        }
        let scale = 1.0 / (to - from).abs().sqrt();
        let (a, b) = (self.at(from), self.at(to));
        b.iter().zip(&a).map(|(b, a)| ((b - a) * scale) as f32).collect()
    }

    /// The path at a point.
    fn at(&mut self, t: f64) -> Vec<f64> {
        let t = round(t.clamp(self.start, self.end));
        if let Some((_, path)) = self.known.iter().find(|(at, _)| *at == t) {
            return path.clone();
        }
        let path = self.descend(t);
        self.known.insert(0, (t, path.clone()));
        self.known.truncate(REMEMBERED);
        path
    }

    fn descend(&self, t: f64) -> Vec<f64> {
        let (mut left, mut right) = (self.start, self.end);
        let mut path = vec![0.0; self.total.len()];
        if t <= left {
            return path;
        }
        let mut across = self.total.clone();
        let (mut key, mut depth) = (0u64, 0u64);
        while t < right {
            let middle = round(0.5 * (right + left));
            // Neighbours of the millionth grid have nothing between them.
            if middle <= left || middle >= right {
                break;
            }
            let length = right - left;
            let (before, after) = (middle - left, right - middle);
            let deviation = (before * after / length).sqrt();
            let noise = normals(self.rng, first_state(self.seed, &[key, depth]), across.len());
            let goes_left = t <= middle;
            for ((across, path), noise) in across.iter_mut().zip(&mut path).zip(noise) {
                let first_half = before * *across / length + deviation * noise;
                if goes_left {
                    *across = first_half;
                } else {
                    *path += first_half;
                    *across -= first_half;
                }
            }
            if goes_left {
                (right, key) = (middle, 2 * key);
            } else {
                (left, key) = (middle, 2 * key + 1);
            }
            depth += 1;
            if t == left {
                return path;
            }
        }
        path.iter_mut().zip(&across).for_each(|(path, across)| *path += across);
        path
    }
}

/// Noise of a split; torchsde seeds a new generator each time.
fn normals(rng: Rng, seed: u64, len: usize) -> impl Iterator<Item = f64> {
    rng.seeded(seed).randn(len).into_iter().map(f64::from)
}

/// Sigmas are float32 tensors in k-diffusion; the tree computes with their values as doubles.
fn single(sigma: f64) -> f64 {
    f64::from(sigma as f32)
}

/// Rounds to six decimals as Python's `round`: exactly in decimal, which the formatter does and arithmetic does not.
fn round(t: f64) -> f64 {
    format!("{t:.6}").parse().unwrap_or(t)
}
