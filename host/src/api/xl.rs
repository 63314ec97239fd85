//! The fields of a request that SDXL and its refiner brought: sizes, scores, and a second model that finishes.

use super::build::Builder;
use crate::{
    fault::{Fault, FaultCode},
    jobs::{Refiner, SizeIds},
    library::Resolved,
};
use std::sync::Arc;

/// What only SDXL models are told.
const SIZE_FIELDS: [&str; 6] = [
    "original_size",
    "crops_coords_top_left",
    "target_size",
    "negative_original_size",
    "negative_crops_coords_top_left",
    "negative_target_size",
];
/// What only SDXL's refiner is told.
const SCORE_FIELDS: [&str; 2] = ["aesthetic_score", "negative_aesthetic_score"];

impl Builder<'_> {
    /// The model that finishes the pictures, if one is wanted.
    pub(super) fn refiner(&mut self) -> (Option<Refiner>, Option<Arc<Resolved>>) {
        let values = self.values;
        let switch_at = values.f64("refiner_switch_at").unwrap_or(0.8);
        let Some(name) = values.text("refiner").filter(|name| !name.is_empty()) else {
            if values.has("refiner_switch_at") {
                self.faults.push(Fault::field("refiner_switch_at", "needs `refiner`: the model to switch to"));
            }
            return (None, None);
        };
        let model = if self.pending.refiner {
            None
        } else {
            let looked_up = self.app.models.lookup(name).map_err(|f| f.about("refiner"));
            let Some(model) = self.keep(looked_up) else { return (None, None) };
            Some(model)
        };
        let other = |m: &Arc<Resolved>| m.model.family.is_xl() != self.model.model.family.is_xl();
        if !self.pending.model && model.as_ref().is_some_and(other) {
            let message = "has other latents than the model: SDXL's refiner finishes SDXL's pictures only";
            self.faults.push(Fault::new(FaultCode::Unsupported, message).about("refiner"));
        }
        if values.has("hires") {
            let message =
                "a second pass and a refiner in one job are not offered; send the result as an image_transform";
            self.faults.push(Fault::new(FaultCode::Unsupported, message).about("refiner"));
        }
        if switch_at <= 0.0 {
            self.faults.push(Fault::field(
                "refiner_switch_at",
                "0 leaves nothing to the model itself; name the refiner as `model`",
            ));
        }
        let refiner = (switch_at < 1.0).then(|| Refiner { model: name.to_owned(), switch_at });
        (refiner, model)
    }

    /// What SDXL is told of sizes. For other models such a field is an error: it would change nothing.
    pub(super) fn sizes(&mut self, width: u32, height: u32, refiner: Option<&Resolved>) -> SizeIds {
        let (values, pending) = (self.values, self.pending);
        let model = &self.model.model;
        let scores = model.defaults.aesthetic_score || refiner.is_some_and(|r| r.model.defaults.aesthetic_score);
        let sized = pending.model || model.family.is_xl();
        let scores = scores || pending.model || pending.refiner;
        for (fields, known) in [(&SIZE_FIELDS[..], sized), (&SCORE_FIELDS[..], scores)] {
            for field in fields.iter().filter(|f| !known && values.has(f)) {
                let message = "this model is not told of it; SDXL models take sizes, its refiner the scores";
                self.faults.push(Fault::new(FaultCode::Unsupported, message).about(field));
            }
        }
        let pair = |name: &str| values.numbers(name).and_then(|v| Some([*v.first()? as f32, *v.get(1)? as f32]));
        let mut ids = SizeIds::plain(height, width);
        let SizeIds { positive, negative } = &mut ids;
        positive.original = pair("original_size").unwrap_or(positive.original);
        positive.crop = pair("crops_coords_top_left").unwrap_or(positive.crop);
        positive.target = pair("target_size").unwrap_or(positive.target);
        positive.aesthetic_score = values.f32("aesthetic_score").unwrap_or(positive.aesthetic_score);
        let own = pair("negative_original_size").is_some() || pair("negative_target_size").is_some();
        negative.original = pair("negative_original_size").unwrap_or(positive.original);
        negative.crop = pair("negative_crops_coords_top_left").unwrap_or(if own { [0.0; 2] } else { positive.crop });
        negative.target = pair("negative_target_size").unwrap_or(positive.target);
        negative.aesthetic_score = values.f32("negative_aesthetic_score").unwrap_or(negative.aesthetic_score);
        ids
    }
}
