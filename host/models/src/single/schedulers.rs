//! The scheduler configs that the published models of each family ship with.

use crate::family::Family;
use serde_json::{Value, json};

/// `scheduler_config.json` of a family; every Stable Diffusion was trained on the same betas.
pub(crate) fn scheduler(family: Family, zero_snr: bool, v_prediction: bool) -> Value {
    let mut config = json!({
        "_class_name": class(family),
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "clip_sample": false,
        "num_train_timesteps": 1000,
        "prediction_type": if v_prediction || family == Family::Sd2V { "v_prediction" } else { "epsilon" },
        "set_alpha_to_one": false,
        "steps_offset": 1,
        "timestep_spacing": if family.is_turbo() || zero_snr { "trailing" } else { "leading" },
        "trained_betas": null,
    });
    let Some(fields) = config.as_object_mut() else { return config };
    if class(family) == "PNDMScheduler" {
        fields.insert("skip_prk_steps".into(), json!(true));
    }
    if class(family).starts_with("Euler") && !class(family).contains("Ancestral") {
        fields.insert("interpolation_type".into(), json!("linear"));
        fields.insert("use_karras_sigmas".into(), json!(false));
    }
    if family.is_lcm() {
        fields.insert("original_inference_steps".into(), json!(50));
        fields.insert("timestep_scaling".into(), json!(10.0));
        fields.insert("set_alpha_to_one".into(), json!(true));
        fields.insert("steps_offset".into(), json!(0));
    }
    if zero_snr {
        fields.insert("rescale_betas_zero_snr".into(), json!(true));
    }
    config
}

fn class(family: Family) -> &'static str {
    match family {
        Family::Sd1 | Family::Sd1Small | Family::Sd1Inpaint | Family::Sd2 | Family::Sd2Inpaint => "PNDMScheduler",
        Family::Sd2V => "DDIMScheduler",
        Family::Pix2Pix | Family::SdxlTurbo => "EulerAncestralDiscreteScheduler",
        Family::Lcm | Family::LcmXl => "LCMScheduler",
        Family::SdTurbo
        | Family::Sdxl
        | Family::SdxlInpaint
        | Family::SdxlPix2Pix
        | Family::SdxlRefiner
        | Family::Ssd1b => "EulerDiscreteScheduler",
    }
}
