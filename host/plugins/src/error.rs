//! Why a plugin cannot be used.

use backend_api::AbiError;
use std::fmt;

/// A plugin, or the choice among them, failed. Messages name files without their folder.
#[derive(thiserror::Error, Debug, Clone)]
pub enum PluginError {
    /// The file is no library for this machine.
    #[error("{file}: {reason}")]
    NotALibrary {
        /// The file's name.
        file: String,
        /// What it is, and what is wanted.
        reason: String,
    },
    /// The file or its folder can be changed by people who should not.
    #[error("{file}: {reason}")]
    Untrusted {
        /// The file's name.
        file: String,
        /// What is wrong.
        reason: String,
        /// What to do.
        remedy: String,
    },
    /// The library was built for processors that can do more than this one. Nothing of it was executed.
    #[error("{file}: needs {}, which this CPU lacks", few(lacks))]
    Unfit {
        /// The file's name.
        file: String,
        /// The features that this processor lacks; not empty.
        lacks: Vec<String>,
    },
    /// The system's loader refused the library, for example because a library that it needs is missing.
    #[error("{file}: not for this machine: {reason}")]
    Loader {
        /// The file's name.
        file: String,
        /// The loader's words.
        reason: String,
    },
    /// The library speaks another interface.
    #[error("{file}: built for another backend interface: {reason}")]
    Interface {
        /// The file's name.
        file: String,
        /// What differs, in one line.
        reason: String,
    },
    /// The library loads, but says something impossible about itself.
    #[error("{file}: {reason}")]
    Misbehaved {
        /// The file's name.
        file: String,
        /// What it did.
        reason: String,
    },
    /// The plugin failed while opening a device.
    #[error("backend `{id}` on {device}: {error}")]
    Open {
        /// The file's name.
        file: String,
        /// The plugin's id.
        id: String,
        /// The device's label.
        device: String,
        /// The plugin's own words.
        error: Box<AbiError>,
    },
    /// Nothing fits the wish.
    #[error("{reason}")]
    NoChoice {
        /// What was wanted and what there is.
        reason: String,
        /// What to do.
        remedy: String,
    },
    /// The process for a plugin could not be started or did not answer.
    #[error("{file}: {reason}")]
    Child {
        /// The file's name.
        file: String,
        /// What happened.
        reason: String,
    },
}

impl PluginError {
    /// A stable code for programs.
    pub fn code(&self) -> &'static str {
        match self {
            PluginError::NotALibrary { .. } => "plugin_not_a_library",
            PluginError::Untrusted { .. } => "plugin_untrusted",
            PluginError::Unfit { .. } => "plugin_not_for_this_cpu",
            PluginError::Loader { .. } => "plugin_not_loadable",
            PluginError::Interface { .. } => "plugin_interface_mismatch",
            PluginError::Misbehaved { .. } => "plugin_misbehaved",
            PluginError::Open { .. } => "backend_open_failed",
            PluginError::NoChoice { .. } => "no_backend",
            PluginError::Child { .. } => "plugin_process_failed",
        }
    }

    /// Whether it speaks of the plugin in this file.
    pub(crate) fn concerns(&self, name: &str) -> bool {
        match self {
            PluginError::Open { file, .. }
            | PluginError::NotALibrary { file, .. }
            | PluginError::Untrusted { file, .. }
            | PluginError::Unfit { file, .. }
            | PluginError::Loader { file, .. }
            | PluginError::Interface { file, .. }
            | PluginError::Misbehaved { file, .. }
            | PluginError::Child { file, .. } => file == name,
            PluginError::NoChoice { .. } => false,
        }
    }

    /// What an operator can do about it.
    pub fn remedy(&self) -> String {
        match self {
            PluginError::NotALibrary { .. } => "copy the library again, built for this system and processor".to_owned(),
            PluginError::Untrusted { remedy, .. } | PluginError::NoChoice { remedy, .. } => remedy.clone(),
            PluginError::Unfit { .. } => {
                "get a build of it for this processor, unless another one is chosen".to_owned()
            }
            PluginError::Loader { .. } => "install the driver or the library that it needs, or remove it".to_owned(),
            PluginError::Interface { .. } => "get a build of the plugin for this version of sd-worker".to_owned(),
            PluginError::Misbehaved { .. } | PluginError::Child { .. } => {
                "tell its vendor, and remove it from the plugin folder".to_owned()
            }
            PluginError::Open { .. } => "see the message; another backend can be named with --backend".to_owned(),
        }
    }
}

/// A list for people, not longer than a line.
fn few(names: &[String]) -> String {
    const SHOWN: usize = 6;
    let shown = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    let more = names.len().saturating_sub(SHOWN);
    if more > 0 { format!("{shown} and {more} more features") } else { shown }
}

/// One line of printable text of at most `most` characters: what a stranger's library says is shown to people.
pub(crate) fn clean(text: impl fmt::Display, most: usize) -> String {
    let text = text.to_string();
    let mut out: String =
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(most.saturating_add(1)).collect();
    if out.chars().count() > most {
        out = out.chars().take(most.saturating_sub(1)).collect();
        out.push('…');
    }
    out.trim().to_owned()
}
