//! Outpainting: a larger canvas, and the mask of what is new on it.
//!
//! The canvas is rounded up to whole latent cells on its right and lower side and cut back at the end, so that pictures
//! of any size grow by exactly what was asked.

use super::fields::{MAX_SIDE, Values};
use crate::fault::Fault;
use sd_images::{Extend, Limits, Mask, Picture};

/// A picture on its larger canvas.
pub(super) struct Outpaint {
    /// The canvas: the picture, its edges repeated into what is new.
    pub(super) picture: Picture,
    /// The size of the finished picture.
    pub(super) finished: (u32, u32),
    /// The size of the picture as it came, to which the request's own mask is brought.
    pub(super) inner: (u32, u32),
    by: Extend,
    /// 255 where something is new.
    fresh: Mask,
}

impl Outpaint {
    /// `step`: what the canvas's sides are multiples of. `pixels`: the most that it may hold.
    pub(super) fn new(values: &Values, picture: Picture, step: u32, pixels: u64) -> Result<Self, Fault> {
        let side = |name| values.u32(name).unwrap_or(0);
        let by = Extend { left: side("left"), right: side("right"), top: side("top"), bottom: side("bottom") };
        if by == Extend::default() {
            return Err(Fault::field("extend", "at least one side must grow"));
        }
        let picture = picture.flatten([255; 3]);
        let inner = picture.size();
        let grown = |side: u32, a: u32, b: u32| side.saturating_add(a).saturating_add(b);
        let finished = (grown(inner.0, by.left, by.right), grown(inner.1, by.top, by.bottom));
        let more = |side: u32| side.next_multiple_of(step) - side;
        let canvas = Extend { right: by.right + more(finished.0), bottom: by.bottom + more(finished.1), ..by };
        let limits = Limits { max_side: MAX_SIDE as u32, max_pixels: pixels, ..Limits::default() };
        let (picture, fresh) =
            sd_images::extend(&picture, canvas, 0, &limits).map_err(|e| Fault::from(e).about("extend"))?;
        Ok(Outpaint { picture, finished, inner, by, fresh })
    }

    /// The job's mask: what is new, and what the request's own mask (in the size of `inner`) repaints besides.
    pub(super) fn mask(&self, own: Option<Mask>) -> Result<Mask, Fault> {
        let Some(own) = own else { return Ok(self.fresh.clone()) };
        let placed = own.placed(self.fresh.width, self.fresh.height, self.by.left, self.by.top);
        Ok(self.fresh.clone().union(&placed)?)
    }
}
