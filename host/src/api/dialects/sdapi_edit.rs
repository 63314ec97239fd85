//! A1111's words for what goes beyond one plain run: the variation's seed and the seed's own size.

use super::carry;
use serde_json::{Map, Value};

/// Adds the native fields that say the same.
pub(super) fn native(given: &Map<String, Value>, fields: &mut Map<String, Value>) {
    for (theirs, ours) in [
        ("subseed", "variation_seed"),
        ("subseed_strength", "variation_strength"),
        ("seed_resize_from_w", "seed_resize_from_w"),
        ("seed_resize_from_h", "seed_resize_from_h"),
    ] {
        carry(given, theirs, fields, ours);
    }
}
