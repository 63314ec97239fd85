//! Which devices a wish means, and which plugins are tried on each.

use crate::{Choice, PluginError, catalog::Catalog, hardware, load::Claim};
use backend_api::HwKind;

/// A plugin for a device, by place in the catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) entry: usize,
    pub(crate) claim: usize,
}

/// How good a plugin is for a device: by its score, among equals by its version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank(pub(crate) u32, pub(crate) Vec<u64>);

/// One device that is to be opened, and the plugins that are tried there, best first.
#[derive(Debug, Clone)]
pub struct Seat {
    /// What `--device` calls it.
    pub device: String,
    pub(crate) candidates: Vec<Candidate>,
}

/// The devices that a wish means.
#[derive(Debug, Clone)]
pub struct Seats {
    /// Those to open, the best first.
    pub wanted: Vec<Seat>,
    /// What is left to try, best first, when none of them opens and no device was named.
    pub rest: Option<Seat>,
}

/// The devices of a list such as `cuda:0,cuda:1`; empty when any will do.
fn wishes(choice: &Choice) -> Vec<&str> {
    choice.device.iter().flat_map(|list| list.split(',')).map(str::trim).filter(|w| !w.is_empty()).collect()
}

impl Catalog {
    pub(crate) fn claim(&self, candidate: Candidate) -> Option<&Claim> {
        self.about(candidate.entry)?.offers.get(candidate.claim)
    }

    /// How good it is.
    pub(crate) fn rank(&self, candidate: Candidate) -> Option<Rank> {
        Some(Rank(self.claim(candidate)?.score, version(&self.about(candidate.entry)?.version)))
    }

    fn kind(&self, claim: &Claim) -> HwKind {
        self.hardware().get(claim.hardware).map_or(HwKind::CPU, |h| h.kind)
    }

    fn matches(&self, claim: &Claim, wish: &str) -> bool {
        let gpu = || matches!(self.kind(claim), HwKind::GPU | HwKind::IGPU);
        match wish {
            "all" => true,
            "gpu" => gpu(),
            _ => {
                claim.device == wish.to_ascii_lowercase()
                    || self.hardware().get(claim.hardware).is_some_and(|h| hardware::matches(h, wish))
            }
        }
    }

    /// A bare number, as hives pass it, means the device of this index among those of the best one's kind. There is but
    /// one processor.
    fn numbered(&self, wish: &str, best: &Claim) -> Option<String> {
        let index: u32 = wish.parse().ok()?;
        let family = best.device.split(':').next().unwrap_or_default();
        Some(if self.kind(best) == HwKind::CPU { "cpu".to_owned() } else { format!("{family}:{index}") })
    }

    /// The plugins that fit a wish, best first; devices of one plugin with the same score in the machine's order.
    pub(crate) fn candidates(&self, choice: &Choice) -> Vec<Candidate> {
        let mut found: Vec<(Rank, Candidate)> = Vec::new();
        let named = choice.backend.as_deref().map(|wish| self.named(wish));
        for (entry, about) in self.usable() {
            if named.as_ref().map_or(about.test_only, |named| !named.contains(&entry)) {
                continue;
            }
            for (claim, offer) in about.offers.iter().enumerate().filter(|(_, o)| o.score > 0) {
                found.push((Rank(offer.score, version(&about.version)), Candidate { entry, claim }));
            }
        }
        // Among equals the first device.
        found.sort_by(|(a, _), (b, _)| b.cmp(a));
        let all: Vec<Candidate> = found.into_iter().map(|(_, candidate)| candidate).collect();
        let wishes = wishes(choice);
        let Some(best) = all.first().and_then(|c| self.claim(*c)) else { return all };
        let wishes: Vec<String> =
            wishes.iter().map(|w| self.numbered(w, best).unwrap_or_else(|| (*w).to_owned())).collect();
        let fits = |c: &Candidate| {
            wishes.is_empty() || self.claim(*c).is_some_and(|claim| wishes.iter().any(|w| self.matches(claim, w)))
        };
        all.iter().copied().filter(fits).collect()
    }

    /// The devices that a wish means. Without one: every device of the best plugin that is of the best one's kind, so all
    /// of its GPUs, or the processor.
    pub fn seats(&self, choice: &Choice) -> Result<Seats, PluginError> {
        let all = self.candidates(choice);
        let claims: Vec<(Candidate, &Claim)> = all.iter().filter_map(|c| Some((*c, self.claim(*c)?))).collect();
        let Some((first, best)) = claims.first() else { return Err(self.nothing(choice, Vec::new())) };
        let mut devices: Vec<&str> = Vec::new();
        let mut add = |device| {
            if !devices.contains(&device) {
                devices.push(device);
            }
        };
        let wishes = wishes(choice);
        if wishes.is_empty() {
            let like =
                |(c, claim): &&(Candidate, &Claim)| c.entry == first.entry && self.kind(claim) == self.kind(best);
            claims.iter().filter(like).for_each(|(_, claim)| add(claim.device.as_str()));
        }
        for wish in &wishes {
            let numbered = self.numbered(wish, best);
            let wish = numbered.as_deref().unwrap_or(wish);
            let mut fitting = claims.iter().filter(|(_, claim)| self.matches(claim, wish)).peekable();
            if fitting.peek().is_none() {
                return Err(self.nothing(&Choice { device: Some(wish.to_owned()), ..choice.clone() }, Vec::new()));
            }
            let most = if ["all", "gpu"].contains(&wish) { usize::MAX } else { 1 };
            fitting.take(most).for_each(|(_, claim)| add(claim.device.as_str()));
        }
        let seat = |device: &str| Seat {
            device: device.to_owned(),
            candidates: claims.iter().filter(|(_, claim)| claim.device == device).map(|(c, _)| *c).collect(),
        };
        let left: Vec<(Candidate, &Claim)> =
            claims.iter().filter(|(_, claim)| !devices.contains(&claim.device.as_str())).copied().collect();
        let rest = left.first().filter(|_| wishes.is_empty()).map(|(_, claim)| Seat {
            device: claim.device.clone(),
            candidates: left.iter().map(|(c, _)| *c).collect(),
        });
        Ok(Seats { wanted: devices.into_iter().map(seat).collect(), rest })
    }
}

/// Numbers of a version text, for comparing: `1.10` is newer than `1.9`.
pub(crate) fn version(text: &str) -> Vec<u64> {
    text.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}
