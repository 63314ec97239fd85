//! Logs: text for people, JSON for machines, on standard error; a filter that can be changed while the program runs.

use std::io::IsTerminal;
use std::str::FromStr;
use std::sync::OnceLock;

use hmac::{Hmac, Mac};
use sha2::Sha256;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use super::TelemetryError;

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// One line for people, coloured on a terminal.
    #[default]
    Text,
    /// One JSON object a line, the event's and its spans' fields at the top.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(format!("{s:?} is no log format; write text or json")),
        }
    }
}

/// Changes the filter while the program runs.
#[derive(Clone, Debug)]
pub struct LogHandle {
    filter: reload::Handle<EnvFilter, Registry>,
}

impl LogHandle {
    /// Replaces the filter, for example with `sd_worker=debug,warn`.
    ///
    /// # Errors
    /// When `filter` is not understood; the old one stays.
    pub fn set_filter(&self, filter: &str) -> Result<(), TelemetryError> {
        let new = parse(filter)?;
        // Fails only when the subscriber is gone, and then nothing is logged at all.
        let _ = self.filter.reload(new);
        Ok(())
    }
}

/// Starts logging to standard error. `filter` is in the form of `RUST_LOG`.
///
/// # Errors
/// When `filter` is not understood, or the process logs already.
pub fn init(format: LogFormat, filter: &str) -> Result<LogHandle, TelemetryError> {
    let (filter, handle) = reload::Layer::new(parse(filter)?);
    let layer = fmt::layer().with_writer(std::io::stderr).with_target(true);
    let layer = match format {
        LogFormat::Text => layer.with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).with_span_list(false).boxed(),
    };
    tracing_subscriber::registry().with(filter).with(layer).try_init().map_err(|_| TelemetryError::AlreadySet)?;
    Ok(LogHandle { filter: handle })
}

fn parse(filter: &str) -> Result<EnvFilter, TelemetryError> {
    EnvFilter::builder()
        .parse(filter)
        .map_err(|e| TelemetryError::Filter { filter: filter.to_owned(), reason: e.to_string() })
}

/// A name for a prompt that tells logs of the same prompt apart from others without telling the prompt: 12 hexadecimal digits.
///
/// Keyed with a secret of this process, since a plain hash of a short text is undone by guessing; so it means nothing after a restart.
#[must_use]
pub fn prompt_hash(prompt: &str) -> String {
    static KEY: OnceLock<[u8; 16]> = OnceLock::new();
    let key = KEY.get_or_init(|| uuid::Uuid::new_v4().into_bytes());
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else {
        // HMAC takes keys of every length.
        return String::from("unknown");
    };
    mac.update(prompt.as_bytes());
    mac.finalize().into_bytes().iter().take(6).map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_hash_names_and_hides() {
        let (a, b) = (prompt_hash("a red apple"), prompt_hash("a red apple "));
        assert_eq!(a, prompt_hash("a red apple"));
        assert_ne!(a, b);
        assert!(a.len() == 12 && a.bytes().all(|c| c.is_ascii_hexdigit()), "{a}");
    }

    #[test]
    fn bad_filters_and_formats_are_named() {
        let error = parse("sd_worker=loud").unwrap_err();
        assert!(error.code() == "invalid_log_filter" && error.to_string().contains("sd_worker=loud"), "{error}");
        parse("sd_worker=debug,warn").unwrap();
        assert_eq!("json".parse(), Ok(LogFormat::Json));
        assert!("xml".parse::<LogFormat>().unwrap_err().contains("text or json"));
    }
}
