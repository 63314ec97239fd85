//! What the terminal can show, by its environment or by asking it.

use super::Protocol;

/// Room for pictures where the terminal does not tell its size in pixels.
const ROOM: (u32, u32) = (800, 600);

/// The protocol of the terminal around this process; `None` where it shows no pictures or does not say.
pub(super) fn protocol(env: &dyn Fn(&str) -> Option<String>) -> Option<Protocol> {
    match by_environment(env) {
        Guess::Sure(protocol) => Some(protocol),
        Guess::Nothing => None,
        Guess::Ask => ask(),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Guess {
    Sure(Protocol),
    Nothing,
    Ask,
}

fn by_environment(env: &dyn Fn(&str) -> Option<String>) -> Guess {
    let value = |name: &str| env(name).unwrap_or_default();
    let term = value("TERM");
    if term.is_empty() || term == "dumb" || term == "linux" {
        return Guess::Nothing;
    }
    // Multiplexers pass the outer terminal's environment on, but not its abilities.
    if env("TMUX").is_some() || env("STY").is_some() {
        return Guess::Ask;
    }
    let program = value("TERM_PROGRAM");
    if env("KITTY_WINDOW_ID").is_some() || term.contains("kitty") || term.contains("ghostty") || program == "ghostty" {
        return Guess::Sure(Protocol::Kitty);
    }
    if ["iTerm.app", "WezTerm", "mintty"].contains(&program.as_str()) || value("LC_TERMINAL") == "iTerm2" {
        return Guess::Sure(Protocol::Iterm);
    }
    if ["foot", "mlterm", "yaft"].iter().any(|name| term.starts_with(name)) {
        return Guess::Sure(Protocol::Sixel);
    }
    Guess::Ask
}

#[cfg(unix)]
fn ask() -> Option<Protocol> {
    understand(&super::query::ask()?)
}

#[cfg(not(unix))]
fn ask() -> Option<Protocol> {
    None
}

/// Reads the terminal's answers: kitty's `OK`, and 4 among the attributes for sixels.
fn understand(answers: &str) -> Option<Protocol> {
    if answers.contains(&format!("\x1b_Gi={};OK", super::detect::QUERY_ID)) {
        return Some(Protocol::Kitty);
    }
    let attributes = answers.rsplit_once("\x1b[?")?.1.strip_suffix('c')?;
    attributes.split(';').any(|a| a == "4").then_some(Protocol::Sixel)
}

/// The number by which kitty's answer is known.
pub(super) const QUERY_ID: u32 = 8600;

/// The largest picture in pixels that fits: the terminal's width, and most of its height.
pub(super) fn room() -> (u32, u32) {
    #[cfg(unix)]
    if let Ok(size) = rustix::termios::tcgetwinsize(std::io::stdout())
        && size.ws_xpixel > 0
        && size.ws_ypixel > 0
    {
        return (u32::from(size.ws_xpixel), (u32::from(size.ws_ypixel) * 3 / 4).max(1));
    }
    ROOM
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guess(pairs: &[(&str, &str)]) -> Guess {
        by_environment(&|name| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
    }

    #[test]
    fn environments() {
        use Guess::{Ask, Nothing, Sure};
        for (pairs, expected) in [
            (&[][..], Nothing),
            (&[("TERM", "dumb")], Nothing),
            (&[("TERM", "xterm-kitty")], Sure(Protocol::Kitty)),
            (&[("TERM", "xterm-256color"), ("KITTY_WINDOW_ID", "1")], Sure(Protocol::Kitty)),
            (&[("TERM", "tmux-256color"), ("KITTY_WINDOW_ID", "1"), ("TMUX", "/tmp/x")], Ask),
            (&[("TERM", "xterm-ghostty")], Sure(Protocol::Kitty)),
            (&[("TERM", "xterm-256color"), ("TERM_PROGRAM", "iTerm.app")], Sure(Protocol::Iterm)),
            (&[("TERM", "xterm-256color"), ("LC_TERMINAL", "iTerm2")], Sure(Protocol::Iterm)),
            (&[("TERM", "foot")], Sure(Protocol::Sixel)),
            (&[("TERM", "xterm-256color")], Ask),
        ] {
            assert_eq!(guess(pairs), expected, "{pairs:?}");
        }
    }

    #[test]
    fn answers() {
        for (text, expected) in [
            ("\x1b_Gi=8600;OK\x1b\\\x1b[?62;c", Some(Protocol::Kitty)),
            ("\x1b_Gi=8600;ENOTSUP:no\x1b\\\x1b[?62;4;22c", Some(Protocol::Sixel)),
            ("\x1b[?62;4c", Some(Protocol::Sixel)),
            ("\x1b[?64;14;44c", None),
            ("\x1b[?1;2c", None),
            ("typed ahead\x1b[?4c", Some(Protocol::Sixel)),
            ("4c", None),
            ("", None),
        ] {
            assert_eq!(understand(text), expected, "{text:?}");
        }
    }
}
