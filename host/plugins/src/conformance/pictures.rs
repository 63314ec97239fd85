//! Checks of the picture side: decoding, encoding, previews.

use super::{
    Outcome, Run, not_tried, refused,
    subject::{Look, Subject, noise, quiet},
    wrong,
};
use backend_api::{AbiError, Code, Ctl, find};
use std::time::Instant;

/// Passes when a call that is cancelled before it begins answers so, and likewise on its way.
fn stops<T>(mut call: impl FnMut(&Ctl) -> Result<T, AbiError>) -> Outcome {
    refused(call(&Look::after(0).0), &[Code::CANCELLED])?;
    let (ctl, look) = Look::after(1);
    match call(&ctl) {
        Err(e) if e.code == Code::CANCELLED => Ok("also on its way".to_owned()),
        Err(e) => wrong(e.to_string()),
        Ok(_) if look.looks() < 2 => Ok("it looks only once".to_owned()),
        Ok(_) => wrong(format!("it looked {} times and went on", look.looks())),
    }
}

fn in_range(pixels: &[f32]) -> Result<(), super::Trouble> {
    if pixels.iter().all(|v| (0.0..=1.0).contains(v)) { Ok(()) } else { wrong("values outside 0–1") }
}

pub(super) fn checks(run: &mut Run<'_>, s: &mut Subject) {
    let latents = s.latents(5, 1);
    let mut picture = Vec::new();
    run.check("decodes", || {
        let start = Instant::now();
        picture = s.decode(&latents, &quiet())?;
        in_range(&picture)?;
        Ok(format!("{:.1} ms", start.elapsed().as_secs_f64() * 1e3))
    });
    if picture.is_empty() {
        return;
    }
    run.check("decodes the same twice", || {
        if s.decode(&latents, &quiet())? == picture { Ok(String::new()) } else { wrong("another picture") }
    });
    run.check("decodes bytes as it decodes numbers", || {
        let bytes = s.decode_bytes(&latents)?;
        let off = bytes.iter().zip(&picture).map(|(b, v)| (f32::from(*b) - v * 255.0).abs()).fold(0.0, f32::max);
        if off <= 1.0 { Ok(format!("within {off:.2} of 255")) } else { wrong(format!("off by {off:.1} of 255")) }
    });
    run.check("decodes other sizes", || {
        let shape = [1, s.channels(), s.side / 2 + 1, s.side];
        let pixels = s.decode_shaped(&noise(6, shape.iter().product()), shape, s.desc.vae_factor, &quiet())?;
        in_range(&pixels)?;
        Ok(format!("{} × {}", shape[2], shape[3]))
    });
    run.check("refuses a picture that does not fit the latents", || {
        let (shape, factor) = (s.shape(1), s.desc.vae_factor + 1);
        refused(s.decode_shaped(&latents, shape, factor, &quiet()), &[Code::INVALID])
    });
    run.check("stops a decode when cancelled", || stops(|ctl| s.decode(&latents, ctl)));
    let encodes = find(&s.desc.params, "encode") == Some("1");
    run.check("encodes pictures", || {
        if !encodes {
            return not_tried("it does not offer it (`encode=1`): no picture to picture, no inpainting");
        }
        let moments = s.encode_picture(&picture, &quiet())?;
        let (means, deviations) = moments.split_at(moments.len() / 2);
        if deviations.iter().any(|d| *d < 0.0) {
            return wrong("a deviation is below 0");
        }
        // A picture of these latents, encoded: near them, in sampler space. Uncorrelated means say that the space or the
        // order of the channels is another one.
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
        let alike = dot(means, &latents) / (dot(means, means) * dot(&latents, &latents)).sqrt().max(1e-9);
        Ok(format!("correlation {alike:.2} with the latents it was decoded from"))
    });
    run.check("stops an encode when cancelled", || {
        if !encodes {
            return not_tried("it does not offer it");
        }
        stops(|ctl| s.encode_picture(&picture, ctl))
    });
    run.check("makes previews", || {
        let Some(factor) = find(&s.desc.params, "preview_factor").and_then(|f| f.parse::<u32>().ok()) else {
            return not_tried("it does not offer it (`preview_factor`)");
        };
        in_range(&s.preview(&latents, factor)?)?;
        Ok(format!("{factor} pixels a cell"))
    });
}
