//! The HTTP client of the heartbeat: one kept connection, one short deadline.

use std::time::Duration;

use crate::outbound::agent_config;

/// How an address answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// 2xx.
    Taken,
    /// It is there and has no such route.
    NoRoute,
    /// Anything else, in a word for the log.
    Failed(String),
}

pub(super) struct Client {
    agent: ureq::Agent,
}

impl Client {
    pub(super) fn new(timeout: Duration) -> Self {
        Self { agent: agent_config(timeout).new_agent() }
    }

    pub(super) fn post(&self, url: &str, body: &str) -> Answer {
        match self.agent.post(url).header("content-type", "application/json").send(body) {
            Ok(mut answer) => {
                // Read, though not used, so that the connection can be kept.
                let _ = answer.body_mut().with_config().limit(64 * 1024).read_to_vec();
                match answer.status().as_u16() {
                    200..300 => Answer::Taken,
                    404 | 405 => Answer::NoRoute,
                    status => Answer::Failed(format!("status {status}")),
                }
            }
            Err(e) => Answer::Failed(e.to_string()),
        }
    }
}
