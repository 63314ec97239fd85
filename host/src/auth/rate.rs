//! How often one client may ask: a token bucket for each, in a map that cannot grow without bound.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Clients remembered at once. Beyond it the one heard of longest ago is forgotten, and starts with a full bucket if it returns.
const MAX_CLIENTS: usize = 8192;

/// How much one client may ask for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateLimit {
    /// Requests a minute in the long run. Positive.
    pub per_minute: f64,
    /// Requests at once after a pause. At least 1.
    pub burst: f64,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    level: f64,
    seen: Instant,
}

/// One bucket for each key.
#[derive(Debug)]
pub struct RateLimiter<K> {
    limit: RateLimit,
    buckets: Mutex<HashMap<K, Bucket>>,
}

impl<K: Hash + Eq + Clone> RateLimiter<K> {
    /// A limiter with full buckets.
    #[must_use]
    pub fn new(limit: RateLimit) -> Self {
        let limit = RateLimit { per_minute: limit.per_minute.max(1e-3), burst: limit.burst.max(1.0) };
        Self { limit, buckets: Mutex::default() }
    }

    /// Takes one request from the bucket of `key`.
    ///
    /// # Errors
    /// The time after which one will be there again.
    pub fn take(&self, key: &K) -> Result<(), Duration> {
        self.take_at(key, Instant::now())
    }

    fn take_at(&self, key: &K, now: Instant) -> Result<(), Duration> {
        let per_second = self.limit.per_minute / 60.0;
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if !buckets.contains_key(key) && buckets.len() >= MAX_CLIENTS {
            self.make_room(&mut buckets, now);
        }
        let bucket = buckets.entry(key.clone()).or_insert(Bucket { level: self.limit.burst, seen: now });
        let gained = now.saturating_duration_since(bucket.seen).as_secs_f64() * per_second;
        bucket.level = (bucket.level + gained).min(self.limit.burst);
        bucket.seen = now;
        if bucket.level >= 1.0 {
            bucket.level -= 1.0;
            Ok(())
        } else {
            Err(Duration::from_secs_f64((1.0 - bucket.level) / per_second))
        }
    }

    /// Forgets the buckets that are full again, which changes nothing; if there is none, the oldest.
    fn make_room(&self, buckets: &mut HashMap<K, Bucket>, now: Instant) {
        let per_second = self.limit.per_minute / 60.0;
        let full =
            |b: &Bucket| b.level + now.saturating_duration_since(b.seen).as_secs_f64() * per_second >= self.limit.burst;
        buckets.retain(|_, b| !full(b));
        if buckets.len() >= MAX_CLIENTS
            && let Some(oldest) = buckets.iter().min_by_key(|(_, b)| b.seen).map(|(k, _)| k.clone())
        {
            buckets.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_empties_and_fills() {
        let limiter = RateLimiter::new(RateLimit { per_minute: 60.0, burst: 2.0 });
        let start = Instant::now();
        let take = |key: &'static str, ms: u64| {
            limiter.take_at(&key, start + Duration::from_millis(ms)).map_err(|d| d.as_millis())
        };
        assert_eq!([take("a", 0), take("a", 0), take("a", 0)], [Ok(()), Ok(()), Err(1000)]);
        assert_eq!(take("b", 0), Ok(()), "others are not concerned");
        assert_eq!(take("a", 750), Err(250));
        assert_eq!([take("a", 1000), take("a", 1000)], [Ok(()), Err(1000)]);
        assert_eq!([take("a", 60_000), take("a", 60_000), take("a", 60_000)], [Ok(()), Ok(()), Err(1000)]);
        assert_eq!(take("a", 0), Err(1000), "a clock that steps back gives nothing");
    }

    #[test]
    fn the_map_is_bounded() {
        let limiter = RateLimiter::new(RateLimit { per_minute: 1.0, burst: 1.0 });
        let start = Instant::now();
        for key in 0..MAX_CLIENTS as u64 + 10 {
            limiter.take_at(&key, start + Duration::from_micros(key)).unwrap();
        }
        let now = start + Duration::from_secs(1);
        assert_eq!(limiter.buckets.lock().unwrap().len(), MAX_CLIENTS);
        limiter.take_at(&(MAX_CLIENTS as u64), now).unwrap_err();
        limiter.take_at(&0, now).unwrap();
        limiter.take_at(&u64::MAX, start + Duration::from_secs(600)).unwrap();
        assert_eq!(limiter.buckets.lock().unwrap().len(), 1, "full buckets are forgotten first");
    }
}
