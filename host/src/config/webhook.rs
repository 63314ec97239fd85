//! Who may be told that a job has ended, and how often one key may ask.

use crate::{
    auth::{RateLimit, RateLimiter},
    webhook::WebhookPolicy,
};
use clap::Args;
use std::{io::Read, path::PathBuf};

/// Largest file with a secret.
const MAX_SECRET: u64 = 4096;

/// Settings of webhooks.
#[derive(Debug, Clone, Args)]
pub struct WebhookArgs {
    /// A host that jobs may name in `webhook`, with its port if that is not the scheme's own; may be given several times.
    /// Without it there are no webhooks
    #[arg(long, env = "SD_WORKER_WEBHOOK_HOST", value_delimiter = ',')]
    pub webhook_host: Vec<String>,
    /// Names among them may lead to private addresses. An address given as a number is allowed as it is
    #[arg(long, env = "SD_WORKER_WEBHOOK_PRIVATE")]
    pub webhook_private: bool,
    /// A file with the secret that signs deliveries, at least 16 bytes. Or the secret itself in SD_WORKER_WEBHOOK_SECRET
    #[arg(long, env = "SD_WORKER_WEBHOOK_SECRET_FILE")]
    pub webhook_secret_file: Option<PathBuf>,
}

impl WebhookArgs {
    /// The rules, if there are webhooks at all.
    pub fn policy(&self) -> Result<Option<WebhookPolicy>, String> {
        if self.webhook_host.is_empty() {
            return Ok(None);
        }
        let secret = match &self.webhook_secret_file {
            None => std::env::var("SD_WORKER_WEBHOOK_SECRET").unwrap_or_default(),
            Some(path) => {
                let mut text = String::new();
                let read = std::fs::File::open(path).and_then(|file| file.take(MAX_SECRET).read_to_string(&mut text));
                read.map_err(|e| format!("the file of --webhook-secret-file cannot be read: {e}"))?;
                text
            }
        };
        let hosts = self.webhook_host.iter().map(|h| h.trim().to_ascii_lowercase()).collect();
        let secret = secret.trim().as_bytes().to_vec();
        Ok(Some(WebhookPolicy { hosts, private: self.webhook_private, secret, ..WebhookPolicy::default() }))
    }
}

/// Settings of rate limits.
#[derive(Debug, Clone, Copy, Args)]
pub struct RateArgs {
    /// Requests that change something (jobs, cancels, loads) that one key may send in a minute, in the long run; without
    /// keys one address. 0 = any number
    #[arg(long, env = "SD_WORKER_RATE_PER_MINUTE", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub rate_per_minute: u32,
    /// Such requests at once, after a pause
    #[arg(long, env = "SD_WORKER_RATE_BURST", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub rate_burst: u32,
}

impl RateArgs {
    /// The limiter, if there is a limit.
    pub fn limiter(self) -> Option<RateLimiter<String>> {
        let limit = RateLimit { per_minute: f64::from(self.rate_per_minute), burst: f64::from(self.rate_burst) };
        (self.rate_per_minute > 0).then(|| RateLimiter::new(limit))
    }
}
