//! Which member of the Stable Diffusion family a model is, and what follows from that.

use crate::{
    config::{
        clip::ClipConfig,
        unet::{Mid, UnetConfig},
    },
    error::{ModelError, Result},
};
use std::{fmt, str::FromStr};

/// A kind of model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Family {
    /// Stable Diffusion 1.x and its fine-tunes.
    Sd1,
    /// A pruned SD 1.x without middle block (BK-SDM, Segmind small and tiny).
    Sd1Small,
    /// SD 1.x with mask and masked picture as further inputs.
    Sd1Inpaint,
    /// InstructPix2Pix on SD 1.x.
    Pix2Pix,
    /// Stable Diffusion 2.x that predicts the noise (the 512 px "base" models).
    Sd2,
    /// Stable Diffusion 2.x that predicts the velocity (768 px).
    Sd2V,
    /// SD 2.x for inpainting.
    Sd2Inpaint,
    /// SD-Turbo.
    SdTurbo,
    /// Stable Diffusion XL and its fine-tunes.
    Sdxl,
    /// SDXL for inpainting.
    SdxlInpaint,
    /// InstructPix2Pix on SDXL.
    SdxlPix2Pix,
    /// The SDXL refiner.
    SdxlRefiner,
    /// SDXL-Turbo.
    SdxlTurbo,
    /// A pruned SDXL (SSD-1B, Segmind Vega).
    Ssd1b,
    /// A latent consistency model on SD 1.x or 2.x.
    Lcm,
    /// A latent consistency model on SDXL or SSD-1B.
    LcmXl,
}

/// What a model can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Text to picture, and picture to picture.
    Generate,
    /// Fills a mask; needs a picture and a mask.
    Inpaint,
    /// Edits a picture by an instruction; needs a picture.
    Edit,
    /// Finishes the latents of another model.
    Refine,
}

impl Purpose {
    /// The name in answers.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Generate => "generate",
            Self::Inpaint => "inpaint",
            Self::Edit => "edit",
            Self::Refine => "refine",
        }
    }
}

const ALL: [(Family, &str); 16] = [
    (Family::Sd1, "sd1"),
    (Family::Sd1Small, "sd1-small"),
    (Family::Sd1Inpaint, "sd1-inpaint"),
    (Family::Pix2Pix, "pix2pix"),
    (Family::Sd2, "sd2"),
    (Family::Sd2V, "sd2-v"),
    (Family::Sd2Inpaint, "sd2-inpaint"),
    (Family::SdTurbo, "sd-turbo"),
    (Family::Sdxl, "sdxl"),
    (Family::SdxlInpaint, "sdxl-inpaint"),
    (Family::SdxlPix2Pix, "sdxl-pix2pix"),
    (Family::SdxlRefiner, "sdxl-refiner"),
    (Family::SdxlTurbo, "sdxl-turbo"),
    (Family::Ssd1b, "ssd-1b"),
    (Family::Lcm, "lcm"),
    (Family::LcmXl, "lcm-xl"),
];

impl Family {
    /// Every family, in the order of the docs.
    pub fn all() -> impl Iterator<Item = Self> {
        ALL.into_iter().map(|(family, _)| family)
    }

    /// The name in answers, logs and the `family` override.
    #[must_use]
    pub fn name(self) -> &'static str {
        ALL.into_iter().find(|(family, _)| *family == self).map_or("unknown", |(_, name)| name)
    }

    /// What it can be asked for.
    #[must_use]
    pub fn purpose(self) -> Purpose {
        match self {
            Self::Sd1Inpaint | Self::Sd2Inpaint | Self::SdxlInpaint => Purpose::Inpaint,
            Self::Pix2Pix | Self::SdxlPix2Pix => Purpose::Edit,
            Self::SdxlRefiner => Purpose::Refine,
            _ => Purpose::Generate,
        }
    }

    /// Whether it takes pooled text and time ids (size and crop conditioning).
    #[must_use]
    pub fn is_xl(self) -> bool {
        matches!(
            self,
            Self::Sdxl
                | Self::SdxlInpaint
                | Self::SdxlPix2Pix
                | Self::SdxlRefiner
                | Self::SdxlTurbo
                | Self::Ssd1b
                | Self::LcmXl
        )
    }

    /// Whether it is distilled to a few steps without guidance.
    #[must_use]
    pub fn is_turbo(self) -> bool {
        matches!(self, Self::SdTurbo | Self::SdxlTurbo)
    }

    /// Whether it is a latent consistency model.
    #[must_use]
    pub fn is_lcm(self) -> bool {
        matches!(self, Self::Lcm | Self::LcmXl)
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Family {
    type Err = ModelError;

    fn from_str(text: &str) -> Result<Self> {
        ALL.into_iter().find(|(_, name)| *name == text).map(|(family, _)| family).ok_or_else(|| {
            let known: Vec<&str> = ALL.into_iter().map(|(_, name)| name).collect();
            ModelError::config("options", "family", format!("must be one of {}", known.join(", ")))
        })
    }
}

/// What is known of a model when its family is decided.
pub(crate) struct Facts<'a> {
    pub(crate) unet: &'a UnetConfig,
    /// `text_encoder` and `text_encoder_2`.
    pub(crate) encoders: [Option<&'a ClipConfig>; 2],
    pub(crate) latent_channels: u64,
    pub(crate) scheduler_class: &'a str,
    pub(crate) v_prediction: bool,
    pub(crate) trailing: bool,
    pub(crate) zero_snr: bool,
}

impl Facts<'_> {
    /// Decides the family by what the networks take in, then by what their scheduler says.
    ///
    /// Turbo models have the very networks of the models they were distilled from; only their scheduler (trailing
    /// spacing, noise prediction, no zero-SNR rescale) tells them apart, so a fine-tune that copies that scheduler
    /// counts as turbo unless the caller names another family.
    pub(crate) fn family(&self) -> Result<Family> {
        let wrong = |reason: String| ModelError::WrongFamily { reason };
        let latent = self.latent_channels;
        let purpose = match self.unet.in_channels {
            n if n == latent => Purpose::Generate,
            n if n == 2 * latent + 1 => Purpose::Inpaint,
            n if n == 2 * latent => Purpose::Edit,
            n => {
                return Err(wrong(format!(
                    "the UNet takes {n} channels, and a VAE of {latent} latent channels calls for {latent}, {} or {}",
                    2 * latent,
                    2 * latent + 1
                )));
            }
        };
        let euler = self.scheduler_class.starts_with("Euler");
        let turbo = euler && self.trailing && !self.v_prediction && !self.zero_snr;
        let lcm = self.unet.time_cond.is_some() || self.scheduler_class == "LCMScheduler";
        if self.unet.text_time.is_none() {
            let encoder = match self.encoders {
                [Some(encoder), None] => encoder,
                [None, _] => {
                    return Err(ModelError::MissingPart {
                        part: "text_encoder".into(),
                        remedy: "fetch the complete model".into(),
                    });
                }
                [Some(_), Some(_)] => {
                    return Err(wrong("there are two text encoders, and the UNet takes no pooled text".into()));
                }
            };
            let sd2 = encoder.act == "gelu";
            return Ok(match (purpose, sd2) {
                (Purpose::Inpaint, false) => Family::Sd1Inpaint,
                (Purpose::Inpaint, true) => Family::Sd2Inpaint,
                (Purpose::Edit, _) => Family::Pix2Pix,
                _ if lcm => Family::Lcm,
                (_, false) if self.unet.mid == Mid::None => Family::Sd1Small,
                (_, false) => Family::Sd1,
                (_, true) if self.v_prediction => Family::Sd2V,
                (_, true) if turbo => Family::SdTurbo,
                (_, true) => Family::Sd2,
            });
        }
        match self.encoders {
            [None, Some(_)] => Ok(Family::SdxlRefiner),
            [Some(_), Some(_)] => Ok(match purpose {
                Purpose::Inpaint => Family::SdxlInpaint,
                Purpose::Edit => Family::SdxlPix2Pix,
                _ if lcm => Family::LcmXl,
                _ if self.unet.mid != Mid::CrossAttention => Family::Ssd1b,
                _ if turbo => Family::SdxlTurbo,
                _ => Family::Sdxl,
            }),
            [_, None] => Err(ModelError::MissingPart {
                part: "text_encoder_2".into(),
                remedy: "the UNet takes pooled text, which the second encoder makes; fetch the complete model".into(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_parse() {
        for family in Family::all() {
            assert_eq!(family.name().parse::<Family>().unwrap(), family);
        }
        assert_eq!("sd3".parse::<Family>().unwrap_err().code(), "bad_config");
    }
}
