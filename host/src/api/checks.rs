//! What a field of a request may hold: the check of a request against a table, in words, and as a JSON schema.

use crate::fault::{Fault, FaultCode};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// What a field may hold.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    /// A whole number in a range, a multiple of a step.
    Int { min: i128, max: i128, step: i128 },
    /// A number in a range.
    Float { min: f64, max: f64 },
    /// True or false.
    Bool,
    /// A text of at most so many bytes.
    Text { max: usize },
    /// One of a few words.
    Word(&'static [&'static str]),
    /// A picture as base64 or data URL.
    Image,
    /// An object with fields of its own.
    Group(&'static [Field]),
    /// A list of numbers: how many, and their range.
    Numbers { len: (usize, usize), min: f64, max: f64 },
}

/// One field of a job request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field {
    /// Its name.
    pub(crate) name: &'static str,
    /// Other names that clients send for the same thing.
    pub(crate) aliases: &'static [&'static str],
    /// What it may hold.
    pub(crate) kind: Kind,
    /// The default, in words for people.
    pub(crate) default: &'static str,
    /// What it means.
    pub(crate) doc: &'static str,
}

pub(crate) const fn field(
    name: &'static str,
    aliases: &'static [&'static str],
    kind: Kind,
    default: &'static str,
    doc: &'static str,
) -> Field {
    Field { name, aliases, kind, default, doc }
}

pub(crate) const fn int(min: i128, max: i128) -> Kind {
    Kind::Int { min, max, step: 1 }
}

/// Fields that are read elsewhere or may be sent but carry nothing here.
const IGNORED: &[&str] = &["user", "stream", "response_format"];

/// A checked value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Checked {
    Int(i128),
    Float(f64),
    Bool(bool),
    Text(String),
    Group(Values),
    Numbers(Vec<f64>),
}

/// The checked values of a request by field name.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Values(BTreeMap<&'static str, Checked>);

impl Values {
    pub(crate) fn int(&self, name: &str) -> Option<i128> {
        match self.0.get(name) {
            Some(Checked::Int(v)) => Some(*v),
            _ => None,
        }
    }
    pub(crate) fn u32(&self, name: &str) -> Option<u32> {
        self.int(name).and_then(|v| u32::try_from(v).ok())
    }
    /// Whether the field was sent.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }
    pub(crate) fn f64(&self, name: &str) -> Option<f64> {
        match self.0.get(name) {
            Some(Checked::Float(v)) => Some(*v),
            _ => None,
        }
    }
    pub(crate) fn f32(&self, name: &str) -> Option<f32> {
        self.f64(name).map(|v| v as f32)
    }
    /// The names of the fields that were sent.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.0.keys().copied()
    }
    pub(crate) fn group(&self, name: &str) -> Option<&Values> {
        match self.0.get(name) {
            Some(Checked::Group(v)) => Some(v),
            _ => None,
        }
    }
    pub(crate) fn numbers(&self, name: &str) -> Option<&[f64]> {
        match self.0.get(name) {
            Some(Checked::Numbers(v)) => Some(v),
            _ => None,
        }
    }
    pub(crate) fn bool(&self, name: &str) -> Option<bool> {
        match self.0.get(name) {
            Some(Checked::Bool(v)) => Some(*v),
            _ => None,
        }
    }
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        match self.0.get(name) {
            Some(Checked::Text(v)) => Some(v),
            _ => None,
        }
    }
}

/// Checks a request's fields against the table. All faults are told, not only the first.
pub(crate) fn check(table: &'static [Field], body: &Map<String, Value>) -> Result<Values, Vec<Fault>> {
    let mut values = Values::default();
    let mut faults = Vec::new();
    for (key, value) in body {
        if value.is_null() {
            continue;
        }
        let Some(field) = table.iter().find(|f| f.name == key || f.aliases.contains(&key.as_str())) else {
            if IGNORED.contains(&key.as_str()) {
                continue;
            }
            if key == "loras" && value.as_array().is_some_and(Vec::is_empty) {
                continue;
            }
            let shown: String = key.chars().filter(|c| !c.is_control()).take(40).collect();
            faults.push(Fault::field(&shown, "unknown field; see /openapi.json for the fields of a job"));
            continue;
        };
        // The field's own name wins over an alias.
        if values.0.contains_key(field.name) && key != field.name {
            continue;
        }
        if let (Kind::Group(table), Some(inner)) = (field.kind, value.as_object()) {
            match check(table, inner) {
                Ok(group) => {
                    values.0.insert(field.name, Checked::Group(group));
                }
                Err(more) => faults.extend(more.into_iter().map(|fault| {
                    let inside = fault.field.clone().unwrap_or_default();
                    fault.about(&format!("{key}.{inside}"))
                })),
            }
            continue;
        }
        match field.kind.check(value) {
            Ok(checked) => {
                values.0.insert(field.name, checked);
            }
            Err(message) => faults.push(Fault { code: FaultCode::InvalidRequest, message, field: Some(key.clone()) }),
        }
    }
    if faults.is_empty() { Ok(values) } else { Err(faults) }
}

impl Kind {
    /// A value of this kind, or what it must be.
    pub(crate) fn check(self, value: &Value) -> Result<Checked, String> {
        let wrong = || format!("must be {}", self.describe());
        match self {
            Kind::Int { min, max, step } => {
                let number = value
                    .as_i64()
                    .map(i128::from)
                    .or_else(|| value.as_u64().map(i128::from))
                    .or_else(|| value.as_f64().filter(|f| f.fract() == 0.0 && f.abs() < 9e15).map(|f| f as i128))
                    .ok_or_else(wrong)?;
                if (min..=max).contains(&number) && number % step == 0 {
                    Ok(Checked::Int(number))
                } else {
                    Err(wrong())
                }
            }
            Kind::Float { min, max } => {
                value.as_f64().filter(|f| (min..=max).contains(f)).map(Checked::Float).ok_or_else(wrong)
            }
            Kind::Bool => value.as_bool().map(Checked::Bool).ok_or_else(wrong),
            Kind::Text { max } => match value.as_str() {
                Some(text) if text.contains('\0') => Err("must not hold the character NUL".to_owned()),
                Some(text) if text.len() <= max => Ok(Checked::Text(text.to_owned())),
                _ => Err(wrong()),
            },
            Kind::Word(words) => match value.as_str() {
                Some(text) if words.contains(&text) => Ok(Checked::Text(text.to_owned())),
                _ => Err(wrong()),
            },
            // The picture itself is checked when it is decoded.
            Kind::Image => value.as_str().map(|s| Checked::Text(s.to_owned())).ok_or_else(wrong),
            // Objects are taken apart by the caller: anything else is wrong.
            Kind::Group(_) => Err(wrong()),
            Kind::Numbers { len, min, max } => {
                let list = value.as_array().filter(|l| (len.0..=len.1).contains(&l.len())).ok_or_else(wrong)?;
                let number = |v: &Value| v.as_f64().filter(|f| (min..=max).contains(f));
                list.iter().map(number).collect::<Option<_>>().map(Checked::Numbers).ok_or_else(wrong)
            }
        }
    }

    /// What is allowed, in words.
    pub(crate) fn describe(self) -> String {
        match self {
            Kind::Int { min, max, step: 1 } => format!("a whole number from {min} to {max}"),
            Kind::Int { min, max, step } => format!("a multiple of {step} from {min} to {max}"),
            Kind::Float { min, max } => format!("a number from {min} to {max}"),
            Kind::Bool => "true or false".to_owned(),
            Kind::Text { max } => format!("a text of at most {max} bytes"),
            Kind::Word(words) => format!("one of {}", words.join(", ")),
            Kind::Image => "a PNG, JPEG or WebP picture as base64 or as a data URL".to_owned(),
            Kind::Group(table) => {
                format!("an object with {}", table.iter().map(|f| f.name).collect::<Vec<_>>().join(", "))
            }
            Kind::Numbers { len: (a, b), min, max } if a == b => format!("a list of {a} numbers from {min} to {max}"),
            Kind::Numbers { len: (a, b), min, max } => format!("a list of {a} to {b} numbers from {min} to {max}"),
        }
    }

    /// Whether a form's text is meant as text: not as a number or a truth value.
    pub(crate) fn is_text(self) -> bool {
        matches!(self, Kind::Text { .. } | Kind::Word(_) | Kind::Image)
    }

    /// The JSON schema of what is allowed.
    pub(crate) fn schema(self) -> Value {
        match self {
            Kind::Int { min, max, step } => {
                let mut schema =
                    json!({ "type": "integer", "minimum": min as i64, "maximum": u64::try_from(max).unwrap_or(0) });
                if step != 1 {
                    schema["multipleOf"] = json!(step as i64);
                }
                schema
            }
            Kind::Float { min, max } => json!({ "type": "number", "minimum": min, "maximum": max }),
            Kind::Bool => json!({ "type": "boolean" }),
            Kind::Text { max } => json!({ "type": "string", "maxLength": max }),
            Kind::Word(words) => json!({ "type": "string", "enum": words }),
            Kind::Image => json!({ "type": "string", "contentEncoding": "base64" }),
            Kind::Group(table) => {
                json!({ "type": "object", "properties": properties(table), "additionalProperties": false })
            }
            Kind::Numbers { len, min, max } => json!({
                "type": "array", "minItems": len.0, "maxItems": len.1,
                "items": { "type": "number", "minimum": min, "maximum": max },
            }),
        }
    }
}

/// The JSON schemas of a table's fields, aliases included.
pub(crate) fn properties(table: &[Field]) -> Map<String, Value> {
    let mut properties = Map::new();
    for field in table {
        let mut schema = field.kind.schema();
        let aliases =
            if field.aliases.is_empty() { String::new() } else { format!(" Also: {}.", field.aliases.join(", ")) };
        schema["description"] = format!("{} Default: {}.{aliases}", field.doc, field.default).into();
        properties.insert(field.name.to_owned(), schema.clone());
        for alias in field.aliases {
            schema["description"] = format!("The same as `{}`.", field.name).into();
            properties.insert((*alias).to_owned(), schema.clone());
        }
    }
    properties
}
