//! Request bodies, bounded while they are read: by size, by time, by type, and by the memory of all of them together.

use std::error::Error as StdError;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use http::{HeaderMap, header};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::connection::RequestBodyError;

/// How long a body may take before its rate counts.
const GRACE: Duration = Duration::from_secs(10);
/// Bytes a second that a body must bring on the whole: slower clients hold a connection for nothing.
const MIN_RATE: u64 = 1024;

/// What a route accepts as a body.
#[derive(Clone, Debug)]
pub struct BodyRules {
    /// The most bytes.
    pub max_bytes: usize,
    /// How long the whole body may take to arrive. One that brings less than 1 KiB/s is given up after 10 s already.
    pub deadline: Duration,
    /// The media types taken, in lower case without parameters. Empty: any, or none named.
    ///
    /// Asking for `application/json` is also a guard against cross-site requests: a web page cannot send it to another host without asking first.
    pub types: &'static [&'static str],
    /// The memory that all bodies read at the same time share.
    pub budget: BodyBudget,
}

impl BodyRules {
    /// JSON of at most `max_bytes`, within a minute.
    #[must_use]
    pub fn json(max_bytes: usize, budget: &BodyBudget) -> Self {
        Self { max_bytes, deadline: Duration::from_secs(60), types: &["application/json"], budget: budget.clone() }
    }
}

/// Memory for bodies: a hundred clients may each send the largest body allowed, but not all at once.
#[derive(Clone, Debug)]
pub struct BodyBudget {
    kib: Arc<Semaphore>,
}

impl BodyBudget {
    /// A budget of `bytes` for all bodies together, rounded down to KiB.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        Self { kib: Arc::new(Semaphore::new((bytes / 1024).min(Semaphore::MAX_PERMITS))) }
    }

    /// Bytes not taken now.
    #[must_use]
    pub fn free_bytes(&self) -> usize {
        self.kib.available_permits() * 1024
    }
}

/// Why a body was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Larger than the route allows.
    #[error("the body is larger than {limit} bytes, the most this address takes")]
    TooLarge {
        /// The route's limit in bytes.
        limit: usize,
    },
    /// It did not arrive in time.
    #[error("the body did not arrive in time ({seconds} s)")]
    TooSlow {
        /// The deadline that passed.
        seconds: u64,
    },
    /// Not a media type that the route takes.
    #[error("the header Content-Type must be {}", .expected.join(" or "))]
    WrongType {
        /// What the route takes.
        expected: &'static [&'static str],
    },
    /// Compressed bodies are not taken: their true size is known only after the work is done.
    #[error("the header Content-Encoding is not supported; send the body as it is")]
    Encoded,
    /// All bodies together would take too much memory.
    #[error("too many large requests at once; try again in a moment")]
    Busy,
    /// The connection broke, or the framing is wrong.
    #[error("the body ended before its end")]
    Broken,
}

/// A whole body in memory. Its share of the [`BodyBudget`] is given back when it is dropped.
#[derive(Debug)]
pub struct ReadBody {
    bytes: Bytes,
    _share: Option<OwnedSemaphorePermit>,
}

impl ReadBody {
    /// The bytes without a copy. Their share of the budget stays with the body.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        self.bytes.clone()
    }

    /// The share alone, for what was made of the bytes.
    #[must_use]
    pub fn into_share(self) -> Share {
        Share(self._share)
    }
}

/// A body's share of the [`BodyBudget`], given back when it is dropped.
#[derive(Debug)]
pub struct Share(#[allow(dead_code, reason = "held, not read")] Option<OwnedSemaphorePermit>);

impl Deref for ReadBody {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Reads a body by `rules`, refusing it as early as its headers allow.
///
/// # Errors
/// See [`BodyError`].
pub async fn read<D: Buf, E: StdError + 'static>(
    headers: &HeaderMap,
    stream: impl Stream<Item = Result<D, E>>,
    rules: &BodyRules,
) -> Result<ReadBody, BodyError> {
    check_type(headers, rules.types)?;
    let too_large = BodyError::TooLarge { limit: rules.max_bytes };
    // hyper has already refused a length that is not a number, or two that differ.
    let declared = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|n| n > rules.max_bytes as u64) {
        return Err(too_large);
    }
    let start = Instant::now();
    let mut share = None;
    // Not reserved from the declared length: a client pays with its own bytes for the memory it takes.
    let mut bytes = BytesMut::new();
    let mut stream = std::pin::pin!(stream);
    loop {
        let allowed = rules.deadline.min(GRACE + Duration::from_millis(bytes.len() as u64 * 1000 / MIN_RATE));
        let next = tokio::time::timeout_at(start + allowed, stream.next()).await;
        let mut piece = match next {
            Err(_) => return Err(BodyError::TooSlow { seconds: allowed.as_secs() }),
            Ok(None) => return Ok(ReadBody { bytes: bytes.freeze(), _share: share }),
            Ok(Some(Err(e))) => return Err(classify(&e)),
            Ok(Some(Ok(piece))) => piece,
        };
        while piece.has_remaining() {
            let chunk = piece.chunk();
            if chunk.len() > rules.max_bytes - bytes.len() {
                return Err(too_large);
            }
            grow(&mut share, &rules.budget, bytes.len() + chunk.len())?;
            bytes.extend_from_slice(chunk);
            let taken = chunk.len();
            piece.advance(taken);
        }
    }
}

/// Makes the body's share of the budget cover `needed` bytes.
fn grow(share: &mut Option<OwnedSemaphorePermit>, budget: &BodyBudget, needed: usize) -> Result<(), BodyError> {
    let held = share.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
    let missing = needed.div_ceil(1024).saturating_sub(held);
    if missing == 0 {
        return Ok(());
    }
    let count = u32::try_from(missing).map_err(|_| BodyError::Busy)?;
    let more = budget.kib.clone().try_acquire_many_owned(count).map_err(|_| BodyError::Busy)?;
    match share {
        Some(permit) => permit.merge(more),
        None => *share = Some(more),
    }
    Ok(())
}

fn check_type(headers: &HeaderMap, types: &'static [&'static str]) -> Result<(), BodyError> {
    if headers.get(header::CONTENT_ENCODING).is_some_and(|v| !v.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(BodyError::Encoded);
    }
    if types.is_empty() {
        return Ok(());
    }
    let essence = headers
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .map(|v| v.split(';').next().unwrap_or_default().trim());
    match essence {
        Some(e) if types.iter().any(|t| e.eq_ignore_ascii_case(t)) => Ok(()),
        _ => Err(BodyError::WrongType { expected: types }),
    }
}

/// Finds our own timeout under the layers that warp puts around it.
fn classify(error: &(dyn StdError + 'static)) -> BodyError {
    let mut next = Some(error);
    while let Some(e) = next {
        if let Some(RequestBodyError::Idle(pause)) = e.downcast_ref() {
            return BodyError::TooSlow { seconds: pause.as_secs() };
        }
        next = e.source();
    }
    BodyError::Broken
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;
    use std::io;

    fn rules(max_bytes: usize, budget: usize) -> BodyRules {
        BodyRules { deadline: Duration::from_secs(5), ..BodyRules::json(max_bytes, &BodyBudget::new(budget)) }
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(k, v)| (k.parse().unwrap(), v.parse().unwrap())).collect()
    }

    async fn check(pairs: &[(&'static str, &str)], pieces: &[&'static [u8]], expected: Result<&[u8], BodyError>) {
        let stream = stream::iter(pieces.iter().map(|p| Ok::<_, io::Error>(Bytes::from_static(p))));
        let got = read(&headers(pairs), stream, &rules(10, 1 << 20)).await;
        assert_eq!(got.as_deref().map_err(Clone::clone), expected, "{pairs:?} {pieces:?}");
    }

    #[tokio::test]
    async fn a_body_is_taken_up_to_its_limit() {
        const JSON: (&str, &str) = ("content-type", "application/json");
        let large = BodyError::TooLarge { limit: 10 };
        let wrong = BodyError::WrongType { expected: &["application/json"] };
        check(&[JSON], &[], Ok(b"")).await;
        check(&[JSON], &[b"01234", b"", b"56789"], Ok(b"0123456789")).await;
        check(&[JSON], &[b"01234", b"567890"], Err(large.clone())).await;
        check(&[JSON, ("content-length", "11")], &[], Err(large)).await;
        check(&[JSON, ("content-length", "10")], &[b"0"], Ok(b"0")).await;
        check(&[("content-type", "Application/JSON; charset=utf-8")], &[b"0"], Ok(b"0")).await;
        check(&[("content-type", "text/plain")], &[b"0"], Err(wrong.clone())).await;
        check(&[("content-type", "application/jsonx")], &[b"0"], Err(wrong.clone())).await;
        check(&[], &[b"0"], Err(wrong)).await;
        check(&[JSON, ("content-encoding", "gzip")], &[b"0"], Err(BodyError::Encoded)).await;
        check(&[JSON, ("content-encoding", "identity")], &[b"0"], Ok(b"0")).await;
    }

    #[tokio::test]
    async fn bodies_share_a_budget_and_give_it_back() {
        let rules = rules(4096, 4096);
        let json = headers(&[("content-type", "application/json")]);
        let body = |n: usize| stream::iter([Ok::<_, io::Error>(Bytes::from(vec![b'x'; n]))]);
        let first = read(&json, body(3000), &rules).await.unwrap();
        assert_eq!(rules.budget.free_bytes(), 1024);
        assert_eq!(read(&json, body(2000), &rules).await.unwrap_err(), BodyError::Busy);
        assert_eq!(rules.budget.free_bytes(), 1024, "a refused body keeps nothing");
        drop(first);
        assert_eq!(rules.budget.free_bytes(), 4096);
        read(&json, body(4096), &rules).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_dribbles_is_given_up() {
        let check = async |piece: &'static [u8], deadline: u64, seconds: u64| {
            let dribble = stream::unfold((), |()| async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                Some((Ok::<_, io::Error>(Bytes::from_static(piece)), ()))
            });
            let json = headers(&[("content-type", "application/json")]);
            let rules = BodyRules { deadline: Duration::from_secs(deadline), ..rules(1 << 20, 1 << 22) };
            let start = Instant::now();
            let error = read(&json, dribble, &rules).await.unwrap_err();
            assert_eq!((error, start.elapsed().as_secs()), (BodyError::TooSlow { seconds }, seconds));
        };
        check(b"x", 5, 5).await;
        check(b"x", 60, 10).await;
        // 512 bytes/s: 10 s + bytes / 1024 is passed after 20 s.
        check(&[b' '; 512], 60, 19).await;
        check(&[b' '; 2048], 60, 60).await;
    }
}
