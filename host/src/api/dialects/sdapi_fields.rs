//! The fields of A1111's txt2img and img2img: types, defaults and what becomes of them here, in one table that makes the
//! checks, the echo in the answer and the OpenAPI document.
//!
//! Defaults are A1111's own (1.10), not the model's: a client that leaves a field out gets what it would get there.

use crate::fault::Fault;
use serde_json::{Map, Value, json};

/// What a field may hold. Clients are loose with types, and A1111's reader forgives them: so does this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Type {
    Int,
    Number,
    Bool,
    Text,
    List,
    Object,
    /// Taken as it is.
    Any,
}

/// The route a field belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum On {
    Both,
    Txt2Img,
    Img2Img,
}

/// One field.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field {
    name: &'static str,
    kind: Type,
    /// As JSON.
    default: &'static str,
    on: On,
    /// What becomes of it here.
    doc: &'static str,
}

const fn row(name: &'static str, kind: Type, default: &'static str, on: On, doc: &'static str) -> Field {
    Field { name, kind, default, on, doc }
}

use On::{Both, Img2Img, Txt2Img};
use Type::{Any, Bool, Int, List, Number, Object, Text};

const EMPTY: &str = "\"\"";
const IGNORED: &str = "Taken; decides nothing here.";
const REFUSED: &str = "Not offered: any value that would change the picture is refused.";

/// All fields. Others are ignored, as A1111 does.
pub(crate) const FIELDS: &[Field] = &[
    row("prompt", Text, EMPTY, Both, "What to paint."),
    row("negative_prompt", Text, EMPTY, Both, "What not to paint."),
    row("styles", List, "[]", Both, "There are no styles here; unknown ones are ignored, as there."),
    row("seed", Int, "-1", Both, "-1 draws one; picture i has seed + i."),
    row("subseed", Int, "-1", Both, "The variation's seed."),
    row("subseed_strength", Number, "0", Both, "How far towards the variation's seed."),
    row("seed_resize_from_h", Int, "-1", Both, "Height whose noise is to be kept."),
    row("seed_resize_from_w", Int, "-1", Both, "Width whose noise is to be kept."),
    row("sampler_name", Text, "null", Both, "A sampler's name, alias or old joined name such as `DPM++ 2M Karras`."),
    row("sampler_index", Text, "\"Euler\"", Both, "The sampler if `sampler_name` is not given."),
    row("scheduler", Text, "null", Both, "A schedule; none or `Automatic` = the one that suits the sampler."),
    row("batch_size", Int, "1", Both, "Pictures of a batch."),
    row("n_iter", Int, "1", Both, "Batches. Together at most 16 pictures."),
    row("steps", Int, "50", Both, "Denoising steps."),
    row("cfg_scale", Number, "7.0", Both, "Classifier-free guidance."),
    row("width", Int, "512", Both, "Width in pixels, rounded down to a multiple of 8."),
    row("height", Int, "512", Both, "Height in pixels, rounded down to a multiple of 8."),
    row("restore_faces", Bool, "null", Both, REFUSED),
    row("tiling", Bool, "null", Both, REFUSED),
    row("do_not_save_samples", Bool, "false", Both, IGNORED),
    row("do_not_save_grid", Bool, "false", Both, IGNORED),
    row("eta", Number, "null", Both, "The sampler's stochasticity; null = its own."),
    row("denoising_strength", Number, "0.75", Both, "How much of the picture is redone."),
    row("s_min_uncond", Number, "null", Both, "Skips guidance to save time there; all steps are guided here."),
    row("s_churn", Number, "null", Both, "Extra noise over the whole run."),
    row("s_tmax", Number, "null", Both, "Sigma above which there is no churn; 0 = no bound."),
    row("s_tmin", Number, "null", Both, "Sigma below which there is no churn."),
    row("s_noise", Number, "null", Both, "Factor on all noise that the sampler adds."),
    row("override_settings", Object, "{}", Both, "Options for this request only; see `POST /sdapi/v1/options`."),
    row("override_settings_restore_afterwards", Bool, "true", Both, "`false` keeps them for the requests that follow."),
    row("refiner_checkpoint", Text, "null", Both, "The model that takes over."),
    row("refiner_switch_at", Number, "null", Both, "When it takes over, as a part of the steps."),
    row("disable_extra_networks", Bool, "false", Both, IGNORED),
    row("firstpass_image", Text, "null", Both, REFUSED),
    row("comments", Object, "null", Both, IGNORED),
    row("script_name", Text, "null", Both, "There are no scripts here; a name is refused."),
    row("script_args", List, "[]", Both, IGNORED),
    row("alwayson_scripts", Object, "{}", Both, "There are no scripts here; a name is refused."),
    row("send_images", Bool, "true", Both, "`false` leaves the pictures out of the answer."),
    row("save_images", Bool, "false", Both, IGNORED),
    row("force_task_id", Text, "null", Both, "The name under which `POST /internal/progress` finds this request."),
    row("infotext", Text, "null", Both, REFUSED),
    row("enable_hr", Bool, "false", Txt2Img, "A second pass at a larger size."),
    row("firstphase_width", Int, "0", Txt2Img, IGNORED),
    row("firstphase_height", Int, "0", Txt2Img, IGNORED),
    row("hr_scale", Number, "2.0", Txt2Img, "With `enable_hr`: how much larger."),
    row("hr_upscaler", Text, "null", Txt2Img, "With `enable_hr`: how it is enlarged."),
    row(
        "hr_second_pass_steps",
        Int,
        "0",
        Txt2Img,
        "With `enable_hr`: steps of the second pass; 0 = as many as the first.",
    ),
    row("hr_resize_x", Int, "0", Txt2Img, "With `enable_hr`: the second pass's width."),
    row("hr_resize_y", Int, "0", Txt2Img, "With `enable_hr`: the second pass's height."),
    row("hr_checkpoint_name", Text, "null", Txt2Img, "With `enable_hr`: another model."),
    row("hr_sampler_name", Text, "null", Txt2Img, "With `enable_hr`: another sampler."),
    row("hr_scheduler", Text, "null", Txt2Img, "With `enable_hr`: another schedule."),
    row("hr_cfg", Number, "null", Txt2Img, "With `enable_hr`: another scale (Forge's field)."),
    row("hr_prompt", Text, EMPTY, Txt2Img, "With `enable_hr`: another prompt."),
    row("hr_negative_prompt", Text, EMPTY, Txt2Img, "With `enable_hr`: another negative prompt."),
    row(
        "init_images",
        List,
        "null",
        Img2Img,
        "The picture to start from, as base64 or data URL; the first one is taken.",
    ),
    row("resize_mode", Int, "0", Img2Img, "0 stretch, 1 crop, 2 fill, 3 latent."),
    row(
        "image_cfg_scale",
        Number,
        "null",
        Img2Img,
        "Guidance towards the picture, for models that edit by instruction.",
    ),
    row("mask", Text, "null", Img2Img, "Where to paint: white = repaint."),
    row("mask_blur_x", Int, "4", Img2Img, "Softens the mask's edge, in pixels."),
    row("mask_blur_y", Int, "4", Img2Img, "The same as `mask_blur_x`; other values are refused."),
    row("mask_blur", Int, "null", Img2Img, "Both of them at once."),
    row("mask_round", Bool, "true", Img2Img, IGNORED),
    row(
        "inpainting_fill",
        Int,
        "0",
        Img2Img,
        "What stands under the mask at first: 0 fill, 1 original, 2 noise, 3 nothing.",
    ),
    row("inpaint_full_res", Bool, "true", Img2Img, "Work on the mask's surroundings only."),
    row("inpaint_full_res_padding", Int, "0", Img2Img, "Pixels around the mask that are shown to the model."),
    row("inpainting_mask_invert", Int, "0", Img2Img, "1 paints where the mask is black."),
    row("initial_noise_multiplier", Number, "null", Img2Img, "1 or null."),
    row("latent_mask", Text, "null", Img2Img, REFUSED),
    row("include_init_images", Bool, "false", Img2Img, "`true` sends the pictures back in `parameters`."),
];

/// Our names of what A1111 calls otherwise: for telling faults in the client's words.
pub(crate) const WORDS: &[(&str, &str)] = &[
    ("guidance_scale", "cfg_scale"),
    ("image_guidance_scale", "image_cfg_scale"),
    ("schedule", "scheduler"),
    ("sampler", "sampler_name"),
    ("strength", "denoising_strength"),
    ("init_image", "init_images"),
    ("mask_image", "mask"),
    ("only_masked_padding", "inpaint_full_res_padding"),
    ("n", "batch_size"),
    ("clip_skip", "CLIP_stop_at_last_layers"),
    ("output_format", "samples_format"),
    ("model", "sd_model_checkpoint"),
    ("quality", "jpeg_quality"),
];

impl Field {
    fn is_on(&self, route: On) -> bool {
        self.on == On::Both || self.on == route
    }

    /// The default.
    fn default(&self) -> Value {
        serde_json::from_str(self.default).unwrap_or_default()
    }

    /// For the OpenAPI document.
    fn schema(&self) -> Value {
        let mut schema = match self.kind {
            Int => json!({ "type": ["integer", "null"] }),
            Number => json!({ "type": ["number", "null"] }),
            Bool => json!({ "type": ["boolean", "null"] }),
            Text => json!({ "type": ["string", "null"] }),
            List => json!({ "type": ["array", "null"] }),
            Object => json!({ "type": ["object", "null"] }),
            Any => json!({}),
        };
        schema["default"] = self.default();
        schema["description"] = self.doc.into();
        schema
    }
}

/// The fields of a route, for the OpenAPI document.
pub(crate) fn schema(route: On) -> Value {
    let properties: Map<String, Value> =
        FIELDS.iter().filter(|f| f.is_on(route)).map(|f| (f.name.to_owned(), f.schema())).collect();
    json!({ "type": "object", "properties": properties, "additionalProperties": true })
}

/// All of a route's fields: as sent where they were, else with their defaults. Wrong types are told together.
pub(crate) fn complete(given: &Map<String, Value>, route: On) -> Result<Map<String, Value>, Vec<Fault>> {
    let mut faults = Vec::new();
    let mut all = Map::new();
    for field in FIELDS.iter().filter(|f| f.is_on(route)) {
        let value = match given.get(field.name).filter(|v| !v.is_null()) {
            None => field.default(),
            Some(value) => match forgive(field.kind, value) {
                Some(value) => value,
                None => {
                    faults.push(Fault::field(field.name, format!("must be {}", describe(field.kind))));
                    continue;
                }
            },
        };
        all.insert(field.name.to_owned(), value);
    }
    if faults.is_empty() { Ok(all) } else { Err(faults) }
}

fn describe(kind: Type) -> &'static str {
    match kind {
        Int => "a whole number",
        Number => "a number",
        Bool => "true or false",
        Text => "a text",
        List => "a list",
        Object => "an object",
        Any => "anything",
    }
}

/// The value as the field's type, if it can be read so: numbers and truth values in quotes, whole numbers as floats, 0 and
/// 1 as truth values.
pub(crate) fn forgive(kind: Type, value: &Value) -> Option<Value> {
    let text = value.as_str().map(str::trim);
    match kind {
        Any => Some(value.clone()),
        List => value.is_array().then(|| value.clone()),
        Object => value.is_object().then(|| value.clone()),
        Text => match value {
            Value::String(_) => Some(value.clone()),
            Value::Number(number) => Some(number.to_string().into()),
            _ => None,
        },
        Bool => match value {
            Value::Bool(_) => Some(value.clone()),
            Value::Number(number) => match number.as_f64() {
                Some(1.0) => Some(true.into()),
                Some(0.0) => Some(false.into()),
                _ => None,
            },
            _ => match text?.to_ascii_lowercase().as_str() {
                "true" | "1" | "on" | "yes" => Some(true.into()),
                "false" | "0" | "off" | "no" => Some(false.into()),
                _ => None,
            },
        },
        Number => match value {
            Value::Number(_) => Some(value.clone()),
            _ => text?.parse::<f64>().ok().filter(|v| v.is_finite()).map(Value::from),
        },
        Int => match value {
            Value::Bool(truth) => Some(i64::from(*truth).into()),
            Value::Number(number) if !number.is_f64() => Some(value.clone()),
            Value::Number(number) => whole(number.as_f64()?),
            _ => text?.parse::<i64>().ok().map(Value::from).or_else(|| whole(text?.parse().ok()?)),
        },
    }
}

fn whole(value: f64) -> Option<Value> {
    (value.fract() == 0.0 && value.abs() < 9e15).then(|| (value as i64).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_forgiven_as_there() {
        for (kind, sent, meant) in [
            (Int, json!("20"), Some(json!(20))),
            (Int, json!(20.0), Some(json!(20))),
            (Int, json!("20.0"), Some(json!(20))),
            (Int, json!(true), Some(json!(1))),
            (Int, json!(7.5), None),
            (Int, json!("many"), None),
            (Int, json!([]), None),
            (Number, json!("7.5"), Some(json!(7.5))),
            (Number, json!("nan"), None),
            (Number, json!({}), None),
            (Bool, json!(1), Some(json!(true))),
            (Bool, json!("False"), Some(json!(false))),
            (Bool, json!(2), None),
            (Text, json!(3), Some(json!("3"))),
            (Text, json!(["a"]), None),
            (List, json!("a"), None),
            (Object, json!([]), None),
        ] {
            assert_eq!(forgive(kind, &sent), meant, "{kind:?} {sent}");
        }
    }

    #[test]
    fn what_is_left_out_has_its_own_default() {
        let all = complete(&Map::new(), On::Txt2Img).unwrap();
        for (name, default) in [
            ("steps", json!(50)),
            ("cfg_scale", json!(7.0)),
            ("width", json!(512)),
            ("height", json!(512)),
            ("seed", json!(-1)),
            ("sampler_name", Value::Null),
            ("sampler_index", json!("Euler")),
            ("denoising_strength", json!(0.75)),
            ("send_images", json!(true)),
            ("override_settings_restore_afterwards", json!(true)),
            ("hr_scale", json!(2.0)),
        ] {
            assert_eq!(all[name], default, "{name}");
        }
        assert!(!all.contains_key("init_images"));
        let all = complete(&Map::new(), On::Img2Img).unwrap();
        for (name, default) in [
            ("resize_mode", json!(0)),
            ("mask_blur_x", json!(4)),
            ("inpainting_fill", json!(0)),
            ("inpaint_full_res", json!(true)),
            ("inpaint_full_res_padding", json!(0)),
            ("include_init_images", json!(false)),
        ] {
            assert_eq!(all[name], default, "{name}");
        }
    }

    #[test]
    fn null_is_the_default_and_faults_are_told_together() {
        let sent = json!({ "steps": null, "unknown": 1 });
        assert_eq!(complete(sent.as_object().unwrap(), On::Txt2Img).unwrap()["steps"], 50);
        let sent = json!({ "steps": "x", "width": [], "override_settings": 1 });
        let faults = complete(sent.as_object().unwrap(), On::Txt2Img).unwrap_err();
        assert_eq!(faults.len(), 3);
    }

    #[test]
    fn names_are_unique_and_defaults_are_json_of_their_type() {
        let mut names: Vec<_> = FIELDS.iter().map(|f| f.name).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
        for field in FIELDS {
            let value: Value = serde_json::from_str(field.default).unwrap();
            assert!(value.is_null() || forgive(field.kind, &value).as_ref() == Some(&value), "{}", field.name);
        }
    }
}
