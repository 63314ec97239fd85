//! What SDXL's networks are told beside the text: sizes and crop of the picture, and to a refiner how good it is to look.
//!
//! Published as micro-conditioning (Podell et al. 2023, section 2.2). Defaults are those of diffusers' pipelines.

/// The values of one half of the guidance, in pixels. Pairs are (height, width) and (top, left).
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Sizes {
    /// The training picture's size before it was cropped.
    pub original: [f32; 2],
    /// Where the crop began.
    pub crop: [f32; 2],
    /// The size of the result.
    pub target: [f32; 2],
    /// LAION's aesthetic score, 0–10.
    pub aesthetic_score: f32,
}

/// The values for the prompt and for the negative prompt.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct SizeIds {
    /// With the prompt.
    pub positive: Sizes,
    /// With the negative prompt.
    pub negative: Sizes,
}

impl SizeIds {
    /// A picture that was never larger and is not cropped.
    #[must_use]
    pub fn plain(height: u32, width: u32) -> Self {
        let size = [height as f32, width as f32];
        let positive = Sizes { original: size, crop: [0.0; 2], target: size, aesthetic_score: 6.0 };
        Self { positive, negative: Sizes { aesthetic_score: 2.5, ..positive } }
    }
}

impl Sizes {
    /// The network's input `time_ids`: six numbers, or with `refiner` five, whose last one is the score.
    #[must_use]
    pub fn ids(&self, refiner: bool) -> Vec<f32> {
        let mut ids = [self.original, self.crop].concat();
        if refiner {
            ids.push(self.aesthetic_score);
        } else {
            ids.extend(self.target);
        }
        ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_those_of_diffusers() {
        let ids = SizeIds::plain(48, 64);
        assert_eq!(ids.positive.ids(false), [48.0, 64.0, 0.0, 0.0, 48.0, 64.0]);
        assert_eq!(ids.positive.ids(true), [48.0, 64.0, 0.0, 0.0, 6.0]);
        assert_eq!(ids.negative.ids(true)[4], 2.5);
    }
}
