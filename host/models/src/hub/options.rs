//! How to talk to the hub.

use super::cache;
use crate::folder::Prefer;
use std::{fmt, io::Read, path::PathBuf, time::Duration};

/// Settings of a download, by default from the variables that every Hugging Face program reads.
#[derive(Clone)]
pub struct HubOptions {
    /// `HF_ENDPOINT`: the hub or a mirror of it.
    pub endpoint: String,
    /// `HF_TOKEN`, or the token file of `hf auth login`.
    pub token: Option<String>,
    /// `HF_HUB_OFFLINE`: never connect.
    pub offline: bool,
    /// The shared cache.
    pub cache_dir: PathBuf,
    /// Which copy of the weights to fetch.
    pub prefer: Prefer,
    /// The longest silence of the hub.
    pub stall: Duration,
    /// Attempts in a row that bring less than 64 KiB before giving up.
    pub attempts: u32,
    /// The wait before the second attempt; it doubles each time, up to 30 s.
    pub backoff: Duration,
}

impl HubOptions {
    /// Settings for a cache directory, with the environment's endpoint, token and offline switch.
    #[must_use]
    pub fn from_env(cache_dir: PathBuf) -> Self {
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
        let on = |value: String| matches!(value.trim().to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE");
        Self {
            endpoint: set("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into()),
            token: set("HF_TOKEN")
                .or_else(|| set("HUGGING_FACE_HUB_TOKEN"))
                .or_else(token_file)
                .map(|text| text.trim().into()),
            offline: set("HF_HUB_OFFLINE").is_some_and(on),
            cache_dir,
            prefer: Prefer::Full,
            stall: Duration::from_secs(30),
            attempts: 6,
            backoff: Duration::from_secs(1),
        }
    }

    /// As [`HubOptions::from_env`], with the shared cache; `None` if there is no home directory.
    #[must_use]
    pub fn shared() -> Option<Self> {
        cache::default_cache_dir().map(Self::from_env)
    }
}

fn token_file() -> Option<String> {
    let path = std::env::var_os("HF_TOKEN_PATH").map(PathBuf::from).or_else(|| {
        // The token lies beside the cache: `~/.cache/huggingface/{token,hub}`.
        let home = std::env::var_os("HF_HOME").map(PathBuf::from);
        home.or_else(|| cache::default_cache_dir()?.parent().map(PathBuf::from)).map(|home| home.join("token"))
    })?;
    let mut text = String::new();
    std::fs::File::open(path).ok()?.take(4_096).read_to_string(&mut text).ok()?;
    Some(text).filter(|text| !text.trim().is_empty())
}

impl fmt::Debug for HubOptions {
    /// Leaves the token out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubOptions")
            .field("endpoint", &self.endpoint)
            .field("token", &self.token.as_ref().map(|_| "…"))
            .field("offline", &self.offline)
            .field("prefer", &self.prefer)
            .field("stall", &self.stall)
            .field("attempts", &self.attempts)
            .finish_non_exhaustive()
    }
}
