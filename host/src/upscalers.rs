//! The ways in which pictures are enlarged, and their names.

use crate::{
    fault::{Fault, FaultCode},
    library::Library,
};
use sd_images::{Filter, LatentResize};
use serde_json::{Value, json};

/// The most names that an error lists.
const MAX_NAMED: usize = 40;

/// A way to enlarge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upscaler {
    /// The latents are resized; nothing is decoded between the passes.
    Latent(LatentResize),
    /// The picture is resampled.
    Pixels(Filter),
    /// A network does it.
    Model {
        /// The file's name without its ending.
        name: String,
        /// Output pixels per input pixel, in each direction, as the file tells.
        factor: u32,
    },
}

impl Upscaler {
    /// The name of the network, if one does it.
    pub fn model(&self) -> Option<&str> {
        match self {
            Upscaler::Model { name, .. } => Some(name),
            Upscaler::Latent(_) | Upscaler::Pixels(_) => None,
        }
    }
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

/// What a name stands for: ours, A1111's, or a file's; upper or lower case.
pub(crate) fn find(name: &str, library: &Library) -> Result<Upscaler, Fault> {
    let wanted = name.trim();
    // A1111's "None" resamples as well.
    let wanted = if wanted.eq_ignore_ascii_case("none") { "lanczos" } else { wanted };
    let known = |e: &&Named| e.name.eq_ignore_ascii_case(wanted) || e.label.eq_ignore_ascii_case(wanted);
    if let Some(entry) = BUILT_IN.iter().find(known) {
        return Ok(entry.upscaler.clone());
    }
    let files = library.upscalers();
    match files.iter().find(|f| f.name.eq_ignore_ascii_case(wanted)).map(|f| (&f.name, &f.upscaler)) {
        Some((name, Ok(model))) => Ok(Upscaler::Model { name: name.clone(), factor: model.factor }),
        Some((_, Err(problem))) => {
            Err(Fault::new(FaultCode::ModelInvalid, format!("the upscaler cannot be used: {problem}"))
                .about("upscaler"))
        }
        None => {
            let own = files.iter().filter(|f| f.upscaler.is_ok()).map(|f| f.name.as_str());
            let names: Vec<&str> = BUILT_IN.iter().map(|e| e.name).chain(own).take(MAX_NAMED).collect();
            let names = names.join(", ");
            let message = format!(
                "there is no upscaler of this name; there are {names}; a network's file belongs into `upscalers` of a models directory, none is fetched"
            );
            Err(Fault::field("upscaler", message))
        }
    }
}

/// The list of `GET /v1/upscalers`.
pub(crate) fn list_json(library: &Library) -> Vec<Value> {
    let built_in = BUILT_IN
        .iter()
        .map(|e| json!({ "name": e.name, "label": e.label, "kind": if e.is_latent() { "latent" } else { "pixels" } }));
    let files = library.upscalers();
    let models = files.iter().map(|f| match &f.upscaler {
        Ok(model) => json!({ "name": f.name, "label": f.name, "kind": "model", "scale": model.factor, "bytes": model.file_bytes }),
        Err(problem) => {
            json!({ "name": f.name, "label": f.name, "kind": "model", "problem": { "code": problem.code(), "message": problem.to_string() } })
        }
    });
    built_in.chain(models).collect()
}

/// The name of an upscaler, as pictures carry it: A1111's.
pub(crate) fn label(upscaler: &Upscaler) -> String {
    match upscaler {
        Upscaler::Model { name, .. } => name.clone(),
        own => BUILT_IN.iter().find(|e| e.upscaler == *own).map_or_else(String::new, |e| e.label.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_names_are_understood() {
        let (library, _) = Library::new(sd_models::Library::new(Vec::new(), None), None).unwrap();
        let find = |name: &str| find(name, &library);
        for entry in BUILT_IN {
            assert_eq!(find(entry.name).unwrap(), entry.upscaler);
            assert_eq!(find(&entry.label.to_uppercase()).unwrap(), entry.upscaler);
            assert_eq!(label(&entry.upscaler), entry.label);
        }
        assert_eq!(find("None").unwrap(), Upscaler::Pixels(Filter::Lanczos));
        assert_eq!(find("nothing").unwrap_err().field.as_deref(), Some("upscaler"));
    }
}
