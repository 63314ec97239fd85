//! DEC sixels (VT340 and its heirs): bands of six rows, one run of characters for each colour of a band.

use color_quant::NeuQuant;
use sd_images::Picture;
use std::fmt::Write as _;

/// Colours of a palette.
const COLOURS: usize = 256;
/// How carefully the palette is chosen: 1 looks at every pixel, 30 at few.
const SAMPLING: i32 = 3;
/// Rows of a band.
const BAND: usize = 6;

/// The escape sequence of a picture.
pub(super) fn draw(picture: &Picture) -> String {
    let (width, height) = (picture.width as usize, picture.height as usize);
    let rgba: Vec<u8> = picture.rgb.chunks_exact(3).flat_map(|p| [p[0], p[1], p[2], 255]).collect();
    let (palette, pixels) = palette(&rgba);
    // Square pixels; what no colour covers keeps the background.
    let mut out = format!("\x1bP0;1q\"1;1;{width};{height}");
    for (i, colour) in palette.iter().enumerate() {
        let percent = |v: u8| (u32::from(v) * 100 + 127) / 255;
        // Writing to a String does not fail.
        let _ = write!(out, "#{i};2;{};{};{}", percent(colour[0]), percent(colour[1]), percent(colour[2]));
    }
    for band in pixels.chunks(width * BAND) {
        let mut used = [false; COLOURS];
        band.iter().for_each(|&c| used[usize::from(c)] = true);
        for colour in (0..COLOURS).filter(|&c| used[c]) {
            let _ = write!(out, "#{colour}");
            let column = |x: usize| {
                let rows = band.iter().skip(x).step_by(width);
                let bits = rows.enumerate().fold(0, |b, (row, &c)| b | u8::from(usize::from(c) == colour) << row);
                char::from(b'?' + bits)
            };
            runs(&mut out, (0..width).map(column));
            out.push('$');
        }
        out.push('-');
    }
    out.push_str("\x1b\\");
    out
}

/// A palette, and each pixel's place in it. Pictures of few colours keep them exactly.
fn palette(rgba: &[u8]) -> (Vec<[u8; 3]>, Vec<u8>) {
    let mut own: Vec<[u8; 3]> = Vec::new();
    for pixel in rgba.chunks_exact(4) {
        let colour = [pixel[0], pixel[1], pixel[2]];
        if let Err(at) = own.binary_search(&colour) {
            if own.len() == COLOURS {
                let quantised = NeuQuant::new(SAMPLING, COLOURS, rgba);
                let palette = quantised.color_map_rgb().chunks_exact(3).map(|c| [c[0], c[1], c[2]]).collect();
                return (palette, rgba.chunks_exact(4).map(|p| quantised.index_of(p) as u8).collect());
            }
            own.insert(at, colour);
        }
    }
    let at = |pixel: &[u8]| own.binary_search(&[pixel[0], pixel[1], pixel[2]]).unwrap_or(0) as u8;
    let pixels = rgba.chunks_exact(4).map(at).collect();
    (own, pixels)
}

/// Characters with repeats counted: `!` and how often.
fn runs(out: &mut String, columns: impl Iterator<Item = char>) {
    let mut columns = columns.peekable();
    while let Some(c) = columns.next() {
        let mut count = 1;
        while columns.next_if_eq(&c).is_some() {
            count += 1;
        }
        match count {
            1..=3 => (0..count).for_each(|_| out.push(c)),
            _ => {
                let _ = write!(out, "!{count}{c}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_colours_in_two_bands() {
        let (red, blue) = ([255, 0, 0], [0, 0, 255]);
        let rgb: Vec<u8> = (0..7 * 5).flat_map(|i| if i < 30 { red } else { blue }).collect();
        let text = draw(&Picture::new(5, 7, rgb, None).unwrap());
        let expected = "\x1bP0;1q\"1;1;5;7#0;2;0;0;100#1;2;100;0;0#1!5~$-#0!5@$-\x1b\\";
        assert_eq!(text, expected);
    }

    #[test]
    fn many_colours_get_near_ones() {
        let rgb: Vec<u8> = (0..64u32 * 64).flat_map(|i| [(i % 64 * 4) as u8, (i / 64 * 4) as u8, 128]).collect();
        let rgba: Vec<u8> = rgb.chunks_exact(3).flat_map(|p| [p[0], p[1], p[2], 255]).collect();
        let (palette, pixels) = palette(&rgba);
        assert_eq!((palette.len(), pixels.len()), (COLOURS, 64 * 64));
        let off: u64 = rgb
            .chunks_exact(3)
            .zip(&pixels)
            .flat_map(|(p, &c)| p.iter().zip(palette[usize::from(c)]).map(|(a, b)| u64::from(a.abs_diff(b))))
            .sum();
        assert!(off / (rgb.len() as u64) < 8, "{off}");
    }
}
