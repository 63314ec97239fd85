//! A1111's words for what goes beyond one plain run: the variation's seed, the seed's own size, the second pass.

use super::carry;
use crate::fault::{Fault, FaultCode};
use serde_json::{Map, Value, json};

/// Adds the native fields that say the same.
pub(super) fn native(given: &Map<String, Value>, fields: &mut Map<String, Value>, picture: bool) -> Result<(), Fault> {
    for (theirs, ours) in [
        ("subseed", "variation_seed"),
        ("subseed_strength", "variation_strength"),
        ("seed_resize_from_w", "seed_resize_from_w"),
        ("seed_resize_from_h", "seed_resize_from_h"),
    ] {
        carry(given, theirs, fields, ours);
    }
    // As in A1111 the second pass belongs to txt2img, whatever img2img is sent.
    if !picture && given.get("enable_hr").and_then(Value::as_bool).unwrap_or(false) {
        fields.insert("hires".into(), second_pass(given)?.into());
    }
    Ok(())
}

fn second_pass(given: &Map<String, Value>) -> Result<Map<String, Value>, Fault> {
    let text = |name: &str| given.get(name).and_then(Value::as_str).filter(|t| !t.is_empty());
    // "Use same sampler", "Use same checkpoint" …
    let other = |name: &str| text(name).filter(|t| !t.starts_with("Use same"));
    if other("hr_checkpoint_name").is_some() {
        return Err(Fault::new(FaultCode::Unsupported, "the second pass uses the first one's model")
            .about("hr_checkpoint_name"));
    }
    let mut hires = Map::new();
    let pixels = |name: &str| given.get(name).and_then(Value::as_u64).filter(|v| *v > 0);
    let first = |name: &str| given.get(name).and_then(Value::as_u64).unwrap_or(512).max(1);
    let whole = |side: u64| side / 8 * 8;
    let size = match (pixels("hr_resize_x"), pixels("hr_resize_y")) {
        (Some(x), Some(y)) => Some((x, y)),
        // One side alone: the other follows from the first pass.
        (Some(x), None) => Some((x, whole(x.saturating_mul(first("height")) / first("width")))),
        (None, Some(y)) => Some((whole(y.saturating_mul(first("width")) / first("height")), y)),
        (None, None) => None,
    };
    match size {
        Some((width, height)) => {
            hires.insert("width".into(), width.into());
            hires.insert("height".into(), height.into());
        }
        None => carry(given, "hr_scale", &mut hires, "scale"),
    }
    carry(given, "hr_cfg", &mut hires, "guidance_scale");
    for (theirs, ours) in [
        ("hr_upscaler", "upscaler"),
        ("hr_sampler_name", "sampler"),
        ("hr_scheduler", "schedule"),
        ("hr_prompt", "prompt"),
        ("hr_negative_prompt", "negative_prompt"),
    ] {
        if let Some(value) = other(theirs) {
            hires.insert(ours.into(), value.into());
        }
    }
    let strength = given.get("denoising_strength").and_then(Value::as_f64).unwrap_or(0.75);
    hires.insert("strength".into(), json!(strength));
    // A1111 counts the steps that the second pass runs, we those of its whole schedule.
    let count = |name: &str| given.get(name).and_then(Value::as_u64).filter(|s| *s > 0);
    if let Some(run) = count("hr_second_pass_steps").or_else(|| count("steps"))
        && strength > 0.0
    {
        let schedule = (run as f64 / strength).ceil().min(150.0);
        hires.insert("steps".into(), json!(schedule as u64));
    }
    Ok(hires)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_pass_is_said_in_our_words() {
        let native = |given: Value| {
            let mut fields = Map::new();
            native(given.as_object().unwrap(), &mut fields, false).map(|()| Value::Object(fields))
        };
        let given = json!({
            "enable_hr": true, "hr_scale": 1.5, "hr_upscaler": "Latent (nearest-exact)", "hr_second_pass_steps": 10,
            "denoising_strength": 0.5, "hr_sampler_name": "Use same sampler", "hr_prompt": "", "hr_negative_prompt": "b",
            "hr_resize_x": 0, "subseed": -1, "subseed_strength": 0,
        });
        let expected = json!({
            "hires": { "scale": 1.5, "upscaler": "Latent (nearest-exact)", "steps": 20, "strength": 0.5,
                "negative_prompt": "b" },
            "variation_seed": -1, "variation_strength": 0,
        });
        assert_eq!(native(given).unwrap(), expected);
        let one_side = json!({ "enable_hr": true, "hr_resize_y": 100, "width": 60, "height": 80, "steps": 3 });
        let expected = json!({ "hires": { "width": 72, "height": 100, "strength": 0.75, "steps": 4 } });
        assert_eq!(native(one_side).unwrap(), expected);
        assert_eq!(native(json!({ "enable_hr": false, "hr_scale": 2 })).unwrap(), json!({}));
        let fault = native(json!({ "enable_hr": true, "hr_checkpoint_name": "other" })).unwrap_err();
        assert_eq!(fault.field.as_deref(), Some("hr_checkpoint_name"));
    }
}
