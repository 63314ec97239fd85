//! What should serve a device from now on, when its plugin's file or the folder around it has changed.

use crate::{
    Catalog, Choice, PluginError, Seat,
    catalog::Opened,
    choose::{Candidate, Rank},
    load::file_name,
    pinned::Pinned,
};
use backend_api::HostRef;
use std::{path::Path, sync::Arc};

/// What serves a device: the plugin's file as it was when it was opened, and how it ranked.
#[derive(Debug, Clone)]
pub struct Origin {
    pub(crate) library: Arc<Pinned>,
    pub(crate) id: String,
    pub(crate) rank: Rank,
}

impl Origin {
    /// The file's name.
    pub fn file(&self) -> String {
        file_name(self.library.path())
    }

    /// Where it lay when it was opened.
    pub fn path(&self) -> &Path {
        self.library.path()
    }
}

/// What became of the file that a device is served from.
#[derive(Debug, Clone)]
pub enum Standing {
    /// It is as it was.
    Same,
    /// Another one lies in its place.
    Changed,
    /// Another one lies in its place, which may not run; or the same one may not any more.
    Refused(PluginError),
    /// Another one lies in its place, which does not offer this device, or is not the wanted one: why.
    Silent(String),
    /// There is none in its place.
    Gone,
}

/// A plugin that should serve a device instead of the present one.
#[derive(Debug, Clone)]
pub struct Heir {
    /// To open it.
    pub seat: Seat,
    /// The file's name.
    pub file: String,
    /// The plugin's id.
    pub id: String,
    /// The plugin's version.
    pub version: String,
}

/// Who should serve a device.
#[derive(Debug, Clone)]
pub struct Succession {
    /// What became of the present one's file.
    pub standing: Standing,
    /// Those to try, best first. When none of them is fit, the present one goes on.
    pub heirs: Vec<Heir>,
}

impl Catalog {
    /// Who should serve a device that a plugin serves already: a better one, if there is, and else what lies in the
    /// present one's place. Nothing worse is taken for it: what works goes on.
    pub fn succession(&self, choice: &Choice, device: &str, now: &Origin) -> Succession {
        let mine = |c: &&Candidate| self.claim(**c).is_some_and(|claim| claim.device == device);
        let all = self.candidates(choice);
        let here: Vec<Candidate> = all.iter().filter(mine).copied().collect();
        let (entry, standing) = self.standing(&here, now);
        let mut heirs = Vec::new();
        for candidate in here {
            let own = Some(candidate.entry) == entry;
            if own && matches!(standing, Standing::Same) {
                break;
            }
            let better = || self.rank(candidate).is_some_and(|rank| rank > now.rank);
            // A version with its number in the file's name, say.
            let renamed = || {
                matches!(standing, Standing::Gone)
                    && self.about(candidate.entry).is_some_and(|about| about.id == now.id)
            };
            if own || better() || renamed() {
                heirs.extend(self.heir(device, candidate));
            }
            if own {
                break;
            }
        }
        Succession { standing, heirs }
    }

    fn heir(&self, device: &str, candidate: Candidate) -> Option<Heir> {
        let about = self.about(candidate.entry)?;
        Some(Heir {
            seat: Seat { device: device.to_owned(), candidates: vec![candidate] },
            file: self.file(candidate.entry),
            id: about.id.clone(),
            version: about.version.clone(),
        })
    }

    /// The plugins that offer a device, best first, without those from the files of these names.
    pub fn others(&self, choice: &Choice, device: &str, used: &[String]) -> Vec<Heir> {
        let all = self.candidates(choice);
        let here = all.into_iter().filter(|c| self.claim(*c).is_some_and(|claim| claim.device == device));
        here.filter_map(|c| self.heir(device, c)).filter(|heir| !used.contains(&heir.file)).collect()
    }

    /// What lies in the place of a file, and its place in this catalogue.
    fn standing(&self, here: &[Candidate], now: &Origin) -> (Option<usize>, Standing) {
        let Some((entry, found)) = self.at(now.library.path()) else { return (None, Standing::Gone) };
        let about = match &found.outcome {
            Ok(about) => about,
            Err(error) => return (Some(entry), Standing::Refused(error.clone())),
        };
        let standing = if found.library.as_ref().is_some_and(|library| library.same(&now.library)) {
            Standing::Same
        } else if here.iter().any(|c| c.entry == entry) {
            Standing::Changed
        } else {
            let best = about.offers.iter().max_by_key(|offer| offer.score);
            Standing::Silent(match best {
                Some(best) if best.score == 0 => best.why.clone(),
                Some(_) => "it is not the backend that is asked for, or does not offer this device".to_owned(),
                None => "it knows none of this machine's devices".to_owned(),
            })
        };
        (Some(entry), standing)
    }

    /// Whether the first plugin of a seat is to run in this process, and could run in one of its own.
    pub fn can_rehearse(&self, seat: &Seat) -> bool {
        seat.candidates.first().is_some_and(|c| self.could_be_apart(c.entry))
    }

    /// Opens the first plugin of a seat in a process of its own, wherever it belongs: what ends a process is to end that
    /// one.
    pub fn rehearse(
        &self,
        seat: &Seat,
        choice: &Choice,
        host: &dyn Fn(&str) -> HostRef,
    ) -> Result<Opened, PluginError> {
        match seat.candidates.first() {
            Some(candidate) => self.open_one(*candidate, choice, host, true),
            None => Err(self.nothing(choice, Vec::new())),
        }
    }
}
