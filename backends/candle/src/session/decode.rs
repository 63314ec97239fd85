//! Latents to pictures and back, whole or in tiles.

use super::{
    memory,
    model::Parts,
    tiles::{Blend, Span, spans},
};
use crate::{Error, Result, config::VaeConfig, ops::Activation};
use backend_api::{
    Ctl, Param, Stage, TensorRef,
    author::{Shapes, system_memory},
    find,
};

/// The smallest tile in latent cells: smaller ones see too little around them.
const SMALLEST: usize = 8;

/// The largest tile whose buffers take at most four fifths of `free` bytes, 0 for the whole picture. Where the free
/// memory is not known (0) nothing is cut.
fn choose(config: &VaeConfig, free: u64, height: usize, width: usize) -> Result<usize> {
    let factor = config.factor();
    let fits = |h: usize, w: usize| memory::autoencoder_scratch(config, h * factor, w * factor) < free / 10 * 8;
    if free == 0 || fits(height, width) {
        return Ok(0);
    }
    let sides = [128, 96, 64, 48, 32, 16];
    sides.into_iter().find(|s| fits(*s, *s)).ok_or_else(|| Error::Memory {
        what: "a tile of the picture",
        needed: memory::autoencoder_scratch(config, 16 * factor, 16 * factor) >> 20,
        free: free >> 20,
    })
}

/// The side of a tile in latent cells, 0 for the whole picture: the caller's, or what the free memory allows.
fn tile(parts: &Parts, options: &[Param], height: usize, width: usize) -> Result<usize> {
    if let Some(text) = find(options, "tile") {
        let side: usize = text.parse().map_err(|_| Error::invalid("`tile` must be a number of latent cells"))?;
        if side != 0 && side < SMALLEST {
            return Err(Error::invalid(format!("`tile` must be 0 or at least {SMALLEST}")));
        }
        return Ok(side);
    }
    choose(parts.vae.config(), system_memory().1, height, width)
}

/// Tiles of one picture, each with its place, and the cells over which neighbours blend.
fn plan(height: usize, width: usize, tile: usize) -> (Vec<(Span, Span)>, usize) {
    let overlap = tile / 4;
    let rows = spans(height, tile, overlap);
    let columns = spans(width, tile, overlap);
    let all = rows.iter().flat_map(|r| columns.iter().map(move |c| (*r, *c))).collect();
    (all, overlap)
}

/// `[c, h, w]` cut to a tile, in the same order.
fn cut(values: &[f32], [c, h, w]: [usize; 3], rows: Span, columns: Span) -> Vec<f32> {
    let mut out = Vec::with_capacity(c * rows.len * columns.len);
    for plane in values.chunks_exact(h * w) {
        for row in &mut plane.chunks_exact(w).skip(rows.start).take(rows.len) {
            out.extend_from_slice(&row[columns.start..][..columns.len]);
        }
    }
    out
}

/// The pixels of a span of latent cells.
fn pixels(span: Span, factor: usize) -> Span {
    Span { start: span.start * factor, len: span.len * factor }
}

/// For outputs that cannot say what is no number, such as bytes.
pub(crate) fn finite(values: Vec<f32>, what: &'static str) -> Result<Vec<f32>> {
    if values.iter().all(|v| v.is_finite()) { Ok(values) } else { Err(Error::Output(what)) }
}

/// Decodes; answers pictures `[n, h·f, w·f, 3]` in 0 … 1.
pub(crate) fn decode(
    parts: &Parts,
    latents: &TensorRef<'_>,
    options: &[Param],
    out: [usize; 4],
    ctl: &Ctl,
) -> Result<Vec<f32>> {
    let config = parts.vae.config();
    let factor = config.factor();
    let [n, c, h, w] = parts.shapes().pictures(latents.dims()?, out)?;
    let mut values = latents.to_f32()?;
    let plane = h * w;
    for (i, channel) in values.chunks_exact_mut(plane).enumerate() {
        let (scale, shift) = to_raw(parts, i % c);
        channel.iter_mut().for_each(|v| *v = *v * scale + shift);
    }
    let side = tile(parts, options, h, w)?;
    let (places, overlap) = plan(h, w, side);
    let total = (n * places.len()) as u64;
    let mut pictures = Vec::with_capacity(n * plane * factor * factor * 3);
    for (i, item) in values.chunks_exact(c * plane).enumerate() {
        let mut blend = (places.len() > 1).then(|| Blend::new(h * factor, w * factor, 3));
        for (j, (rows, columns)) in places.iter().enumerate() {
            ctl.progress(Stage::DECODE, (i * places.len() + j) as u64, total);
            let piece = cut(item, [c, h, w], *rows, *columns);
            let x = Activation::from_nchw(&piece, [1, c, rows.len, columns.len], parts.ops.device())?;
            let mut picture = parts.vae.decode(parts.ops.as_ref(), &x, ctl)?.to_vec()?;
            picture.iter_mut().for_each(|v| *v = to_colour(*v));
            match &mut blend {
                Some(blend) => blend.add(&picture, pixels(*rows, factor), pixels(*columns, factor), overlap * factor),
                None => pictures.append(&mut picture),
            }
        }
        if let Some(blend) = blend {
            pictures.append(&mut blend.finish());
        }
    }
    ctl.progress(Stage::DECODE, total, total);
    Ok(pictures)
}

/// A value of the network as a colour, 0 … 1. What is no number stays none, infinities included: the host must see that
/// the picture is broken, which black or white would hide.
fn to_colour(value: f32) -> f32 {
    if value.is_finite() { (value * 0.5 + 0.5).clamp(0.0, 1.0) } else { f32::NAN }
}

/// What turns a latent of sampler space into one of the network: factor and summand of a channel.
fn to_raw(parts: &Parts, channel: usize) -> (f32, f32) {
    let config = parts.vae.config();
    let pick = |list: &Option<Vec<f32>>, default: f32| list.as_ref().map_or(default, |l| l[channel]);
    match (&config.latents_mean, &config.latents_std) {
        (None, None) => (1.0 / config.scaling_factor, config.shift_factor.unwrap_or(0.0)),
        (mean, std) => (pick(std, 1.0) / config.scaling_factor, pick(mean, 0.0)),
    }
}

/// Encodes; answers `[n, 2c, h, w]`: means, then standard deviations.
pub(crate) fn encode(
    parts: &Parts,
    image: &TensorRef<'_>,
    options: &[Param],
    out: [usize; 4],
    ctl: &Ctl,
) -> Result<Vec<f32>> {
    let config = parts.vae.config();
    let factor = config.factor();
    let [n, c, h, w] = parts.shapes().moments(image.dims()?, out)?;
    let values: Vec<f32> = image.to_picture()?.into_iter().map(|v| v * 2.0 - 1.0).collect();
    let (side, raw) = (tile(parts, options, h, w)?, find(options, "raw") == Some("1"));
    let (places, overlap) = plan(h, w, side);
    let total = (n * places.len()) as u64;
    let (height, width) = (h * factor, w * factor);
    let mut encoded = Vec::with_capacity(n * 2 * c * h * w);
    for (i, item) in values.chunks_exact(height * width * 3).enumerate() {
        let mut blend = Blend::new(h, w, 2 * c);
        for (j, (rows, columns)) in places.iter().enumerate() {
            ctl.progress(Stage::ENCODE, (i * places.len() + j) as u64, total);
            let (pr, pc) = (pixels(*rows, factor), pixels(*columns, factor));
            let lines = item.chunks_exact(width * 3).skip(pr.start).take(pr.len);
            let piece = lines.flat_map(|line| &line[pc.start * 3..][..pc.len * 3]).copied().collect();
            let x = Activation::from_vec(piece, [1, pr.len, pc.len, 3], parts.ops.device())?;
            let moments = parts.vae.encode(parts.ops.as_ref(), &x, ctl)?;
            if (moments.height(), moments.width()) != (rows.len, columns.len) {
                return Err(Error::Operation("the encoder gave another size than expected".to_owned()));
            }
            blend.add(&moments.to_vec()?, *rows, *columns, overlap);
        }
        let moments = blend.finish();
        for channel in 0..2 * c {
            let (scale, shift) = if raw { (1.0, 0.0) } else { to_raw(parts, channel % c) };
            encoded.extend(moments.chunks_exact(2 * c).map(|pixel| match channel < c {
                true => (pixel[channel] - shift) / scale,
                // The network gives the logarithm of the variance; diffusers clamps it so.
                false => (0.5 * pixel[channel].clamp(-30.0, 20.0)).exp() / scale,
            }));
        }
    }
    ctl.progress(Stage::ENCODE, total, total);
    Ok(encoded)
}

/// Decodes with the preview network; answers pictures in 0 … 1.
pub(crate) fn preview(parts: &Parts, latents: &TensorRef<'_>, out: [usize; 4], ctl: &Ctl) -> Result<Vec<f32>> {
    let tiny = parts.tiny.as_ref().ok_or(Error::Absent("preview network"))?;
    let shapes = Shapes { channels: tiny.config().latent_channels, factor: tiny.config().factor() };
    let [n, c, h, w] = shapes.pictures(latents.dims()?, out)?;
    if ctl.cancelled() {
        return Err(Error::Cancelled);
    }
    let x = Activation::from_nchw(&latents.to_f32()?, [n, c, h, w], parts.ops.device())?;
    finite(tiny.decode(parts.ops.as_ref(), &x)?.to_vec()?, "preview network")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_follow_the_free_memory() {
        // The autoencoder of Stable Diffusion.
        let config: VaeConfig = serde_json::from_str(
            r#"{"block_out_channels": [128, 256, 512, 512], "latent_channels": 4, "scaling_factor": 0.18215}"#,
        )
        .unwrap();
        let needed = |cells: usize| memory::autoencoder_scratch(&config, cells * 8, cells * 8);
        for (free, side) in [
            (0, 0),
            (needed(128) * 2, 0),
            (needed(96) * 13 / 10, 96),
            (needed(64) * 13 / 10, 64),
            (needed(64), 48),
            (needed(16) * 13 / 10, 16),
        ] {
            assert_eq!(choose(&config, free, 128, 128).unwrap(), side, "{free}");
        }
        assert!(matches!(choose(&config, needed(16), 128, 128), Err(Error::Memory { .. })));
    }

    #[test]
    fn what_is_no_number_is_never_a_colour() {
        assert_eq!([-3.0, -1.0, 0.0, 1.0, 3.0].map(to_colour), [0.0, 0.0, 0.5, 1.0, 1.0]);
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(to_colour(value).is_nan());
        }
    }
}
