//! The short names of published models.

use crate::name::{HubId, ModelName};

/// A short name and what stands behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShortName {
    /// The short name.
    pub name: &'static str,
    /// Other spellings of it.
    pub also: &'static [&'static str],
    /// The hub id.
    pub hub: &'static str,
    /// One line for people.
    pub about: &'static str,
}

const fn short(name: &'static str, also: &'static [&'static str], hub: &'static str, about: &'static str) -> ShortName {
    ShortName { name, also, hub, about }
}

/// Every short name, in the order in which `models list` shows them.
pub const SHORT_NAMES: &[ShortName] = &[
    short("sd-v1-4", &["v1-4", "sd14"], "CompVis/stable-diffusion-v1-4", "Stable Diffusion 1.4, 512 px"),
    short(
        "sd-v1-5",
        &["v1-5", "sd15", "sd-1-5", "stable-diffusion-v1-5"],
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "Stable Diffusion 1.5, 512 px",
    ),
    short(
        "sd-v1-5-inpaint",
        &["v1-5-inpaint", "sd15-inpaint"],
        "stable-diffusion-v1-5/stable-diffusion-inpainting",
        "Stable Diffusion 1.5 for inpainting",
    ),
    short("sd-v2-base", &["v2-base"], "stabilityai/stable-diffusion-2-base", "Stable Diffusion 2.0, 512 px"),
    short(
        "sd-v2-1",
        &["v2-1", "sd21"],
        "stabilityai/stable-diffusion-2-1",
        "Stable Diffusion 2.1, 768 px, v-prediction",
    ),
    short("sd-v2-1-base", &["v2-1-base"], "stabilityai/stable-diffusion-2-1-base", "Stable Diffusion 2.1, 512 px"),
    short(
        "sd-v2-inpaint",
        &["v2-inpaint"],
        "stabilityai/stable-diffusion-2-inpainting",
        "Stable Diffusion 2.0 for inpainting",
    ),
    short("sd-xl", &["xl", "sdxl", "sdxl-base"], "stabilityai/stable-diffusion-xl-base-1.0", "SDXL 1.0, 1024 px"),
    short(
        "sd-xl-refiner",
        &["xl-refiner", "sdxl-refiner"],
        "stabilityai/stable-diffusion-xl-refiner-1.0",
        "SDXL 1.0 refiner",
    ),
    short(
        "sd-xl-inpaint",
        &["xl-inpaint", "sdxl-inpaint"],
        "diffusers/stable-diffusion-xl-1.0-inpainting-0.1",
        "SDXL 1.0 for inpainting",
    ),
    short("sd-turbo", &["turbo"], "stabilityai/sd-turbo", "SD-Turbo, 1 to 4 steps, 512 px"),
    short("sdxl-turbo", &["xl-turbo"], "stabilityai/sdxl-turbo", "SDXL-Turbo, 1 to 4 steps, 512 px"),
    short(
        "lcm-dreamshaper",
        &["lcm", "lcm-dreamshaper-v7"],
        "SimianLuo/LCM_Dreamshaper_v7",
        "Dreamshaper 7 as a latent consistency model, 4 to 8 steps",
    ),
    short("ssd-1b", &["ssd"], "segmind/SSD-1B", "SSD-1B, half of SDXL, 1024 px"),
    short("segmind-tiny", &["tiny-sd"], "segmind/tiny-sd", "Segmind tiny, a small Stable Diffusion 1.5"),
    short("segmind-small", &["small-sd"], "segmind/small-sd", "Segmind small, a smaller Stable Diffusion 1.5"),
    short(
        "instruct-pix2pix",
        &["pix2pix"],
        "timbrooks/instruct-pix2pix",
        "InstructPix2Pix: edits a picture by an instruction",
    ),
];

/// The entry behind a short name or one of its other spellings; case does not matter.
#[must_use]
pub fn find(name: &str) -> Option<&'static ShortName> {
    let same = |known: &&str| known.eq_ignore_ascii_case(name);
    SHORT_NAMES.iter().find(|entry| same(&entry.name) || entry.also.iter().any(same))
}

/// The hub id behind a short name.
pub(crate) fn hub_id(name: &str) -> Option<HubId> {
    ModelName::parse(find(name)?.hub).ok()?.hub()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_is_a_name_and_unique() {
        let mut seen = std::collections::BTreeSet::new();
        for entry in SHORT_NAMES {
            for name in std::iter::once(&entry.name).chain(entry.also) {
                assert!(seen.insert(*name), "{name} stands twice");
                assert!(ModelName::parse(name).unwrap().local().is_some());
                assert_eq!(hub_id(name).map(|id| id.to_string()).as_deref(), Some(entry.hub));
            }
        }
        assert_eq!(find("SD-Turbo").map(|entry| entry.name), Some("sd-turbo"));
        assert!(find("emoji-sd").is_none());
    }
}
