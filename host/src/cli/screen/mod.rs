//! Pictures in the terminal: which protocol it understands, and the picture in it.
//!
//! Three protocols are in use: kitty's, iTerm2's and DEC's sixels. The first two carry the file itself and are a line of
//! framing each; crates that offer all three (`viuer`) bring a terminal library and temporary files along, and do not
//! write where they are told. Sixels need a palette, which `color_quant` makes.

mod detect;
#[cfg(unix)]
mod query;
mod sixel;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use clap::ValueEnum;
use sd_images::{Embedded, Filter, ImageError, Limits, OutputFormat, Picture, decode, encode, resample};
use std::io::{IsTerminal, Write};

/// Longest run of base64 in one of kitty's pieces.
const KITTY_PIECE: usize = 4096;
/// Pictures with shorter sides are magnified, so that one can see them.
const SMALL: u32 = 256;

/// What `--show` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Default)]
pub(crate) enum Show {
    /// Where the terminal says that it can
    #[default]
    Auto,
    /// By kitty's graphics protocol
    Kitty,
    /// By iTerm2's inline images
    Iterm,
    /// By DEC sixels
    Sixel,
    /// Not at all
    Never,
}

/// A protocol for pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Kitty,
    Iterm,
    Sixel,
}

/// A terminal that shows pictures.
#[derive(Debug)]
pub(crate) struct Screen {
    protocol: Protocol,
    /// The largest picture that fits, in pixels.
    room: (u32, u32),
}

impl Screen {
    /// The terminal as asked for. One that has to be found out is asked, and given a moment to answer.
    pub(crate) fn choose(show: Show) -> Option<Screen> {
        let protocol = match show {
            Show::Never => return None,
            Show::Kitty => Protocol::Kitty,
            Show::Iterm => Protocol::Iterm,
            Show::Sixel => Protocol::Sixel,
            Show::Auto if !std::io::stdout().is_terminal() => return None,
            Show::Auto => detect::protocol(&|name| std::env::var(name).ok())?,
        };
        Some(Screen { protocol, room: detect::room() })
    }

    /// Shows a picture file below the cursor. What cannot be shown is left out: the file is what counts.
    pub(crate) fn show(&self, file: &[u8]) {
        if let Ok(picture) = decode(file, &Limits::default()).and_then(|p| self.fit(p))
            && let Ok(text) = self.draw(&picture)
        {
            let mut out = std::io::stdout().lock();
            // A closed terminal is no fault.
            let _ = out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush());
        }
    }

    /// Brings a picture into the room there is. Small ones get whole pixels more.
    fn fit(&self, picture: Picture) -> Result<Picture, ImageError> {
        let (width, height) = picture.size();
        let (wide, high) = self.room;
        let scale = (f64::from(wide) / f64::from(width)).min(f64::from(high) / f64::from(height));
        if scale < 1.0 {
            let part = |side: u32| ((f64::from(side) * scale) as u32).max(1);
            return resample(&picture, part(width), part(height), Filter::Lanczos);
        }
        let times = (SMALL / width.max(height).max(1)).min(scale as u32).max(1);
        resample(&picture, width * times, height * times, Filter::Nearest)
    }

    /// The escape sequence that shows the picture.
    fn draw(&self, picture: &Picture) -> Result<String, ImageError> {
        if self.protocol == Protocol::Sixel {
            return Ok(sixel::draw(&picture.clone().flatten([0; 3])));
        }
        let png = encode(picture, OutputFormat::Png, &Embedded::default())?;
        let text = STANDARD.encode(&png);
        Ok(match self.protocol {
            Protocol::Iterm => format!(
                "\x1b]1337;File=inline=1;size={};width={}px;height={}px:{text}\x07",
                png.len(),
                picture.width,
                picture.height
            ),
            _ => kitty(&text),
        })
    }
}

/// Kitty's form: transmit and show a PNG (`f=100`) in pieces, and do not answer (`q=2`).
fn kitty(base64: &str) -> String {
    let mut out = String::new();
    let mut rest = base64;
    while !rest.is_empty() || out.is_empty() {
        let (piece, more) = rest.split_at(rest.len().min(KITTY_PIECE));
        let head = if out.is_empty() { "a=T,f=100,q=2," } else { "" };
        out.push_str(&format!("\x1b_G{head}m={};{piece}\x1b\\", u8::from(!more.is_empty())));
        rest = more;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_fit_the_room() {
        let screen = Screen { protocol: Protocol::Kitty, room: (800, 600) };
        for (size, expected) in [
            ((64, 64), (256, 256)),
            ((100, 10), (200, 20)),
            ((512, 512), (512, 512)),
            ((1600, 600), (800, 300)),
            ((600, 1200), (300, 600)),
            ((8000, 1), (800, 1)),
        ] {
            let fitted = screen.fit(Picture::filled(size.0, size.1, [9; 3])).unwrap();
            assert_eq!(fitted.size(), expected, "{size:?}");
        }
    }

    #[test]
    fn kitty_gets_pieces() {
        let text = "A".repeat(KITTY_PIECE * 2 + 4);
        let pieces: Vec<String> = kitty(&text).split_terminator("\x1b\\").map(str::to_owned).collect();
        assert_eq!(pieces.len(), 3);
        assert!(pieces[0].starts_with("\x1b_Ga=T,f=100,q=2,m=1;A"));
        assert!(pieces[1].starts_with("\x1b_Gm=1;A"));
        assert_eq!(pieces[2], "\x1b_Gm=0;AAAA");
        assert_eq!(kitty("AAAA"), "\x1b_Ga=T,f=100,q=2,m=0;AAAA\x1b\\");
    }
}
