//! Masks on a larger canvas and on a coarser grid.

use crate::Mask;

impl Mask {
    /// This mask at `left`, `top` of a larger one that keeps everything else; what sticks out is cut off.
    pub fn placed(&self, width: u32, height: u32, left: u32, top: u32) -> Self {
        let mut out = Self::filled(width, height, 0);
        let columns = self.width.min(width.saturating_sub(left)) as usize;
        let rows = self.height.min(height.saturating_sub(top)) as usize;
        if columns == 0 {
            return out;
        }
        let sources = self.data.chunks_exact(self.width as usize);
        let targets = out.data.chunks_exact_mut(width as usize).skip(top as usize);
        for (target, source) in targets.zip(sources).take(rows) {
            target[left as usize..][..columns].copy_from_slice(&source[..columns]);
        }
        out
    }

    /// Every `cell` × `cell` square takes its largest value, so that no masked pixel lies in a square that is kept.
    pub fn whole_cells(&self, cell: u32) -> Self {
        let (cell, width) = (cell.max(1) as usize, self.width.max(1) as usize);
        let across = width.div_ceil(cell);
        let mut out = self.clone();
        for band in out.data.chunks_mut(width * cell) {
            let mut most = vec![0u8; across];
            for row in band.chunks_exact(width) {
                row.iter().enumerate().for_each(|(x, &v)| most[x / cell] = most[x / cell].max(v));
            }
            for row in band.chunks_exact_mut(width) {
                row.iter_mut().enumerate().for_each(|(x, v)| *v = most[x / cell]);
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_finds_its_place() {
        let small = Mask::filled(2, 2, 9);
        assert_eq!(small.placed(4, 3, 1, 1).data, [0, 0, 0, 0, 0, 9, 9, 0, 0, 9, 9, 0]);
        assert_eq!(small.placed(2, 2, 1, 1).data, [0, 0, 0, 9]);
        assert_eq!(small.placed(2, 2, 2, 0).data, [0; 4]);
    }

    #[test]
    fn cells_are_all_or_nothing() {
        let mut mask = Mask::filled(5, 3, 0);
        mask.data[6] = 7;
        mask.data[14] = 255;
        let cells = mask.whole_cells(2);
        assert_eq!(cells.data, [7, 7, 0, 0, 0, 7, 7, 0, 0, 0, 0, 0, 0, 0, 255]);
        assert_eq!(mask.whole_cells(1), mask);
    }
}
