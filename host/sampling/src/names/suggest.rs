//! Comparing names, and finding the ones that were meant.

/// Characters of a name that are looked at; no known name is longer.
const LONGEST: usize = 64;

/// A name without what does not matter: case, separators, a leading `k_`; `++` is `pp`.
pub(super) fn key(name: &str) -> String {
    let name: String = name.trim().chars().take(LONGEST).map(|c| c.to_ascii_lowercase()).collect();
    let name = name.strip_prefix("k_").unwrap_or(&name);
    name.chars().filter(|c| !matches!(c, ' ' | '_' | '-')).map(|c| if c == '+' { 'p' } else { c }).collect()
}

/// A name from outside, cut to a length that fits an error message.
pub(super) fn shorten(name: &str) -> String {
    let mut short: String = name.chars().take(LONGEST).collect();
    if short.len() < name.len() {
        short.push('…');
    }
    short
}

/// The three names whose spelling, or one of whose other spellings, is closest to `wanted`.
pub(super) fn closest<A: Iterator<Item = &'static str>>(
    wanted: &str,
    names: impl Iterator<Item = (&'static str, A)>,
) -> Vec<String> {
    let wanted = key(wanted);
    let mut ranked: Vec<(usize, &str)> = names
        .map(|(name, others)| {
            let distance = others.chain([name]).map(|other| distance(&wanted, &key(other))).min();
            (distance.unwrap_or(usize::MAX), name)
        })
        .collect();
    ranked.sort_by_key(|(distance, _)| *distance);
    ranked.into_iter().take(3).map(|(_, name)| name.to_owned()).collect()
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
