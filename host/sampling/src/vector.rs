//! Arithmetic on latents: weighted sums, rounded to float32 once.

/// Σ weight · vector, elementwise. All vectors have the length of the first.
pub(crate) fn sum<const N: usize>(terms: [(f64, &[f32]); N]) -> Vec<f32> {
    let len = terms.first().map_or(0, |(_, v)| v.len());
    (0..len)
        .map(|i| {
            terms.iter().map(|(weight, v)| weight * f64::from(v.get(i).copied().unwrap_or(0.0))).sum::<f64>() as f32
        })
        .collect()
}

/// `x += weight · v`.
pub(crate) fn add(x: &mut [f32], weight: f64, v: &[f32]) {
    for (x, v) in x.iter_mut().zip(v) {
        *x = (f64::from(*x) + weight * f64::from(*v)) as f32;
    }
}

/// `weight · v`.
pub(crate) fn scale(weight: f64, v: &[f32]) -> Vec<f32> {
    v.iter().map(|v| (weight * f64::from(*v)) as f32).collect()
}
