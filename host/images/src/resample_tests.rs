//! Resampling against Pillow 13: a hash (FNV-1a) of the exact bytes for each filter and a range of sizes.

use super::*;

/// The picture that the reference resized: value = 37x + 59y + 83c + 7xy, modulo 256.
fn source(width: u32, height: u32) -> Picture {
    let value = |x: u32, y: u32, c: u32| (x * 37 + y * 59 + c * 83 + x * y * 7) as u8;
    let rgb = (0..height).flat_map(|y| (0..width).flat_map(move |x| (0..3).map(move |c| value(x, y, c)))).collect();
    Picture::new(width, height, rgb, None).unwrap()
}

fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Size before, size after, filter, hash.
type Case = ((u32, u32), (u32, u32), Filter, u64);

#[rustfmt::skip]
const PILLOW: &[Case] = &[
    ((13, 9), (5, 4), Filter::Nearest, 0xd7b1_524f_7c86_bb05),
    ((13, 9), (5, 4), Filter::Box, 0x1258_4ea6_dc9b_279e),
    ((13, 9), (5, 4), Filter::Bilinear, 0x8692_efa1_7bc2_2a15),
    ((13, 9), (5, 4), Filter::Bicubic, 0xe0a1_e3f4_5020_dadc),
    ((13, 9), (5, 4), Filter::Lanczos, 0x355a_cd69_9c3a_bbf2),
    ((13, 9), (26, 18), Filter::Nearest, 0xc7cb_964a_a7c9_44a9),
    ((13, 9), (26, 18), Filter::Box, 0xc7cb_964a_a7c9_44a9),
    ((13, 9), (26, 18), Filter::Bilinear, 0xb0e5_8c18_20fc_5e7d),
    ((13, 9), (26, 18), Filter::Bicubic, 0x0acf_4897_0e9d_8116),
    ((13, 9), (26, 18), Filter::Lanczos, 0xd182_b942_9034_638d),
    ((7, 5), (16, 3), Filter::Nearest, 0x026d_b4a3_68d7_0b41),
    ((7, 5), (16, 3), Filter::Box, 0x3059_1cef_f3ea_612d),
    ((7, 5), (16, 3), Filter::Bilinear, 0x6e00_9057_d213_5c23),
    ((7, 5), (16, 3), Filter::Bicubic, 0xa22e_0dac_58f9_d774),
    ((7, 5), (16, 3), Filter::Lanczos, 0x7079_afc7_d686_0561),
    ((64, 64), (64, 31), Filter::Nearest, 0x807b_e7c0_9632_11a5),
    ((64, 64), (64, 31), Filter::Box, 0x4a43_1675_6593_9029),
    ((64, 64), (64, 31), Filter::Bilinear, 0xa4bf_ff65_f6b5_16d0),
    ((64, 64), (64, 31), Filter::Bicubic, 0x3a76_a81b_0c46_7209),
    ((64, 64), (64, 31), Filter::Lanczos, 0x23cd_8f78_0941_68c8),
    ((3, 3), (40, 40), Filter::Nearest, 0xe54b_57bb_02b2_0a51),
    ((3, 3), (40, 40), Filter::Box, 0xe54b_57bb_02b2_0a51),
    ((3, 3), (40, 40), Filter::Bilinear, 0x739d_b193_7dcd_c225),
    ((3, 3), (40, 40), Filter::Bicubic, 0x01e7_39b1_be66_ba8c),
    ((3, 3), (40, 40), Filter::Lanczos, 0xbdbf_a7fc_f74b_1c24),
    ((50, 1), (8, 8), Filter::Nearest, 0xf092_89c0_48ff_9725),
    ((50, 1), (8, 8), Filter::Box, 0x0a40_ba20_f1b8_30e5),
    ((50, 1), (8, 8), Filter::Bilinear, 0x5cd4_a6be_a266_3205),
    ((50, 1), (8, 8), Filter::Bicubic, 0x261b_2870_94fe_9a65),
    ((50, 1), (8, 8), Filter::Lanczos, 0xec14_ef7e_e1a2_0325),
    ((100, 80), (33, 27), Filter::Nearest, 0x1ef5_5839_4c9a_8468),
    ((100, 80), (33, 27), Filter::Box, 0x63fd_1cc2_3c67_a0f0),
    ((100, 80), (33, 27), Filter::Bilinear, 0x06b8_7019_999b_7513),
    ((100, 80), (33, 27), Filter::Bicubic, 0xbcab_cedf_1155_ee39),
    ((100, 80), (33, 27), Filter::Lanczos, 0xf6b7_30e4_f93a_4418),
];

#[test]
fn bytes_are_pillows() {
    for &((w, h), (width, height), filter, expected) in PILLOW {
        let resized = resample(&source(w, h), width, height, filter).unwrap();
        assert_eq!(resized.size(), (width, height));
        assert_eq!(fnv(&resized.rgb), expected, "{filter:?} from {w} × {h} to {width} × {height}");
    }
    let lanczos = resample(&source(13, 9), 5, 4, Filter::Lanczos).unwrap();
    assert_eq!(lanczos.rgb[..12], [81, 161, 129, 144, 127, 115, 114, 121, 136, 110, 143, 136]);
}

#[test]
fn edges() {
    let picture = source(9, 7);
    assert_eq!(resample(&picture, 9, 7, Filter::Lanczos).unwrap(), picture);
    assert_eq!(resample(&picture, 0, 0, Filter::Bicubic).unwrap().size(), (1, 1));
    let mut alpha = picture.clone();
    alpha.alpha = Some(vec![200; 63]);
    let resized = resample(&alpha, 30, 2, Filter::Lanczos).unwrap();
    assert_eq!(resized.alpha.unwrap(), vec![200; 60]);
    let broken = Picture { width: 9, height: 7, rgb: vec![0; 5], alpha: None };
    assert_eq!(resample(&broken, 2, 2, Filter::Box).unwrap_err().code(), "image_buffer_length");
}
