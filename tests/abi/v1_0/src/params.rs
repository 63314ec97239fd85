//! Key–value tails: how structs grow without a new layout.

use abi_stable::{StableAbi, std_types::RString};

/// One key and its value, both text. Unknown keys are ignored by whoever reads them.
#[repr(C)]
#[derive(StableAbi, Debug, Clone, PartialEq, Eq)]
pub struct Param {
    /// The key: lower case with underscores.
    pub key: RString,
    /// The value as text; numbers in Rust's `Display` form, booleans as `1` and `0`.
    pub value: RString,
}

impl Param {
    /// A pair from anything that prints.
    pub fn new(key: &str, value: impl std::fmt::Display) -> Self {
        Param { key: key.into(), value: value.to_string().into() }
    }
}

/// The value of the last pair with this key.
pub fn find<'a>(params: &'a [Param], key: &str) -> Option<&'a str> {
    params.iter().rev().find(|p| p.key.as_str() == key).map(|p| p.value.as_str())
}
