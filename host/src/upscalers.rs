//! The ways in which pictures are enlarged, and their names.

use crate::fault::Fault;
use sd_images::{Filter, LatentResize};

/// A way to enlarge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upscaler {
    /// The latents are resized; nothing is decoded between the passes.
    Latent(LatentResize),
    /// The picture is resampled.
    Pixels(Filter),
}

/// One way under its names.
#[derive(Debug)]
pub(crate) struct Named {
    /// The name in requests.
    pub(crate) name: &'static str,
    /// A1111's name.
    pub(crate) label: &'static str,
    /// What it stands for.
    pub(crate) upscaler: Upscaler,
}

const fn latent(name: &'static str, label: &'static str, mode: LatentResize) -> Named {
    Named { name, label, upscaler: Upscaler::Latent(mode) }
}

const fn pixels(name: &'static str, label: &'static str, filter: Filter) -> Named {
    Named { name, label, upscaler: Upscaler::Pixels(filter) }
}

/// Every way that needs no model.
pub(crate) const BUILT_IN: &[Named] = &[
    latent("latent", "Latent", LatentResize::Bilinear),
    latent("latent_antialiased", "Latent (antialiased)", LatentResize::BilinearAntialiased),
    latent("latent_bicubic", "Latent (bicubic)", LatentResize::Bicubic),
    latent("latent_bicubic_antialiased", "Latent (bicubic antialiased)", LatentResize::BicubicAntialiased),
    latent("latent_nearest", "Latent (nearest)", LatentResize::Nearest),
    latent("latent_nearest_exact", "Latent (nearest-exact)", LatentResize::NearestExact),
    pixels("lanczos", "Lanczos", Filter::Lanczos),
    pixels("nearest", "Nearest", Filter::Nearest),
    pixels("bilinear", "Bilinear", Filter::Bilinear),
    pixels("bicubic", "Bicubic", Filter::Bicubic),
];

impl Named {
    /// Whether it works on latents, which only a second pass has.
    pub(crate) fn is_latent(&self) -> bool {
        matches!(self.upscaler, Upscaler::Latent(_))
    }
}

/// What a name stands for: ours or A1111's, upper or lower case.
pub(crate) fn find(name: &str) -> Result<Upscaler, Fault> {
    let wanted = name.trim();
    // A1111's "None" resamples as well.
    let wanted = if wanted.eq_ignore_ascii_case("none") { "lanczos" } else { wanted };
    let known = |e: &&Named| e.name.eq_ignore_ascii_case(wanted) || e.label.eq_ignore_ascii_case(wanted);
    BUILT_IN.iter().find(known).map(|e| e.upscaler.clone()).ok_or_else(|| {
        let names: Vec<&str> = BUILT_IN.iter().map(|e| e.name).collect();
        Fault::field("upscaler", format!("there is no upscaler of this name; there are {}", names.join(", ")))
    })
}

/// The name of an upscaler, as pictures carry it: A1111's.
pub(crate) fn label(upscaler: &Upscaler) -> String {
    let found = BUILT_IN.iter().find(|e| e.upscaler == *upscaler);
    found.map_or_else(String::new, |e| e.label.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_names_are_understood() {
        for entry in BUILT_IN {
            assert_eq!(find(entry.name).unwrap(), entry.upscaler);
            assert_eq!(find(&entry.label.to_uppercase()).unwrap(), entry.upscaler);
            assert_eq!(label(&entry.upscaler), entry.label);
        }
        assert_eq!(find("None").unwrap(), Upscaler::Pixels(Filter::Lanczos));
        assert_eq!(find("nothing").unwrap_err().field.as_deref(), Some("upscaler"));
    }
}
