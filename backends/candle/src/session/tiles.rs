//! Cutting a picture into overlapping tiles and blending what comes out.

/// One tile in one direction: where it starts and how long it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: usize,
    pub(crate) len: usize,
}

/// Spans of at most `tile` cells that cover `size` cells and overlap by at least `overlap`.
pub(crate) fn spans(size: usize, tile: usize, overlap: usize) -> Vec<Span> {
    if tile == 0 || size <= tile {
        return vec![Span { start: 0, len: size }];
    }
    let step = tile.saturating_sub(overlap).max(1);
    let count = (size - tile).div_ceil(step) + 1;
    // Spread evenly, so that no tile is a narrow rest.
    (0..count).map(|i| Span { start: (size - tile) * i / (count - 1), len: tile }).collect()
}

/// Weighted sums of tiles: `[height, width, channels]`.
pub(crate) struct Blend {
    height: usize,
    width: usize,
    channels: usize,
    sum: Vec<f32>,
    weight: Vec<f32>,
}

impl Blend {
    pub(crate) fn new(height: usize, width: usize, channels: usize) -> Self {
        Blend { height, width, channels, sum: vec![0.0; height * width * channels], weight: vec![0.0; height * width] }
    }

    /// Adds a tile whose weight falls linearly over `ramp` pixels towards each border that is not the picture's own.
    pub(crate) fn add(&mut self, values: &[f32], rows: Span, columns: Span, ramp: usize) {
        let across: Vec<f32> = (0..columns.len).map(|x| fade(x, columns, self.width, ramp)).collect();
        for y in 0..rows.len {
            let down = fade(y, rows, self.height, ramp);
            for x in 0..columns.len {
                let weight = down * across[x];
                let at = (rows.start + y) * self.width + columns.start + x;
                self.weight[at] += weight;
                let source = &values[(y * columns.len + x) * self.channels..][..self.channels];
                let target = &mut self.sum[at * self.channels..][..self.channels];
                target.iter_mut().zip(source).for_each(|(t, s)| *t += weight * s);
            }
        }
    }

    /// The blended values.
    pub(crate) fn finish(mut self) -> Vec<f32> {
        for (pixel, weight) in self.sum.chunks_exact_mut(self.channels).zip(&self.weight) {
            pixel.iter_mut().for_each(|v| *v /= weight);
        }
        self.sum
    }
}

fn fade(i: usize, span: Span, size: usize, ramp: usize) -> f32 {
    let towards = |distance: usize, open: bool| {
        if open && distance < ramp { (distance as f32 + 0.5) / ramp as f32 } else { 1.0 }
    };
    towards(i, span.start > 0) * towards(span.len - 1 - i, span.start + span.len < size)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(size: usize, tile: usize, overlap: usize, count: usize) {
        let spans = spans(size, tile, overlap);
        assert_eq!(spans.len(), count, "{size} {tile} {overlap}: {spans:?}");
        assert_eq!(spans[0].start, 0);
        assert_eq!(spans[count - 1].start + spans[count - 1].len, size);
        for pair in spans.windows(2) {
            assert!(pair[0].start + pair[0].len >= pair[1].start + overlap, "{spans:?}");
        }
    }

    #[test]
    fn spans_cover_and_overlap() {
        check(64, 64, 16, 1);
        check(64, 0, 16, 1);
        check(65, 64, 16, 2);
        check(128, 64, 16, 3);
        check(37, 10, 4, 6);
    }

    #[test]
    fn a_blend_of_equal_tiles_is_their_value() {
        let mut blend = Blend::new(13, 9, 2);
        for rows in spans(13, 6, 2) {
            for columns in spans(9, 5, 2) {
                blend.add(&vec![0.75; rows.len * columns.len * 2], rows, columns, 2);
            }
        }
        assert!(blend.finish().iter().all(|v| (v - 0.75).abs() < 1e-6));
    }
}
