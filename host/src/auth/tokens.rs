//! The tokens: where they come from, how they are kept, and how one is recognised.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, header};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use super::{AuthError, Refusal};

const MAX_FILE_BYTES: u64 = 256 * 1024;
const MAX_TOKENS: usize = 1024;
const MAX_HEADER_BYTES: usize = 8 * 1024;
const MIN_TOKEN: usize = 16;
const MAX_TOKEN: usize = 512;

/// Where tokens are read from. Both may be given.
#[derive(Clone, Default)]
pub struct TokenSources {
    /// One token a line, as `name:token` or bare; empty lines and lines that start with `#` are skipped. Read again at each reload.
    pub file: Option<PathBuf>,
    /// The same, separated by commas: the text of an environment variable.
    pub inline: Option<String>,
}

impl fmt::Debug for TokenSources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenSources")
            .field("file", &self.file)
            .field("inline", &self.inline.as_ref().map(|_| "[hidden]"))
            .finish()
    }
}

#[derive(Clone)]
struct Token {
    name: Arc<str>,
    // Only the digest is kept: comparing digests takes the same time for tokens of all lengths, and a core dump holds no token.
    digest: [u8; 32],
}

/// The valid tokens. Clones share one list, so a reload reaches all of them.
#[derive(Clone)]
pub struct Tokens {
    sources: Arc<TokenSources>,
    list: Arc<RwLock<Arc<[Token]>>>,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.list().iter().map(|t| &t.name)).finish()
    }
}

impl Tokens {
    /// Reads all sources. No source means no tokens: the worker is open.
    ///
    /// # Errors
    /// When the file cannot be read, or a token is malformed, too short, or named twice.
    pub fn load(sources: TokenSources) -> Result<Self, AuthError> {
        let list = read(&sources)?;
        Ok(Self { sources: Arc::new(sources), list: Arc::new(RwLock::new(list.into())) })
    }

    /// Reads the sources again. On an error the old tokens stay valid. A reload never opens a worker that was closed.
    ///
    /// # Errors
    /// As [`Tokens::load`]; and when no token is left where there was one.
    pub fn reload(&self) -> Result<usize, AuthError> {
        let new = read(&self.sources)?;
        if new.is_empty() && !self.is_empty() {
            return Err(AuthError::BadToken {
                place: "the token file".into(),
                reason:
                    "it holds no token any more; the old ones stay valid. Restart the worker to run it without tokens"
                        .into(),
            });
        }
        let count = new.len();
        *self.list.write().unwrap_or_else(PoisonError::into_inner) = new.into();
        Ok(count)
    }

    /// Whether there are none, so that everybody may use the worker.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list().is_empty()
    }

    fn list(&self) -> Arc<[Token]> {
        self.list.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The name of the token that a request carries, as `Bearer <token>` or `Basic <base64 of user:token>`.
    ///
    /// # Errors
    /// [`Refusal::MissingToken`] or [`Refusal::InvalidToken`].
    pub fn authenticate(&self, headers: &HeaderMap) -> Result<Arc<str>, Refusal> {
        let mut sent = headers.get_all(header::AUTHORIZATION).iter();
        let value = sent.next().ok_or(Refusal::MissingToken)?;
        if sent.next().is_some() || value.len() > MAX_HEADER_BYTES {
            return Err(Refusal::InvalidToken);
        }
        let (scheme, rest) = value.to_str().ok().and_then(|v| v.split_once(' ')).ok_or(Refusal::InvalidToken)?;
        let decoded;
        let token = if scheme.eq_ignore_ascii_case("bearer") {
            rest.trim().as_bytes()
        } else if scheme.eq_ignore_ascii_case("basic") {
            decoded = STANDARD.decode(rest.trim()).map_err(|_| Refusal::InvalidToken)?;
            let colon = decoded.iter().position(|&c| c == b':').ok_or(Refusal::InvalidToken)?;
            &decoded[colon + 1..]
        } else {
            return Err(Refusal::InvalidToken);
        };
        self.find(token).ok_or(Refusal::InvalidToken)
    }

    /// Compares with every token, without stopping at the right one.
    fn find(&self, token: &[u8]) -> Option<Arc<str>> {
        let digest: [u8; 32] = Sha256::digest(token).into();
        let list = self.list();
        let (mut found, mut index) = (Choice::from(0), 0u64);
        for (i, token) in (0u64..).zip(list.iter()) {
            let equal = token.digest.ct_eq(&digest);
            index.conditional_assign(&i, equal);
            found |= equal;
        }
        bool::from(found).then(|| list.get(usize::try_from(index).ok()?).map(|t| t.name.clone())).flatten()
    }
}

fn read(sources: &TokenSources) -> Result<Vec<Token>, AuthError> {
    let mut tokens = Vec::new();
    if let Some(path) = &sources.file {
        let (name, text) = (name_of(path), text_of(path)?);
        for (number, line) in (1..).zip(text.lines()) {
            add(&mut tokens, line, || format!("line {number} of the token file {name:?}"))?;
        }
    }
    for (number, item) in (1..).zip(sources.inline.as_deref().unwrap_or_default().split(',')) {
        add(&mut tokens, item, || format!("item {number} of the tokens in the environment"))?;
    }
    Ok(tokens)
}

/// The file's name without its folder.
fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn text_of(path: &Path) -> Result<String, AuthError> {
    let unreadable = |reason: String| AuthError::Unreadable { name: name_of(path), reason };
    let mut text = String::new();
    let file = File::open(path).map_err(|e| unreadable(e.to_string()))?;
    file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).map_err(|e| unreadable(e.to_string()))?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(unreadable(format!("it is larger than {MAX_FILE_BYTES} bytes")));
    }
    Ok(text)
}

/// The first token of a file, for a client of the worker that reads the same file.
///
/// # Errors
/// [`AuthError::Unreadable`], also when there is none in it.
pub fn first_of(path: &Path) -> Result<String, AuthError> {
    let text = text_of(path)?;
    let first = text.lines().find_map(parts).map(|(_, token)| token.to_owned());
    first.ok_or_else(|| AuthError::Unreadable { name: name_of(path), reason: "it holds no token".to_owned() })
}

/// A line's name, if it has one, and its token; nothing of an empty line or a comment.
fn parts(item: &str) -> Option<(Option<&str>, &str)> {
    let item = item.trim();
    if item.is_empty() || item.starts_with('#') {
        return None;
    }
    Some(item.split_once(':').map_or((None, item), |(name, token)| (Some(name.trim()), token.trim())))
}

fn add(tokens: &mut Vec<Token>, item: &str, place: impl Fn() -> String) -> Result<(), AuthError> {
    let Some((name, token)) = parts(item) else { return Ok(()) };
    let bad = |reason: String| Err(AuthError::BadToken { place: place(), reason });
    let name = name.map_or_else(|| format!("token-{}", tokens.len() + 1), str::to_owned);
    let name_ok = |c: u8| c.is_ascii_alphanumeric() || b"-_.".contains(&c);
    if name.is_empty() || name.len() > 64 || !name.bytes().all(name_ok) {
        return bad("a name has 1 to 64 letters, digits, '-', '_' or '.'".into());
    }
    // RFC 6750, b64token.
    let token_ok = |c: u8| c.is_ascii_alphanumeric() || b"-._~+/=".contains(&c);
    if !(MIN_TOKEN..=MAX_TOKEN).contains(&token.len()) || !token.bytes().all(token_ok) {
        let reason = format!(
            "a token has {MIN_TOKEN} to {MAX_TOKEN} letters, digits or any of -._~+/= ; make one with: openssl rand -hex 32"
        );
        return bad(reason);
    }
    if tokens.iter().any(|t| *t.name == *name) {
        return bad(format!("the name {name:?} is used twice"));
    }
    if tokens.len() == MAX_TOKENS {
        return bad(format!("there are more than {MAX_TOKENS} tokens"));
    }
    tokens.push(Token { name: name.into(), digest: Sha256::digest(token).into() });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    const A: &str = "alpha-0123456789abcdef";
    const B: &str = "bravo-0123456789abcdef";

    fn inline(text: &str) -> Result<Tokens, AuthError> {
        Tokens::load(TokenSources { file: None, inline: Some(text.into()) })
    }

    fn headers(values: &[&[u8]]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::AUTHORIZATION, HeaderValue::from_bytes(value).unwrap());
        }
        headers
    }

    #[test]
    fn the_right_token_has_a_name_and_no_other_passes() {
        let tokens = inline(&format!("hive:{A}, ,{B}")).unwrap();
        let basic = |text: &str| format!("Basic {}", STANDARD.encode(text)).into_bytes();
        let check = |values: &[&[u8]], expected: Result<&str, Refusal>| {
            let got = tokens.authenticate(&headers(values));
            assert_eq!(got.as_deref().map_err(Clone::clone), expected, "{values:?}");
        };
        check(&[format!("Bearer {A}").as_bytes()], Ok("hive"));
        check(&[format!("bearer  {B} ").as_bytes()], Ok("token-2"));
        check(&[&basic(&format!("anyone:{A}"))], Ok("hive"));
        check(&[&basic(&format!(":{B}"))], Ok("token-2"));
        check(&[], Err(Refusal::MissingToken));
        for wrong in [
            format!("Bearer {A}x").into_bytes(),
            format!("Bearer {}", &A[1..]).into_bytes(),
            format!("Bearer{A}").into_bytes(),
            format!("Token {A}").into_bytes(),
            A.as_bytes().to_vec(),
            b"Bearer ".to_vec(),
            b"Bearer hive".to_vec(),
            b"Bearer \xff\xfe".to_vec(),
            b"Basic !!!".to_vec(),
            basic(A),
            basic(&format!("{A}:")),
            [b"Bearer ".to_vec(), vec![b'x'; 9000]].concat(),
        ] {
            check(&[&wrong], Err(Refusal::InvalidToken));
        }
        check(&[format!("Bearer {A}").as_bytes(), b"Bearer x"], Err(Refusal::InvalidToken));
    }

    #[test]
    fn no_secret_is_ever_shown() {
        let sources = TokenSources { file: None, inline: Some(format!("hive:{A}")) };
        let text = format!("{sources:?} {:?}", Tokens::load(sources.clone()).unwrap());
        assert!(text.contains("hive") && !text.contains(A), "{text}");
        let text = inline(&format!("hive:{A},hive:{B}")).unwrap_err().to_string();
        assert!(text.contains("twice") && text.contains("item 2") && !text.contains(B), "{text}");
    }

    #[test]
    fn bad_tokens_are_refused_with_their_place() {
        for (text, part) in [
            ("short", "16 to 512"),
            ("0123456789abcde!", "openssl"),
            (":0123456789abcdef", "a name"),
            ("a b:0123456789abcdef", "a name"),
            (&"x".repeat(513), "16 to 512"),
        ] {
            let error = inline(text).unwrap_err();
            assert!(error.code() == "invalid_token_file" && error.to_string().contains(part), "{text}: {error}");
        }
        assert!(inline("").unwrap().is_empty());
    }

    #[test]
    fn a_reload_changes_all_clones_or_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tokens");
        let write = |text: &str| std::fs::write(&file, text).unwrap();
        write(&format!("# ours\n\nhive:{A}\n"));
        let tokens = Tokens::load(TokenSources { file: Some(file.clone()), inline: None }).unwrap();
        let clone = tokens.clone();
        assert_eq!(first_of(&file).unwrap(), A);
        let valid = |token: &str| clone.authenticate(&headers(&[format!("Bearer {token}").as_bytes()])).is_ok();
        assert_eq!([valid(A), valid(B)], [true, false]);
        write(&format!("hive:{B}\r\n"));
        assert_eq!(tokens.reload().unwrap(), 1);
        assert_eq!([valid(A), valid(B)], [false, true]);
        for broken in ["hive:short", "# nothing", ""] {
            write(broken);
            tokens.reload().unwrap_err();
            assert!(valid(B), "{broken}");
        }
        assert!(first_of(&file).unwrap_err().to_string().contains("no token"));
        std::fs::remove_file(&file).unwrap();
        let error = tokens.reload().unwrap_err().to_string();
        assert!(error.contains("\"tokens\"") && !error.contains(folder.path().to_str().unwrap()), "{error}");
        write(&"#".repeat(300_000));
        assert!(tokens.reload().unwrap_err().to_string().contains("larger"));
    }
}
