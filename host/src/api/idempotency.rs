//! `Idempotency-Key`: a request that is sent again finds the job that it made; another request with the same key is
//! refused, as draft-ietf-httpapi-idempotency-key-header has it.
//!
//! A key is one owner's own and lives as long as its job. Requests with the same key are handled one after the other, so
//! that of any number sent at once the first makes the job, and no other is answered before it is taken.

use super::{
    App,
    http::{ApiError, Request},
    jobs::{self, Named},
    rooms::off_runtime,
};
use crate::{
    fault::{Fault, FaultCode},
    jobs::Idempotency,
};
use serde_json::{Map, Number, Value};
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::OwnedMutexGuard;

/// The header's name, as errors tell it.
const HEADER: &str = "Idempotency-Key";
/// Longest key.
const MAX_KEY: usize = 256;
/// Whole numbers up to this size are the same number with and without a decimal point.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// The keys whose requests are being taken.
#[derive(Debug, Default)]
pub(crate) struct Turns(Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>);

/// The right to make the job of a key. Others with the same key wait until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    pub(crate) idempotency: Idempotency,
    _alone: OwnedMutexGuard<()>,
}

/// What a key means for a request.
pub(crate) enum Claim {
    /// The request was sent before: its job.
    Known(Named),
    /// The request is a new one; with a key, nobody else's request of this key is taken meanwhile.
    New(Option<Turn>),
}

/// The request's key, if it has one.
pub(crate) fn key_of(request: &Request) -> Result<Option<String>, Fault> {
    let mut sent = request.headers.get_all(HEADER).iter();
    let Some(value) = sent.next() else { return Ok(None) };
    let key = value.to_str().ok().filter(|key| (1..=MAX_KEY).contains(&key.len()));
    match key {
        Some(key) if sent.next().is_none() => Ok(Some(key.to_owned())),
        Some(_) => Err(Fault::field(HEADER, "must be sent once")),
        None => Err(Fault::field(HEADER, format!("must have 1 to {MAX_KEY} characters, all of them ASCII"))),
    }
}

/// Finds the job that the key has made, or takes the key for a new one. `what` is asked for, with these fields.
pub(crate) async fn claim(
    app: &Arc<App>,
    caller: &str,
    key: Option<String>,
    what: &'static str,
    fields: &Map<String, Value>,
) -> Result<Claim, ApiError> {
    let Some(key) = key else { return Ok(Claim::New(None)) };
    let fields = fields.clone();
    // Pictures make it megabytes.
    let fingerprint = off_runtime(app, move |_| fingerprint(what, &fields)).await?;
    let turn = app.turns.of(caller, &key).await;
    let Some((named, first)) = jobs::known(app, caller, &key).await? else {
        return Ok(Claim::New(Some(Turn { idempotency: Idempotency { key, fingerprint }, _alone: turn })));
    };
    // One that was accepted before fingerprints were kept has none.
    if first.is_some_and(|first| first != fingerprint) {
        let message = "was sent before with another request; send that request, or a new key";
        return Err(Fault::new(FaultCode::IdempotencyMismatch, message).about(HEADER).into());
    }
    Ok(Claim::Known(named))
}

impl Turns {
    async fn of(&self, caller: &str, key: &str) -> OwnedMutexGuard<()> {
        let lock = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // Those that nobody holds or waits for are no longer needed.
            all.retain(|_, lock| Arc::strong_count(lock) > 1);
            // Neither an owner's name nor a header holds a line break.
            all.entry(format!("{caller}\n{key}")).or_default().clone()
        };
        lock.lock_owned().await
    }
}

/// SHA-256 of what is asked for.
fn fingerprint(what: &str, fields: &Map<String, Value>) -> [u8; 32] {
    let mut text = format!("{what}\n");
    object(&mut text, fields);
    Sha256::digest(text).into()
}

/// The canonical form: no blanks, members by name, a number of one value in one form.
fn canonical(text: &mut String, value: &Value) {
    match value {
        Value::Object(members) => object(text, members),
        Value::Array(items) => {
            text.push('[');
            for item in items {
                canonical(text, item);
                text.push(',');
            }
            text.push(']');
        }
        Value::Number(number) => match whole(number) {
            Some(whole) => text.push_str(&whole.to_string()),
            None => text.push_str(&number.to_string()),
        },
        plain => text.push_str(&plain.to_string()),
    }
}

fn object(text: &mut String, members: &Map<String, Value>) {
    let mut members: Vec<_> = members.iter().collect();
    members.sort_by_key(|(name, _)| *name);
    text.push('{');
    for (name, value) in members {
        text.push_str(&Value::from(name.as_str()).to_string());
        text.push(':');
        canonical(text, value);
        text.push(',');
    }
    text.push('}');
}

/// A number with a decimal point that is a whole one all the same.
fn whole(number: &Number) -> Option<i64> {
    number.as_f64().filter(|n| number.is_f64() && n.fract() == 0.0 && n.abs() <= EXACT).map(|n| n as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(text: &str) -> [u8; 32] {
        fingerprint("jobs", serde_json::from_str::<Value>(text).unwrap().as_object().unwrap())
    }

    #[test]
    fn the_bytes_do_not_matter_and_the_request_does() {
        let same = [
            r#"{"prompt":"a","steps":20,"extend":{"left":8,"top":0.5}}"#,
            "{ \"steps\": 20.0,\n \"extend\": {\"top\": 5e-1, \"left\": 8}, \"prompt\": \"\\u0061\" }",
        ];
        assert_eq!(print(same[0]), print(same[1]));
        let others = [
            r#"{"prompt":"a","steps":20,"extend":{"left":8,"top":0.25}}"#,
            r#"{"prompt":"a","steps":"20","extend":{"left":8,"top":0.5}}"#,
            r#"{"prompt":"a","steps":20,"extend":[8,0.5]}"#,
            r#"{"prompt":"b","steps":20,"extend":{"left":8,"top":0.5}}"#,
            r#"{"prompt":"a","steps":20,"extend":{"left":8,"top":0.5},"n":1}"#,
        ];
        for other in others {
            assert_ne!(print(same[0]), print(other), "{other}");
        }
        // What looks alike once it is put together is still told apart; large seeds are exact.
        assert_ne!(print(r#"{"a":"b\",\"c\":\"d"}"#), print(r#"{"a":"b","c":"d"}"#));
        assert_ne!(print(r#"{"seed":18446744073709551615}"#), print(r#"{"seed":18446744073709551614}"#));
        let fields = serde_json::from_str::<Value>(same[0]).unwrap();
        assert_ne!(fingerprint("edits", fields.as_object().unwrap()), print(same[0]));
    }

    #[tokio::test]
    async fn one_at_a_time_and_nothing_is_left() {
        let turns = Turns::default();
        let first = turns.of("a", "k").await;
        let (other_key, other_owner) = (turns.of("a", "l").await, turns.of("b", "k").await);
        let second = tokio::time::timeout(std::time::Duration::from_millis(20), turns.of("a", "k")).await;
        assert!(second.is_err(), "it waits for the first");
        drop((first, other_key, other_owner));
        let last = turns.of("a", "k").await;
        assert_eq!(turns.0.lock().unwrap().len(), 1);
        drop(last);
    }
}
