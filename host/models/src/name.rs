//! The names by which people ask for models: short names, folder names and hub ids.
//!
//! A request can only ever carry a [`ModelName`], whose grammar has no way to write a path: that, and the check of
//! canonical prefixes in [`crate::files`], is what keeps a request inside the models directories.

use crate::error::{ModelError, Result};
use std::{fmt, path::PathBuf, str::FromStr};

/// The longest name, revision included, in bytes.
pub const MAX_NAME_BYTES: usize = 200;
/// The longest part between slashes, in bytes (the hub's own bound).
const MAX_SEGMENT_BYTES: usize = 96;

/// A checked model name: `sd-v1-5`, `my-model.safetensors` or `org/name[@revision]`.
///
/// ```
/// use sd_models::ModelName;
/// assert!("stabilityai/sd-turbo@main".parse::<ModelName>().is_ok());
/// assert!("../etc/passwd".parse::<ModelName>().is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModelName(Kind);

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Kind {
    Local(String),
    Hub(HubId),
}

/// A repository on the hub.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HubId {
    org: String,
    name: String,
    revision: Option<String>,
}

impl HubId {
    /// `org/name`.
    #[must_use]
    pub fn repo(&self) -> String {
        format!("{}/{}", self.org, self.name)
    }

    /// The branch, tag or commit; `main` unless the name says otherwise.
    #[must_use]
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }
}

impl fmt::Display for HubId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.org, self.name)?;
        match &self.revision {
            Some(revision) => write!(f, "@{revision}"),
            None => Ok(()),
        }
    }
}

impl ModelName {
    /// Checks a name that came from outside.
    ///
    /// # Errors
    /// [`ModelError::InvalidName`] for everything that is not a short name, a folder name or a hub id.
    pub fn parse(text: &str) -> Result<Self> {
        if text.is_empty() {
            return refuse("it is empty");
        }
        if text.len() > MAX_NAME_BYTES {
            return refuse("it is longer than 200 bytes");
        }
        let (path, revision) = match text.split_once('@') {
            Some((path, revision)) => (path, Some(revision)),
            None => (text, None),
        };
        match (path.split_once('/'), revision) {
            (None, None) => {
                segment(path)?;
                Ok(Self(Kind::Local(path.to_owned())))
            }
            (None, Some(_)) => refuse("a revision needs a hub id in front of the `@`"),
            (Some((org, name)), revision) => {
                hub_segment(org)?;
                hub_segment(name)?;
                if let Some(revision) = revision {
                    revision.split('/').try_for_each(segment)?;
                }
                let (org, name) = (org.to_owned(), name.to_owned());
                Ok(Self(Kind::Hub(HubId { org, name, revision: revision.map(str::to_owned) })))
            }
        }
    }

    /// The folder, file or short name, if it is not a hub id.
    #[must_use]
    pub fn local(&self) -> Option<&str> {
        match &self.0 {
            Kind::Local(name) => Some(name),
            Kind::Hub(_) => None,
        }
    }

    /// The hub id: written out, or behind a short name.
    #[must_use]
    pub fn hub(&self) -> Option<HubId> {
        match &self.0 {
            Kind::Hub(id) => Some(id.clone()),
            Kind::Local(name) => crate::aliases::hub_id(name),
        }
    }
}

impl FromStr for ModelName {
    type Err = ModelError;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Local(name) => f.write_str(name),
            Kind::Hub(id) => id.fmt(f),
        }
    }
}

/// What an operator may write on the command line or in the config file: a name, or a path of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelRef {
    /// A name, looked up in the models directories and the hub's cache.
    Name(ModelName),
    /// A folder or a single file anywhere.
    Path(PathBuf),
}

impl ModelRef {
    /// Reads an operator's wish. Never use it for a request: a path may point anywhere.
    ///
    /// A text that starts like a path (`/`, `./`, `../`, `~/` is not expanded, a drive letter) or that exists as
    /// `dir/name` is a path; everything else must be a [`ModelName`].
    ///
    /// # Errors
    /// [`ModelError::InvalidName`] if it is neither.
    pub fn from_operator(text: &str) -> Result<Self> {
        let path = PathBuf::from(text);
        let looks_like_path = path.is_absolute() || text.starts_with("./") || text.starts_with("../");
        #[cfg(windows)]
        let looks_like_path = looks_like_path || text.contains('\\');
        if looks_like_path || (path.components().count() > 1 && path.exists()) {
            return Ok(Self::Path(path));
        }
        match ModelName::parse(text) {
            Ok(name) => Ok(Self::Name(name)),
            // A file of the working directory with an unusual name is still the operator's own wish.
            Err(_) if !text.is_empty() && path.exists() => Ok(Self::Path(path)),
            Err(error) => Err(error),
        }
    }
}

impl From<ModelName> for ModelRef {
    fn from(name: ModelName) -> Self {
        Self::Name(name)
    }
}

fn refuse<T>(reason: &'static str) -> Result<T> {
    Err(ModelError::InvalidName { reason })
}

/// Letters, digits, `.`, `-` and `_`; no way to spell a directory, a hidden file or a Windows device.
fn segment(text: &str) -> Result<()> {
    if text.is_empty() {
        return refuse("a part of it is empty");
    }
    if text.len() > MAX_SEGMENT_BYTES {
        return refuse("a part of it is longer than 96 bytes");
    }
    if !text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')) {
        return refuse("only letters, digits, `.`, `-` and `_` may stand in it");
    }
    if !text.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return refuse("a part of it does not start with a letter or digit");
    }
    if text.contains("..") || text.ends_with('.') {
        return refuse("dots may only stand between letters or digits");
    }
    let stem = text.split('.').next().unwrap_or_default().to_ascii_lowercase();
    let numbered = |prefix| stem.strip_prefix(prefix).is_some_and(|n: &str| n.len() == 1 && n != "0");
    if matches!(stem.as_str(), "con" | "prn" | "aux" | "nul") || numbered("com") || numbered("lpt") {
        return refuse("it is the name of a device");
    }
    Ok(())
}

/// As [`segment`], and without `--`: the cache joins organisation and name with it.
fn hub_segment(text: &str) -> Result<()> {
    segment(text)?;
    if text.contains("--") {
        return refuse("`--` may not stand in a hub id");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The local name, and repository and revision on the hub.
    type Parts<'a> = (Option<&'a str>, Option<(&'a str, &'a str)>);

    #[track_caller]
    fn check(text: &str, expect: Result<Parts<'_>, &str>) {
        match (ModelName::parse(text), expect) {
            (Ok(name), Ok((local, hub))) => {
                assert_eq!(name.local(), local, "{text:?}");
                let id = name.hub();
                let found = id.as_ref().map(|id| (id.repo(), id.revision().to_owned()));
                assert_eq!(found, hub.map(|(a, b)| (a.to_owned(), b.to_owned())), "{text:?}");
                assert_eq!(name.to_string(), text);
            }
            (Err(error), Err(code)) => assert_eq!(error.code(), code, "{text:?}"),
            (found, expect) => panic!("{text:?}: {found:?}, expected {expect:?}"),
        }
    }

    #[test]
    fn the_grammar() {
        check("emoji-sd", Ok((Some("emoji-sd"), None)));
        check("my_model.v2.safetensors", Ok((Some("my_model.v2.safetensors"), None)));
        check("sd-turbo", Ok((Some("sd-turbo"), Some(("stabilityai/sd-turbo", "main")))));
        check("a/b", Ok((None, Some(("a/b", "main")))));
        check("a/b@refs/pr/5", Ok((None, Some(("a/b", "refs/pr/5")))));
        check(
            "a/b@462165984030d82259a11f4367a4eed129e94a7b",
            Ok((None, Some(("a/b", "462165984030d82259a11f4367a4eed129e94a7b")))),
        );
        let long = "a".repeat(97);
        for bad in [
            "",
            ".",
            "..",
            "/",
            "\\",
            "@",
            "a@main",
            "/etc/passwd",
            "../x",
            "a/../b",
            "a/b/c",
            "a//b",
            "a/",
            "/a",
            "a/b@",
            "a/b@../x",
            "a/b@a//b",
            "a/b@/a",
            "a\\b",
            "C:\\x",
            "C:x",
            "a b",
            "a\0b",
            "a\nb",
            "~",
            "~/x",
            ".hidden",
            "-x",
            "a..b",
            "a.",
            "%2e%2e",
            "a%2fb",
            "．．/x",
            "‥/x",
            "a․b",
            "модель",
            "con",
            "NUL.safetensors",
            "com1",
            "lpt9.x",
            "a--b/c",
            "file:///x",
            "http://x/y",
            "a/b@c@d",
            "$(x)",
            "`x`",
            "a;b",
            "a*b",
            "a?b",
            &long,
        ] {
            check(bad, Err("invalid_model_name"));
        }
        check(&"a/b".repeat(30_000), Err("invalid_model_name"));
    }

    /// Joins hostile pieces in every order: whatever the parser lets through stays a plain name.
    #[test]
    fn five_thousand_traversals() {
        let pieces = ["..", "/", "\\", "\0", "%2e", "．", "a", "@", "~", ":", ".", "-", "_", "\u{202e}", "nul", "//"];
        let mut count = 0;
        for a in pieces {
            for b in pieces {
                for c in pieces {
                    for d in ["", "a"] {
                        let text = format!("{a}{b}{c}{d}");
                        count += 1;
                        let Ok(name) = ModelName::parse(&text) else { continue };
                        let path = PathBuf::from(name.to_string());
                        let plain = path.components().all(|c| matches!(c, std::path::Component::Normal(_)));
                        assert!(plain && !text.contains("..") && !text.contains(['\\', '\0', ':']), "{text:?}");
                    }
                }
            }
        }
        assert!(count >= 5_000);
    }

    #[test]
    fn only_the_operator_writes_paths() {
        assert_eq!(ModelRef::from_operator("/srv/x").unwrap(), ModelRef::Path("/srv/x".into()));
        assert_eq!(ModelRef::from_operator("./x").unwrap(), ModelRef::Path("./x".into()));
        assert!(matches!(ModelRef::from_operator("emoji-sd").unwrap(), ModelRef::Name(_)));
        assert!(matches!(ModelRef::from_operator("a/b").unwrap(), ModelRef::Name(_)));
        assert!(ModelRef::from_operator("").is_err());
    }
}
