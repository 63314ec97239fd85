//! Guidance: combining what the network says with and without the prompt.
//!
//! All functions take raw network outputs of one image (any prediction type) and work in place on the conditional one.

/// When and how strongly to guide.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Guidance {
    /// Classifier-free guidance scale (Ho and Salimans 2022); 1 means no guidance.
    pub scale: f32,
    /// How far the guided output is brought back to the deviation of the conditional one, 0 to 1
    /// (Lin et al. 2024, section 3.4).
    pub rescale: f32,
    /// The part of the run, in steps from 0 to 1, in which guidance is on (Kynkäänniemi et al. 2024).
    pub interval: (f32, f32),
}

impl Default for Guidance {
    fn default() -> Self {
        Self { scale: 7.5, rescale: 0.0, interval: (0.0, 1.0) }
    }
}

impl Guidance {
    /// Whether step `step` (from 0) of `total` needs the unconditional half of the batch.
    #[must_use]
    pub fn is_on(&self, step: usize, total: usize) -> bool {
        let at = step as f32 / total.max(1) as f32;
        self.scale != 1.0 && at >= self.interval.0 && (at < self.interval.1 || self.interval.1 >= 1.0)
    }

    /// Classifier-free guidance with this scale and rescale factor: `cond` becomes the guided output.
    pub fn apply(&self, cond: &mut [f32], uncond: &[f32]) {
        if self.rescale == 0.0 {
            combine(cond, uncond, self.scale);
            return;
        }
        let before = deviation(cond);
        combine(cond, uncond, self.scale);
        rescale(cond, before, self.rescale);
    }
}

/// uncond + scale · (cond − uncond).
pub fn combine(cond: &mut [f32], uncond: &[f32], scale: f32) {
    for (c, u) in cond.iter_mut().zip(uncond) {
        *c = u + scale * (*c - u);
    }
}

/// InstructPix2Pix (Brooks et al. 2023, equation 3): `full` has text and picture, `image` the picture only, `uncond`
/// neither. `full` becomes uncond + text_scale · (full − image) + image_scale · (image − uncond).
pub fn combine_pix2pix(full: &mut [f32], image: &[f32], uncond: &[f32], text_scale: f32, image_scale: f32) {
    for ((f, i), u) in full.iter_mut().zip(image).zip(uncond) {
        *f = u + text_scale * (*f - i) + image_scale * (i - u);
    }
}

/// Scales `guided` so that its deviation is `phi` of the way back to `before`.
fn rescale(guided: &mut [f32], before: f64, phi: f32) {
    let after = deviation(guided);
    if after > 0.0 {
        let factor = (f64::from(phi) * before / after + 1.0 - f64::from(phi)) as f32;
        guided.iter_mut().for_each(|x| *x *= factor);
    }
}

/// Sample standard deviation over all channels of an image, as `torch.std`.
fn deviation(values: &[f32]) -> f64 {
    let n = values.len() as f64;
    let mean = values.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
    let squares = values.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>();
    (squares / (n - 1.0).max(1.0)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guidance_is_the_formula() {
        let mut cond = vec![1.0, 2.0, -3.0];
        Guidance { scale: 3.0, ..Guidance::default() }.apply(&mut cond, &[0.0, 1.0, -1.0]);
        assert_eq!(cond, [3.0, 4.0, -7.0]);
        let mut full = vec![2.0];
        combine_pix2pix(&mut full, &[1.0], &[0.5], 7.0, 1.5);
        assert_eq!(full, [0.5 + 7.0 + 0.75]);
    }

    #[test]
    fn full_rescale_keeps_the_deviation() {
        let mut cond: Vec<f32> = (0..100).map(|i| (i as f32 * 0.7).sin()).collect();
        let uncond: Vec<f32> = (0..100).map(|i| (i as f32 * 0.3).cos()).collect();
        let before = deviation(&cond);
        Guidance { scale: 9.0, rescale: 1.0, ..Guidance::default() }.apply(&mut cond, &uncond);
        assert!((deviation(&cond) - before).abs() < 1e-6);
    }

    #[test]
    fn guidance_is_off_where_it_changes_nothing_or_is_unwanted() {
        let on = |scale, interval, step| Guidance { scale, rescale: 0.0, interval }.is_on(step, 10);
        assert!(!on(1.0, (0.0, 1.0), 0));
        assert!(on(7.0, (0.0, 1.0), 9));
        let steps: Vec<usize> = (0..10).filter(|step| on(7.0, (0.2, 0.5), *step)).collect();
        assert_eq!(steps, [2, 3, 4]);
    }
}
