//! A picture in memory.

use crate::ImageError;

/// An 8-bit RGB picture, with its alpha channel apart.
#[derive(Clone, PartialEq, Eq)]
pub struct Picture {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// `height × width × 3` values, row by row.
    pub rgb: Vec<u8>,
    /// `height × width` values where the file had an alpha channel; 255 = opaque.
    pub alpha: Option<Vec<u8>>,
}

impl std::fmt::Debug for Picture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Picture({} × {}, alpha: {})", self.width, self.height, self.alpha.is_some())
    }
}

impl Picture {
    /// Checks lengths and makes a picture. Errors: `Length`.
    pub fn new(width: u32, height: u32, rgb: Vec<u8>, alpha: Option<Vec<u8>>) -> Result<Self, ImageError> {
        let picture = Self { width, height, rgb, alpha };
        picture.check()?;
        Ok(picture)
    }

    /// A picture from `height × width × 3` values of 0–1, which are clamped and rounded to the nearest, halves to even as
    /// NumPy does.
    pub fn from_unit(width: u32, height: u32, values: &[f32]) -> Self {
        let rgb = values.iter().map(|v| (v.clamp(0.0, 1.0) * 255.0).round_ties_even() as u8).collect();
        Self { width, height, rgb, alpha: None }
    }

    /// A picture of one colour.
    pub fn filled(width: u32, height: u32, colour: [u8; 3]) -> Self {
        let rgb = colour.repeat(width as usize * height as usize);
        Self { width, height, rgb, alpha: None }
    }

    /// Whether the buffers have the lengths that the dimensions promise. Errors: `Length`.
    pub fn check(&self) -> Result<(), ImageError> {
        let pixels = self.pixels();
        if self.rgb.len() != pixels * 3 {
            return Err(ImageError::Length { what: "rgb", found: self.rgb.len(), expected: pixels * 3 });
        }
        match &self.alpha {
            Some(alpha) if alpha.len() != pixels => {
                Err(ImageError::Length { what: "alpha", found: alpha.len(), expected: pixels })
            }
            _ => Ok(()),
        }
    }

    /// Number of pixels.
    pub fn pixels(&self) -> usize {
        self.width as usize * self.height as usize
    }

    /// Width and height.
    pub fn size(&self) -> (u32, u32) {
        (self.width, self.height)
    }

    /// Lays the picture over a colour; the result has no alpha.
    pub fn flatten(mut self, background: [u8; 3]) -> Self {
        if let Some(alpha) = self.alpha.take() {
            for (pixel, alpha) in self.rgb.chunks_exact_mut(3).zip(alpha) {
                for (value, under) in pixel.iter_mut().zip(background) {
                    *value = blend(under, *value, alpha);
                }
            }
        }
        self
    }

    /// The part at `x`, `y`; cut to what lies inside the picture.
    pub fn crop(&self, x: u32, y: u32, width: u32, height: u32) -> Self {
        let (x, y) = (x.min(self.width), y.min(self.height));
        let (width, height) = (width.min(self.width - x), height.min(self.height - y));
        let cut = |data: &[u8], channels: usize| {
            let row = self.width as usize * channels;
            let from = x as usize * channels;
            let rows = data.chunks_exact(row.max(1)).skip(y as usize).take(height as usize);
            rows.flat_map(|line| line[from..from + width as usize * channels].iter().copied()).collect()
        };
        Self { width, height, rgb: cut(&self.rgb, 3), alpha: self.alpha.as_deref().map(|alpha| cut(alpha, 1)) }
    }

    /// Puts `other`'s colours onto this picture at `x`, `y`, which may be negative; what lies outside is cut.
    pub fn paste(&mut self, other: &Self, x: i64, y: i64) {
        let from = (-x).clamp(0, i64::from(other.width)) as usize;
        let to = (i64::from(self.width) - x).clamp(from as i64, i64::from(other.width)) as usize;
        for row in 0..i64::from(other.height) {
            let target = row + y;
            if target < 0 || target >= i64::from(self.height) || from == to {
                continue;
            }
            let source = row as usize * other.width as usize;
            let start = target as usize * self.width as usize + (from as i64 + x) as usize;
            self.rgb[start * 3..(start + to - from) * 3]
                .copy_from_slice(&other.rgb[(source + from) * 3..(source + to) * 3]);
        }
    }

    /// Turns the picture upright. `orientation`: EXIF's 1 to 8; anything else changes nothing.
    pub fn oriented(self, orientation: u16) -> Self {
        if !(2..=8).contains(&orientation) {
            return self;
        }
        let (w, h) = (self.width as usize, self.height as usize);
        let (width, height) = if orientation >= 5 { (h, w) } else { (w, h) };
        let source = |x: usize, y: usize| match orientation {
            2 => (w - 1 - x, y),
            3 => (w - 1 - x, h - 1 - y),
            4 => (x, h - 1 - y),
            5 => (y, x),
            6 => (y, h - 1 - x),
            7 => (w - 1 - y, h - 1 - x),
            _ => (w - 1 - y, x),
        };
        let turn = |data: &[u8], channels: usize| {
            let mut out = Vec::with_capacity(data.len());
            for y in 0..height {
                for x in 0..width {
                    let (sx, sy) = source(x, y);
                    let at = (sy * w + sx) * channels;
                    out.extend_from_slice(&data[at..at + channels]);
                }
            }
            out
        };
        let alpha = self.alpha.as_deref().map(|alpha| turn(alpha, 1));
        Self { width: width as u32, height: height as u32, rgb: turn(&self.rgb, 3), alpha }
    }
}

/// `over` laid over `under` with weight `alpha` / 255, rounded; exact at 0 and 255.
pub(crate) fn blend(under: u8, over: u8, alpha: u8) -> u8 {
    let (under, over, alpha) = (u32::from(under), u32::from(over), u32::from(alpha));
    ((under * (255 - alpha) + over * alpha + 127) / 255) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letters(width: u32, text: &str) -> Picture {
        let rgb: Vec<u8> = text.bytes().flat_map(|b| [b; 3]).collect();
        let height = text.len() as u32 / width;
        Picture::new(width, height, rgb, Some(text.bytes().collect())).unwrap()
    }

    fn text(picture: &Picture) -> String {
        picture.check().unwrap();
        picture.rgb.chunks_exact(3).map(|pixel| char::from(pixel[0])).collect()
    }

    #[test]
    fn orientations() {
        // ABC
        // DEF
        let cases = [
            (0, "ABCDEF"),
            (1, "ABCDEF"),
            (2, "CBAFED"),
            (3, "FEDCBA"),
            (4, "DEFABC"),
            (5, "ADBECF"),
            (6, "DAEBFC"),
            (7, "FCEBDA"),
            (8, "CFBEAD"),
            (9, "ABCDEF"),
        ];
        for (orientation, expected) in cases {
            let turned = letters(3, "ABCDEF").oriented(orientation);
            assert_eq!(text(&turned), expected, "orientation {orientation}");
            assert_eq!(turned.alpha.as_deref(), Some(expected.as_bytes()));
            assert_eq!(turned.size(), if (5..=8).contains(&orientation) { (2, 3) } else { (3, 2) });
        }
    }

    #[test]
    fn crop_and_paste_are_cut_at_the_edges() {
        let picture = letters(3, "ABCDEFGHI");
        assert_eq!(text(&picture.crop(1, 1, 2, 2)), "EFHI");
        assert_eq!(text(&picture.crop(2, 2, 9, 9)), "I");
        assert_eq!(text(&picture.crop(7, 7, 9, 9)), "");
        let small = letters(2, "wxyz");
        for (x, y, expected) in [
            (0, 0, "wxCyzFGHI"),
            (2, 2, "ABCDEFGHw"),
            (-1, -1, "zBCDEFGHI"),
            (1, -1, "AyzDEFGHI"),
            (5, 0, "ABCDEFGHI"),
            (-5, -5, "ABCDEFGHI"),
        ] {
            let mut target = picture.clone();
            target.paste(&small, x, y);
            assert_eq!(text(&target), expected, "at {x}, {y}");
        }
    }

    #[test]
    fn flatten_is_exact_at_the_ends() {
        let picture = Picture::new(3, 1, vec![10; 9], Some(vec![0, 128, 255])).unwrap();
        assert_eq!(picture.flatten([255, 0, 10]).rgb, [255, 0, 10, 132, 5, 10, 10, 10, 10]);
        assert_eq!(Picture::new(2, 2, vec![0; 11], None).unwrap_err().code(), "image_buffer_length");
        assert_eq!(Picture::new(1, 1, vec![0; 3], Some(vec![])).unwrap_err().code(), "image_buffer_length");
    }
}
