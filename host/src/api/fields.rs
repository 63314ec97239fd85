//! The table of request fields: one place that makes the checks ([`super::checks`]), the OpenAPI document and the reference page.

pub(crate) use super::checks::{Field, Kind, Values, check, field, int, properties};

use super::edit_fields::{EXTEND_FIELDS, HIRES_FIELDS};

/// Height and width, or top and left, in pixels: diffusers' order.
const PAIR: Kind = Kind::Numbers { len: (2, 2), min: 0.0, max: 16384.0 };

/// Largest side of a picture in pixels.
pub(crate) const MAX_SIDE: i128 = 4096;

/// The fields of a job request.
pub(crate) const JOB_FIELDS: &[Field] = &[
    field(
        "operation",
        &[],
        Kind::Word(&["image_generation", "image_transform", "image_inpaint", "image_upscale"]),
        "from the pictures sent",
        "What to do: `image_upscale` enlarges `init_image` and needs no prompt. Without it: `image_inpaint` with a mask, `image_transform` with a picture, else `image_generation`.",
    ),
    field(
        "prompt",
        &[],
        Kind::Text { max: 32_768 },
        "required",
        "What to paint. A1111's emphasis `(word:1.2)`, `[a:b:0.5]`, `[a|b]` and `BREAK` are understood.",
    ),
    field("negative_prompt", &[], Kind::Text { max: 32_768 }, "empty", "What not to paint."),
    field(
        "model",
        &[],
        Kind::Text { max: 256 },
        "the worker's default model",
        "A model's name as `GET /v1/models` lists it.",
    ),
    field("hive_id", &[], Kind::Text { max: 256 }, "none", "Accepted for orchestrators; not used."),
    field("worker_id", &[], Kind::Text { max: 256 }, "none", "Accepted for orchestrators; not used."),
    field(
        "width",
        &[],
        Kind::Int { min: 16, max: MAX_SIDE, step: 8 },
        "the model's own, or the picture's",
        "Width in pixels.",
    ),
    field(
        "height",
        &[],
        Kind::Int { min: 16, max: MAX_SIDE, step: 8 },
        "the model's own, or the picture's",
        "Height in pixels.",
    ),
    field("steps", &["num_inference_steps"], int(1, 150), "the model's own", "Denoising steps."),
    field(
        "guidance_scale",
        &["cfg_scale"],
        Kind::Float { min: 0.0, max: 30.0 },
        "the model's own",
        "Classifier-free guidance. 1 and less work without the negative prompt.",
    ),
    field(
        "guidance_rescale",
        &[],
        Kind::Float { min: 0.0, max: 1.0 },
        "0",
        "Brings the guided prediction's deviation back (Lin et al. 2023, section 3.4).",
    ),
    field("guidance_start", &[], Kind::Float { min: 0.0, max: 1.0 }, "0", "Guidance begins at this part of the steps."),
    field("guidance_end", &[], Kind::Float { min: 0.0, max: 1.0 }, "1", "Guidance ends at this part of the steps."),
    field(
        "image_guidance_scale",
        &["image_cfg_scale"],
        Kind::Float { min: 0.0, max: 30.0 },
        "1.5",
        "Guidance towards the picture, for models that edit by instruction.",
    ),
    field(
        "seed",
        &[],
        int(-1, u64::MAX as i128),
        "-1",
        "The first picture's seed; picture i has seed + i. -1 draws one; the answer tells it.",
    ),
    field(
        "variation_seed",
        &["subseed"],
        int(-1, u64::MAX as i128),
        "-1",
        "A second seed whose noise is mixed in; picture i has variation_seed + i, and all share `seed`. -1 draws one.",
    ),
    field(
        "variation_strength",
        &["subseed_strength"],
        Kind::Float { min: 0.0, max: 1.0 },
        "0",
        "How much of the variation is mixed in: 0 nothing, 1 all.",
    ),
    field(
        "seed_resize_from_w",
        &[],
        int(-1, MAX_SIDE),
        "off",
        "Keeps the composition that the seed has at this width; 0 or less is off.",
    ),
    field("seed_resize_from_h", &[], int(-1, MAX_SIDE), "off", "The height that belongs to `seed_resize_from_w`."),
    field("n", &["num_images", "batch_size", "batch_count"], int(1, 16), "1", "Pictures to make."),
    field(
        "sampler",
        &["sampler_name", "sample_method"],
        Kind::Text { max: 64 },
        "the model's own",
        "The sampler; `GET /v1/samplers` lists names and aliases.",
    ),
    field(
        "schedule",
        &["scheduler"],
        Kind::Text { max: 64 },
        "`auto`: the model's own",
        "How the noise levels are spaced; `GET /v1/samplers` lists them.",
    ),
    field(
        "eta",
        &[],
        Kind::Float { min: 0.0, max: 1.0 },
        "the sampler's own",
        "DDIM's stochasticity; the noise share of ancestral samplers.",
    ),
    field(
        "s_churn",
        &[],
        Kind::Float { min: 0.0, max: 1000.0 },
        "0",
        "Extra noise over the whole run for Euler, Heun and DPM2 (Karras et al. 2022).",
    ),
    field("s_tmin", &[], Kind::Float { min: 0.0, max: 10_000.0 }, "0", "Sigma below which there is no churn."),
    field("s_tmax", &[], Kind::Float { min: 0.0, max: 10_000.0 }, "no bound", "Sigma above which there is no churn."),
    field("s_noise", &[], Kind::Float { min: 0.0, max: 10.0 }, "1", "Factor on all noise that a sampler adds."),
    field(
        "sigmas",
        &[],
        Kind::Numbers { len: (2, 151), min: 0.0, max: 10_000.0 },
        "from schedule and steps",
        "The noise levels themselves, falling, the last one included (0 for a finished picture): in place of `schedule` and `steps`.",
    ),
    field(
        "rng",
        &[],
        Kind::Word(&["cpu", "philox"]),
        "cpu",
        "Whose noise a seed gives: PyTorch's on the CPU, or as drawn on a GPU.",
    ),
    field(
        "clip_skip",
        &[],
        int(1, 12),
        "the model's own",
        "Which text encoder layer is used, in A1111's count: 1 is the last.",
    ),
    field(
        "emphasis",
        &[],
        Kind::Word(&["a1111", "no_norm", "comfy", "none"]),
        "a1111",
        "How weights in the prompt are applied.",
    ),
    field(
        "prompt_overflow",
        &[],
        Kind::Word(&["chunk", "reject", "truncate"]),
        "chunk",
        "What happens to prompts of more than 75 tokens.",
    ),
    field(
        "strength",
        &["denoising_strength"],
        Kind::Float { min: 0.0, max: 1.0 },
        "0.75; inpainting 1",
        "How much of the picture is redone.",
    ),
    field(
        "refiner",
        &[],
        Kind::Text { max: 256 },
        "none",
        "Another model that finishes the pictures, such as SDXL's refiner: a name as in `model`.",
    ),
    field(
        "refiner_switch_at",
        &[],
        Kind::Float { min: 0.0, max: 1.0 },
        "0.8",
        "The part of the schedule after which the refiner takes over (diffusers' `denoising_end` and `denoising_start`); 1 is never.",
    ),
    field(
        "original_size",
        &[],
        PAIR,
        "height and width",
        "SDXL: what the network is told of the training picture's size, `[height, width]`.",
    ),
    field("crops_coords_top_left", &[], PAIR, "[0, 0]", "SDXL: what the network is told of the crop, `[top, left]`."),
    field(
        "target_size",
        &[],
        PAIR,
        "height and width",
        "SDXL: what the network is told of the result's size, `[height, width]`.",
    ),
    field("negative_original_size", &[], PAIR, "`original_size`", "The same for the negative prompt."),
    field(
        "negative_crops_coords_top_left",
        &[],
        PAIR,
        "`crops_coords_top_left`; [0, 0] with another negative size",
        "The same for the negative prompt.",
    ),
    field("negative_target_size", &[], PAIR, "`target_size`", "The same for the negative prompt."),
    field(
        "aesthetic_score",
        &[],
        Kind::Float { min: 0.0, max: 10.0 },
        "6",
        "SDXL refiner: how good the picture is to look.",
    ),
    field(
        "negative_aesthetic_score",
        &[],
        Kind::Float { min: 0.0, max: 10.0 },
        "2.5",
        "SDXL refiner: the same for the negative prompt.",
    ),
    field("init_image", &["input_image", "image"], Kind::Image, "none", "The picture to start from."),
    field("mask_image", &["mask"], Kind::Image, "none", "Where to paint: white = repaint, black = keep."),
    field(
        "mask_mode",
        &[],
        Kind::Word(&["white", "alpha"]),
        "white",
        "What a mask's pixels mean: `white` repaints where it is white, `alpha` where it is transparent.",
    ),
    field("mask_blur", &[], int(0, 64), "0", "Softens the mask's edge, in pixels."),
    field("mask_invert", &[], Kind::Bool, "false", "Paint where the mask is black instead."),
    field(
        "inpaint_fill",
        &[],
        Kind::Word(&["fill", "original", "latent_noise", "latent_nothing"]),
        "original",
        "What stands under the mask at first.",
    ),
    field(
        "only_masked",
        &[],
        Kind::Bool,
        "false",
        "Work on the mask's surroundings in the full size and paste the result back.",
    ),
    field("only_masked_padding", &[], int(0, 256), "32", "Pixels around the mask that are shown to the model."),
    field(
        "resize_mode",
        &[],
        Kind::Word(&["stretch", "crop", "fill", "latent"]),
        "stretch",
        "How a picture of another size is brought to the job's size. `latent` stretches its latents, without a mask.",
    ),
    field(
        "extend",
        &[],
        Kind::Group(EXTEND_FIELDS),
        "none",
        "Outpainting: makes the picture larger and paints what is new; every pixel of the old part stays as it is. The \
         size follows from the picture.",
    ),
    field(
        "hires",
        &[],
        Kind::Group(HIRES_FIELDS),
        "none",
        "A second pass: the picture is enlarged and redone in part (A1111's \"hires. fix\").",
    ),
    field(
        "upscaler",
        &[],
        Kind::Text { max: 256 },
        "lanczos",
        "What enlarges the picture of an `image_upscale`; `GET /v1/upscalers` lists the ways.",
    ),
    field(
        "scale",
        &[],
        Kind::Float { min: 0.1, max: 16.0 },
        "the network's own, or 2",
        "How many times as wide and high an `image_upscale` makes the picture, in place of `width` and `height`.",
    ),
    field("output_format", &[], Kind::Word(&["png", "jpeg", "webp"]), "png", "The results' file format."),
    field(
        "quality",
        &["output_compression"],
        int(1, 100),
        "90",
        "The quality of JPEG and WebP files; WebP is lossless at 100.",
    ),
    field("metadata", &["embed_image_metadata"], Kind::Bool, "true", "Whether the files carry their recipe."),
    field("preview_every", &[], int(0, 150), "0", "Sends a preview every so many steps; 0 = never."),
    field(
        "on_disconnect",
        &[],
        Kind::Word(&["keep", "cancel"]),
        "keep",
        "What happens when the last reader of the stream goes away.",
    ),
    field("timeout_secs", &[], int(1, 86_400), "the worker's limit", "The longest run time in seconds."),
    field("priority", &[], int(-10, 10), "0", "Higher runs earlier."),
    field(
        "webhook",
        &["webhook_url"],
        Kind::Text { max: 2048 },
        "none",
        "An http or https URL that is told how the job ended; its host must be one that the operator allows.",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Fault;
    use serde_json::{Value, json};

    fn run(body: Value) -> Result<Values, Vec<Fault>> {
        check(JOB_FIELDS, body.as_object().unwrap())
    }

    #[test]
    fn every_fault_is_told_with_its_field() {
        let faults = run(json!({ "prompt": 7, "steps": 0, "width": 65, "strength": 1.5, "nonsense": 1 })).unwrap_err();
        let mut fields: Vec<_> = faults.iter().filter_map(|f| f.field.as_deref()).collect();
        fields.sort_unstable();
        assert_eq!(fields, ["nonsense", "prompt", "steps", "strength", "width"]);
    }

    #[test]
    fn objects_have_fields_of_their_own() {
        let values = run(json!({ "extend": { "left": 8, "top": 16.0 } })).unwrap();
        let extend = values.group("extend").unwrap();
        assert_eq!((extend.u32("left"), extend.u32("top"), extend.u32("right")), (Some(8), Some(16), None));
        let faults = run(json!({ "extend": { "left": -1, "up": 3 } })).unwrap_err();
        let mut fields: Vec<_> = faults.iter().filter_map(|f| f.field.as_deref()).collect();
        fields.sort_unstable();
        assert_eq!(fields, ["extend.left", "extend.up"]);
        assert_eq!(run(json!({ "extend": 8 })).unwrap_err()[0].field.as_deref(), Some("extend"));
    }

    #[test]
    fn aliases_and_whole_floats_are_taken() {
        let values = run(json!({ "num_inference_steps": 20.0, "cfg_scale": 7, "seed": u64::MAX })).unwrap();
        assert_eq!(values.u32("steps"), Some(20));
        assert_eq!(values.f32("guidance_scale"), Some(7.0));
        assert_eq!(values.int("seed"), Some(i128::from(u64::MAX)));
    }

    #[test]
    fn lists_are_bounded() {
        let values = run(json!({ "sigmas": [14.6, 3, 0], "original_size": [512, 768] })).unwrap();
        assert_eq!(values.numbers("sigmas"), Some(&[14.6, 3.0, 0.0][..]));
        let long = vec![1.0; 152];
        for wrong in [json!([]), json!([1]), json!([1, "a"]), json!([1, -1]), json!(long), json!(3), json!([1, 1e9])] {
            assert!(run(json!({ "sigmas": wrong })).is_err(), "{wrong}");
        }
        assert!(run(json!({ "target_size": [1, 2, 3] })).is_err());
    }

    #[test]
    fn every_operation_may_be_asked_for() {
        let field = JOB_FIELDS.iter().find(|f| f.name == "operation").unwrap();
        let Kind::Word(words) = field.kind else { panic!("operation is a word") };
        assert_eq!(words, crate::jobs::Operation::ALL.map(|o| o.as_str()));
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = JOB_FIELDS.iter().flat_map(|f| f.aliases.iter().chain([&f.name])).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
