//! The fields inside a job's objects: what `extend` holds.

use super::fields::{Field, field, int};

/// Most pixels by which a picture grows on one side.
const MAX_GROWTH: i128 = 2048;

/// `extend`: how far a picture grows on each side.
pub(super) const EXTEND_FIELDS: &[Field] = &[
    field("left", &[], int(0, MAX_GROWTH), "0", "Pixels to the left."),
    field("right", &[], int(0, MAX_GROWTH), "0", "Pixels to the right."),
    field("top", &[], int(0, MAX_GROWTH), "0", "Pixels upwards."),
    field("bottom", &[], int(0, MAX_GROWTH), "0", "Pixels downwards."),
];
