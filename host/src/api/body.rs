//! Reading bodies: bounded, and JSON only where JSON is asked for.

use super::http::{ApiError, Request};
use crate::{
    config::Limits,
    fault::{Fault, FaultCode},
    server::body::{self, BodyError, BodyRules, Share},
};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::fmt;

impl From<BodyError> for ApiError {
    fn from(error: BodyError) -> Self {
        let code = match &error {
            BodyError::TooLarge { .. } => FaultCode::BodyTooLarge,
            BodyError::TooSlow { .. } => FaultCode::RequestTimeout,
            BodyError::WrongType { .. } | BodyError::Encoded => FaultCode::UnsupportedMediaType,
            BodyError::Busy => FaultCode::NotReady,
            BodyError::Broken => FaultCode::InvalidJson,
        };
        Fault::new(code, error.to_string()).into()
    }
}

/// What a request has sent.
pub(crate) struct Sent {
    /// Its fields.
    pub(crate) object: Map<String, Value>,
    /// Its share of the memory for all bodies, to be kept while the fields are.
    pub(crate) share: Share,
}

/// Reads a JSON object within the worker's limits.
pub(crate) async fn json_object(request: Request, limits: &Limits) -> Result<Sent, ApiError> {
    let bytes = body::read(&request.headers, request.body, &BodyRules::json(limits.body_bytes, &limits.budget)).await?;
    match serde_json::from_slice(&bytes).map(|Unique(value)| value) {
        Ok(Value::Object(object)) => Ok(Sent { object, share: bytes.into_share() }),
        Ok(_) => Err(Fault::new(FaultCode::InvalidJson, "the body must be a JSON object").into()),
        Err(e) => {
            // The library's text may quote the body; line and column suffice.
            let what = if e.is_data() { "an object names a member twice" } else { "the body is not JSON" };
            let text = format!("{what}: line {}, column {}", e.line(), e.column());
            Err(Fault::new(FaultCode::InvalidJson, text).into())
        }
    }
}

/// JSON in which no object names a member twice: which of the two is meant would be anybody's guess.
struct Unique(Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(UniqueMembers).map(Unique)
    }
}

struct UniqueMembers;

impl<'de> Visitor<'de> for UniqueMembers {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Unique(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some((name, Unique(value))) = members.next_entry::<String, Unique>()? {
            if object.insert(name, value).is_some() {
                return Err(A::Error::custom("a member stands twice"));
            }
        }
        Ok(object.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_value_is_read_as_it_is_and_nothing_twice() {
        let text = r#"{"a":[1,-2,2.5,18446744073709551615,null,true,"x\u00e9",{}],"b":{"a":1},"":[[]]}"#;
        let Unique(value) = serde_json::from_str(text).unwrap();
        assert_eq!(value, serde_json::from_str::<Value>(text).unwrap());
        assert_eq!(value["a"][3], json!(u64::MAX));
        for twice in [r#"{"a":1,"a":1}"#, r#"{"a":1,"\u0061":2}"#, r#"[{"b":{"c":[{"d":1,"d":2}]}}]"#] {
            assert!(serde_json::from_str::<Unique>(twice).is_err_and(|e| e.is_data()), "{twice}");
        }
        for broken in [r#"{"a":1,}"#, "{", "", "[1e999]", &"[".repeat(500)] {
            assert!(serde_json::from_str::<Unique>(broken).is_err_and(|e| !e.is_data()), "{broken}");
        }
    }
}
