//! Tells a client's own server that a job has ended: signed, retried, and only to hosts that the operator allows.
//!
//! A delivery is `POST <url>` with the JSON body given and two headers: `X-SD-Worker-Delivery`, an id that stays the same over retries, and
//! `X-SD-Worker-Signature: t=<seconds since 1970>,v1=<hex>`, where `v1` is HMAC-SHA256 of `<t>.<body>` with the operator's secret. A receiver checks the
//! signature, and that `t` is recent. With a store, deliveries under way when the program ends are made by the next one, under a new id; without one they
//! are lost: the job itself is the truth, a delivery is a hint to look.
//!
//! Names are resolved here, and an address inside the operator's network is called only if the operator allowed that very address, or such addresses at
//! all: a name that an attacker controls may point anywhere.

use std::collections::BinaryHeap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hmac::{Hmac, Mac};
use sha2::Sha256;
use ureq::unversioned::transport::DefaultConnector;

use crate::outbound::{BadUrl, agent_config, check_url};

mod resolve;

use resolve::Guarded;

/// Deliveries that may wait, retries included.
const MAX_PENDING: usize = 1024;
const MAX_URL: usize = 2048;

/// Where deliveries may go and how they are made.
#[derive(Clone)]
pub struct WebhookPolicy {
    /// Hosts in lower case, with their port if it is not the scheme's own: `example.org`, `10.0.0.5:9000`. Empty: webhooks are off.
    pub hosts: Vec<String>,
    /// Whether allowed names may resolve to private, local and other special addresses.
    pub private: bool,
    /// The key of the signature. At least 16 bytes.
    pub secret: Vec<u8>,
    /// Deliveries are tried this often.
    pub attempts: u32,
    /// The first wait after a failure, four times as long after each further one.
    pub retry: Duration,
    /// For one whole request.
    pub timeout: Duration,
}

impl Default for WebhookPolicy {
    fn default() -> Self {
        let (retry, timeout) = (Duration::from_secs(1), Duration::from_secs(10));
        Self { hosts: Vec::new(), private: false, secret: Vec::new(), attempts: 6, retry, timeout }
    }
}

impl WebhookPolicy {
    /// Whether deliveries can be made this way.
    ///
    /// # Errors
    /// [`WebhookError::Secret`] if hosts are allowed but the secret is too short.
    pub fn check(&self) -> Result<(), WebhookError> {
        if self.hosts.is_empty() || self.secret.len() >= 16 { Ok(()) } else { Err(WebhookError::Secret) }
    }
}

impl std::fmt::Debug for WebhookPolicy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WebhookPolicy")
            .field("hosts", &self.hosts)
            .field("private", &self.private)
            .field("attempts", &self.attempts)
            .finish_non_exhaustive()
    }
}

/// Why a webhook is not taken.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// The operator has not allowed this host, or none at all.
    #[error("webhooks to this host are not allowed; the operator can allow it with --webhook-host")]
    HostNotAllowed,
    /// Not an address.
    #[error("the webhook is no http or https URL of at most {MAX_URL} bytes without a user name and a fragment")]
    Url,
    /// Too many deliveries are waiting.
    #[error("too many webhook deliveries are waiting")]
    Busy,
    /// The secret is too short to sign with.
    #[error(
        "webhooks need a secret of at least 16 bytes in --webhook-secret-file or SD_WORKER_WEBHOOK_SECRET; make one with: openssl rand -hex 32"
    )]
    Secret,
    /// No thread could be started.
    #[error("the webhook thread cannot start: {0}")]
    Thread(#[from] std::io::Error),
}

impl WebhookError {
    /// A stable name for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::HostNotAllowed => "webhook_host_not_allowed",
            Self::Url => "invalid_webhook_url",
            Self::Busy => "webhooks_busy",
            Self::Secret => "webhook_secret_missing",
            Self::Thread(_) => "webhook_thread",
        }
    }
}

impl From<BadUrl> for WebhookError {
    fn from(_: BadUrl) -> Self {
        Self::Url
    }
}

/// The sender. Clones share two threads, which end with the last clone.
#[derive(Clone, Debug)]
pub struct Webhooks {
    shared: Arc<Shared>,
    _alive: Arc<CloseOnDrop>,
}

#[derive(Debug)]
struct Shared {
    policy: WebhookPolicy,
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    // The next due on top.
    pending: BinaryHeap<Delivery>,
    closed: bool,
}

#[derive(Debug)]
struct CloseOnDrop(Arc<Shared>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.changed.notify_all();
    }
}

struct Delivery {
    due: Instant,
    id: String,
    job: String,
    url: String,
    body: String,
    failures: u32,
    /// Hears that the matter is settled, one way or the other.
    settled: Settled,
}

/// Called once a delivery has been taken or given up.
pub type Settled = Box<dyn FnOnce() + Send>;

impl std::fmt::Debug for Delivery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Delivery").field("job", &self.job).field("failures", &self.failures).finish_non_exhaustive()
    }
}

impl Ord for Delivery {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        // A max-heap: the earliest is the greatest.
        other.due.cmp(&self.due)
    }
}

impl PartialOrd for Delivery {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Delivery {
    fn eq(&self, other: &Self) -> bool {
        self.due == other.due
    }
}

impl Eq for Delivery {}

impl Webhooks {
    /// Starts the sender.
    ///
    /// # Errors
    /// [`WebhookError::Secret`] if hosts are allowed but the secret is too short; [`WebhookError::Thread`].
    pub fn start(policy: WebhookPolicy) -> Result<Self, WebhookError> {
        policy.check()?;
        let shared = Arc::new(Shared { policy, queue: Mutex::default(), changed: Condvar::new() });
        // Two, so that one slow receiver does not hold up the others at once.
        for n in 0..2 {
            let shared = shared.clone();
            std::thread::Builder::new().name(format!("webhook-{n}")).spawn(move || shared.work())?;
        }
        Ok(Self { _alive: Arc::new(CloseOnDrop(shared.clone())), shared })
    }

    /// Checks an address before a job is taken.
    ///
    /// # Errors
    /// [`WebhookError::Url`] or [`WebhookError::HostNotAllowed`].
    pub fn check(&self, url: &str) -> Result<(), WebhookError> {
        let plain = url.split('?').next().unwrap_or_default();
        if url.len() > MAX_URL || url.contains('#') {
            return Err(WebhookError::Url);
        }
        check_url(plain)?;
        let uri: http::Uri = url.parse().map_err(|_| WebhookError::Url)?;
        let authority = uri.authority().ok_or(WebhookError::Url)?;
        if authority.as_str().contains('@') {
            return Err(WebhookError::Url);
        }
        let own_port = if uri.scheme_str() == Some("https") { 443 } else { 80 };
        let name = authority.host().to_ascii_lowercase();
        let host = match authority.port_u16() {
            Some(port) if port != own_port => format!("{name}:{port}"),
            _ => name,
        };
        if self.shared.policy.hosts.contains(&host) { Ok(()) } else { Err(WebhookError::HostNotAllowed) }
    }

    /// Queues a delivery about `job`. Never blocks. `settled` is called once it has been taken or given up.
    ///
    /// # Errors
    /// As [`Webhooks::check`]; and [`WebhookError::Busy`].
    pub fn send(&self, job: &str, url: &str, body: String, settled: Settled) -> Result<(), WebhookError> {
        self.check(url)?;
        let mut queue = self.shared.lock();
        if queue.pending.len() >= MAX_PENDING {
            return Err(WebhookError::Busy);
        }
        queue.pending.push(Delivery {
            due: Instant::now(),
            id: uuid::Uuid::new_v4().to_string(),
            job: job.to_owned(),
            url: url.to_owned(),
            body,
            failures: 0,
            settled,
        });
        drop(queue);
        self.shared.changed.notify_one();
        Ok(())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // The queue is whole between any two statements that hold the lock.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let guard = Guarded::new(&self.policy);
        let agent = ureq::Agent::with_parts(agent_config(self.policy.timeout), DefaultConnector::default(), guard);
        while let Some(mut delivery) = self.next() {
            match self.deliver(&agent, &delivery) {
                Ok(()) => {
                    tracing::info!(job_id = delivery.job, attempts = delivery.failures + 1, "webhook delivered");
                    (delivery.settled)();
                }
                Err((reason, again)) => {
                    delivery.failures += 1;
                    if again && delivery.failures < self.policy.attempts {
                        tracing::debug!(job_id = delivery.job, reason, "webhook failed; trying again");
                        let wait = self.policy.retry.saturating_mul(1 << (2 * (delivery.failures - 1)).min(20));
                        delivery.due = Instant::now() + wait;
                        self.lock().pending.push(delivery);
                        self.changed.notify_one();
                    } else {
                        tracing::warn!(job_id = delivery.job, reason, attempts = delivery.failures, "webhook given up");
                        (delivery.settled)();
                    }
                }
            }
        }
    }

    /// Waits for the next delivery that is due; `None` once the sender is gone.
    fn next(&self) -> Option<Delivery> {
        let mut queue = self.lock();
        loop {
            if queue.closed {
                return None;
            }
            let now = Instant::now();
            let wait = match queue.pending.peek() {
                Some(first) if first.due <= now => return queue.pending.pop(),
                Some(first) => first.due - now,
                None => Duration::from_secs(3600),
            };
            queue = self.changed.wait_timeout(queue, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// On failure the reason, and whether another try makes sense.
    fn deliver(&self, agent: &ureq::Agent, delivery: &Delivery) -> Result<(), (String, bool)> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let answer = agent
            .post(&delivery.url)
            .header("content-type", "application/json")
            .header("x-sd-worker-delivery", &delivery.id)
            .header("x-sd-worker-signature", signature(&self.policy.secret, now, &delivery.body))
            .send(&delivery.body);
        match answer {
            Ok(answer) => match answer.status().as_u16() {
                200..300 => Ok(()),
                status => Err((format!("status {status}"), status >= 500 || status == 408 || status == 429)),
            },
            // Also when all its addresses are private ones; names move, so it is tried again.
            Err(ureq::Error::HostNotFound) => Err(("the host has no address that may be called".to_owned(), true)),
            Err(e) => Err((e.to_string(), true)),
        }
    }
}

fn signature(secret: &[u8], time: u64, body: &str) -> String {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret) else {
        // HMAC takes keys of every length.
        return String::new();
    };
    mac.update(format!("{time}.{body}").as_bytes());
    let hex: String = mac.finalize().into_bytes().iter().map(|b| format!("{b:02x}")).collect();
    format!("t={time},v1={hex}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::sync::mpsc::{Receiver, channel};

    const SECRET: &[u8] = b"0123456789abcdef";

    fn start(hosts: &[&str]) -> Webhooks {
        let hosts = hosts.iter().map(|h| (*h).to_owned()).collect();
        let policy = WebhookPolicy {
            hosts,
            private: false,
            secret: SECRET.to_vec(),
            attempts: 4,
            retry: Duration::from_millis(5),
            timeout: Duration::from_secs(5),
        };
        Webhooks::start(policy).unwrap()
    }

    /// A receiver that answers one request after another with the statuses given, and passes on what it got.
    fn receiver(statuses: &'static [u16]) -> (String, Receiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let (sender, got) = channel();
        std::thread::spawn(move || {
            for status in statuses {
                let (mut stream, _) = listener.accept().unwrap();
                let mut text = Vec::new();
                while !text.ends_with(b"}") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).unwrap();
                    text.push(byte[0]);
                }
                write!(stream, "HTTP/1.1 {status} x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").unwrap();
                sender.send(String::from_utf8(text).unwrap()).unwrap();
            }
        });
        (host, got)
    }

    fn header(request: &str, name: &str) -> String {
        let line = request.lines().find(|l| l.to_lowercase().starts_with(&format!("{name}:")));
        line.unwrap_or_else(|| panic!("no {name} in {request}")).split_once(':').unwrap().1.trim().to_owned()
    }

    #[test]
    fn a_delivery_is_signed_and_retried_until_it_is_taken() {
        let (host, got) = receiver(&[500, 429, 204, 200]);
        let webhooks = start(&[&host]);
        webhooks
            .send("job-1", &format!("http://{host}/done?x=1"), r#"{"job_id":"job-1"}"#.into(), Box::new(|| ()))
            .unwrap();
        let requests: Vec<String> = (0..3).map(|_| got.recv_timeout(Duration::from_secs(20)).unwrap()).collect();
        for request in &requests {
            assert!(request.starts_with("POST /done?x=1 HTTP/1.1"), "{request}");
            let sent = header(request, "x-sd-worker-signature");
            let time = sent.split([',', '=']).nth(1).unwrap().parse().unwrap();
            assert_eq!(sent, signature(SECRET, time, r#"{"job_id":"job-1"}"#));
            assert_eq!(header(request, "x-sd-worker-delivery"), header(&requests[0], "x-sd-worker-delivery"));
        }
        webhooks.send("job-2", &format!("http://{host}/"), "{}".into(), Box::new(|| ())).unwrap();
        let fourth = got.recv_timeout(Duration::from_secs(20)).unwrap();
        assert!(fourth.ends_with("{}"), "a delivery that was taken is not sent again: {fourth}");
    }

    #[test]
    fn a_refusal_is_final_and_attempts_are_bounded() {
        for (statuses, tries) in [(&[404, 200][..], 1), (&[302, 200], 1), (&[500, 500, 500, 500, 200], 4)] {
            let (host, got) = receiver(statuses);
            let webhooks = start(&[&host]);
            webhooks.send("a", &format!("http://{host}/a"), "{}".into(), Box::new(|| ())).unwrap();
            for _ in 0..tries {
                got.recv_timeout(Duration::from_secs(20)).unwrap();
            }
            webhooks.send("b", &format!("http://{host}/b"), "{}".into(), Box::new(|| ())).unwrap();
            assert!(got.recv_timeout(Duration::from_secs(20)).unwrap().starts_with("POST /b"), "{statuses:?}");
        }
    }

    #[test]
    fn only_allowed_hosts_are_called() {
        let webhooks = start(&["example.org", "10.0.0.5:9000", "[::1]:7"]);
        for (url, code) in [
            ("https://example.org/x?y=z", None),
            ("HTTP://Example.ORG:80/", None),
            ("http://10.0.0.5:9000", None),
            ("http://[::1]:7/", None),
            ("http://10.0.0.5/", Some("webhook_host_not_allowed")),
            ("http://example.org:8080/", Some("webhook_host_not_allowed")),
            ("http://example.org.evil/", Some("webhook_host_not_allowed")),
            ("http://169.254.169.254/", Some("webhook_host_not_allowed")),
            ("http://example.org@evil/", Some("invalid_webhook_url")),
            ("http://example.org/#x", Some("invalid_webhook_url")),
            ("file:///etc/passwd", Some("invalid_webhook_url")),
            ("//example.org/", Some("invalid_webhook_url")),
            ("", Some("invalid_webhook_url")),
        ] {
            assert_eq!(webhooks.check(url).err().map(|e| e.code()), code, "{url}");
        }
        assert_eq!(start(&[]).check("http://localhost/").unwrap_err().code(), "webhook_host_not_allowed");
        let weak = WebhookPolicy { hosts: vec!["x".into()], secret: b"short".to_vec(), ..WebhookPolicy::default() };
        assert_eq!(Webhooks::start(weak).unwrap_err().code(), "webhook_secret_missing");
    }

    #[test]
    fn a_name_that_leads_inside_is_not_called() {
        let (host, got) = receiver(&[200]);
        let port = host.rsplit_once(':').unwrap().1;
        let named = format!("localhost:{port}");
        let (settled, told) = channel();
        let webhooks = start(&[&named]);
        let done = Box::new(move || settled.send(()).unwrap());
        webhooks.send("a", &format!("http://{named}/"), "{}".into(), done).unwrap();
        told.recv_timeout(Duration::from_secs(20)).expect("given up");
        got.try_recv().unwrap_err();
        let policy = WebhookPolicy {
            hosts: vec![named.clone()],
            private: true,
            secret: SECRET.to_vec(),
            ..WebhookPolicy::default()
        };
        let open = Webhooks::start(policy).unwrap();
        open.send("a", &format!("http://{named}/"), "{}".into(), Box::new(|| ())).unwrap();
        got.recv_timeout(Duration::from_secs(20)).expect("allowed by the operator");
    }

    #[test]
    fn the_signature_is_the_documented_one() {
        // printf '1700000000.{}' | openssl dgst -sha256 -hmac 0123456789abcdef
        let expected = "e4f8e2ecae2295b2ddb2f0b5584c8275e226c0ebe9b3b819e70156bb67122e3e";
        assert_eq!(signature(SECRET, 1_700_000_000, "{}"), format!("t=1700000000,v1={expected}"));
    }
}
