//! Working on a large picture in overlapping tiles whose seams are blended.

/// A part of a picture, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tile {
    /// Left edge.
    pub x: usize,
    /// Upper edge.
    pub y: usize,
    /// Width.
    pub width: usize,
    /// Height.
    pub height: usize,
}

/// Tiles of at most `side` × `side` pixels that cover `width × height` and overlap by at least `overlap`, spread evenly,
/// so that none is a narrow rest.
#[must_use]
pub fn tiles(width: usize, height: usize, side: usize, overlap: usize) -> Vec<Tile> {
    let rows = spans(height, side, overlap);
    let columns = spans(width, side, overlap);
    rows.iter().flat_map(|&(y, height)| columns.iter().map(move |&(x, width)| Tile { x, y, width, height })).collect()
}

/// Start and length along one axis.
fn spans(size: usize, side: usize, overlap: usize) -> Vec<(usize, usize)> {
    if side == 0 || size <= side {
        return vec![(0, size)];
    }
    let step = side.saturating_sub(overlap).max(1);
    let count = (size - side).div_ceil(step) + 1;
    (0..count).map(|i| ((size - side) * i / (count - 1), side)).collect()
}

/// A picture put together from tiles: `height × width × 3` values.
#[derive(Debug)]
pub struct Blend {
    width: usize,
    height: usize,
    sum: Vec<f32>,
    weight: Vec<f32>,
}

impl Blend {
    /// An empty one.
    pub fn new(width: usize, height: usize) -> Self {
        Self { width, height, sum: vec![0.0; width * height * 3], weight: vec![0.0; width * height] }
    }

    /// Adds a tile (`height × width × 3` values). Its weight falls linearly over `ramp` pixels towards each border that is
    /// not the picture's own. A tile that does not lie inside the picture, or whose values are not its size, is no tile.
    pub fn add(&mut self, values: &[f32], tile: Tile, ramp: usize) {
        let inside = tile.x + tile.width <= self.width && tile.y + tile.height <= self.height;
        if !inside || values.len() != tile.width * tile.height * 3 {
            debug_assert!(false, "a tile outside of its picture");
            return;
        }
        let across: Vec<f32> = (0..tile.width).map(|x| fade(x, tile.x, tile.width, self.width, ramp)).collect();
        for (row, line) in values.chunks_exact(tile.width * 3).enumerate() {
            let down = fade(row, tile.y, tile.height, self.height, ramp);
            let at = (tile.y + row) * self.width + tile.x;
            for (x, pixel) in line.chunks_exact(3).enumerate() {
                let weight = down * across[x];
                self.weight[at + x] += weight;
                let target = &mut self.sum[(at + x) * 3..][..3];
                target.iter_mut().zip(pixel).for_each(|(sum, value)| *sum += weight * value);
            }
        }
    }

    /// The blended values. Where no tile lay they are 0.
    pub fn finish(mut self) -> Vec<f32> {
        for (pixel, &weight) in self.sum.chunks_exact_mut(3).zip(&self.weight) {
            if weight > 0.0 {
                pixel.iter_mut().for_each(|value| *value /= weight);
            }
        }
        self.sum
    }
}

/// The weight of place `i` of a tile from `start` on, `length` long, in a picture of `size`.
fn fade(i: usize, start: usize, length: usize, size: usize, ramp: usize) -> f32 {
    let towards = |distance: usize, open: bool| {
        if open && distance < ramp { (distance as f32 + 0.5) / ramp as f32 } else { 1.0 }
    };
    towards(i, start > 0) * towards(length - 1 - i, start + length < size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_and_overlap() {
        for (width, height, side, overlap) in [(64, 64, 64, 16), (65, 200, 64, 16), (37, 10, 10, 4), (5, 5, 0, 0)] {
            let all = tiles(width, height, side, overlap);
            let mut seen = vec![false; width * height];
            for t in &all {
                assert!(side == 0 || (t.width <= side && t.height <= side));
                (t.y..t.y + t.height).for_each(|y| seen[y * width + t.x..][..t.width].fill(true));
            }
            assert!(seen.iter().all(|&s| s), "{width} × {height}");
            for pair in all.windows(2).filter(|p| p[0].y == p[1].y) {
                assert!(pair[0].x + pair[0].width >= pair[1].x + overlap);
            }
        }
    }

    #[test]
    fn tiles_of_one_picture_give_it_back() {
        let (width, height) = (23, 17);
        let picture: Vec<f32> = (0..width * height * 3).map(|i| (i % 97) as f32 / 97.0).collect();
        let mut blend = Blend::new(width, height);
        for tile in tiles(width, height, 8, 4) {
            let rows = (tile.y..tile.y + tile.height).map(|y| (y * width + tile.x) * 3);
            let part: Vec<f32> = rows.flat_map(|at| picture[at..at + tile.width * 3].iter().copied()).collect();
            blend.add(&part, tile, 4);
        }
        assert!(blend.finish().iter().zip(&picture).all(|(a, b)| (a - b).abs() < 1e-6));
    }
}
