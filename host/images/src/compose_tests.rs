//! Tests of compositing, regions and outpainting.

use super::*;

/// A picture of noise: nothing about it is regular.
fn noise(width: u32, height: u32, seed: u32) -> Picture {
    let mut state = u64::from(seed);
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 40) as u8
    };
    let rgb = (0..width * height * 3).map(|_| next()).collect();
    Picture::new(width, height, rgb, None).unwrap()
}

fn block(width: u32, height: u32, region: CropRegion) -> Mask {
    let mut mask = Mask::filled(width, height, 0);
    for y in region.y..region.y + region.height {
        let row = (y * width + region.x) as usize;
        mask.data[row..row + region.width as usize].fill(255);
    }
    mask
}

/// Where the mask is 0 every byte is the original's; where it is 255 every byte is the new one's.
fn check_untouched(original: &Picture, result: &Picture, mask: &Mask) {
    for (i, &value) in mask.data.iter().enumerate() {
        if value == 0 {
            assert_eq!(result.rgb[i * 3..][..3], original.rgb[i * 3..][..3], "pixel {i} must not change");
        }
    }
}

#[test]
fn untouched_pixels_are_identical() {
    for (seed, (width, height)) in (0..).zip([(1, 1), (17, 9), (64, 64), (33, 100)]) {
        let (old, new) = (noise(width, height, seed), noise(width, height, seed + 100));
        let region = CropRegion { x: width / 3, y: height / 4, width: width / 2, height: height / 2 };
        for sigma in [0.0, 1.0, 4.0] {
            let mask = block(width, height, region).blur(sigma, sigma);
            let result = composite(&old, &new, &mask).unwrap();
            check_untouched(&old, &result, &mask);
            let all = composite(&old, &new, &Mask::filled(width, height, 255)).unwrap();
            assert_eq!(all, new);
        }
    }
    let error = composite(&noise(4, 4, 1), &noise(4, 5, 1), &Mask::filled(4, 4, 0)).unwrap_err();
    assert_eq!(error.code(), "image_size_mismatch");
}

#[test]
fn only_masked_regions() {
    let region = |x, y, width, height| CropRegion { x, y, width, height };
    let check = |masked: CropRegion, padding, size: (u32, u32), expected: CropRegion| {
        let mask = block(100, 80, masked);
        assert_eq!(crop_region(&mask, padding, size.0, size.1), Some(expected), "{masked:?} + {padding} for {size:?}");
    };
    // Values by hand from the rules: pad, then widen to the proportions, move inside, cut.
    check(region(40, 30, 20, 10), 0, (64, 64), region(40, 25, 20, 20));
    check(region(40, 30, 20, 10), 8, (64, 64), region(32, 17, 36, 36));
    check(region(0, 0, 10, 40), 0, (64, 64), region(0, 0, 40, 40));
    check(region(90, 70, 10, 10), 32, (64, 64), region(58, 38, 42, 42));
    check(region(0, 0, 100, 10), 0, (64, 64), region(0, 0, 100, 80));
    check(region(50, 10, 10, 60), 0, (128, 64), region(0, 10, 100, 60));
    check(region(50, 40, 1, 1), 0, (128, 64), region(50, 40, 2, 1));
    check(region(0, 0, 100, 80), u32::MAX, (8, 8), region(0, 0, 100, 80));
    assert_eq!(crop_region(&Mask::filled(9, 9, 0), 4, 8, 8), None);
}

#[test]
fn paste_back_touches_only_the_mask() {
    let old = noise(61, 47, 5);
    let mask = block(61, 47, CropRegion { x: 20, y: 10, width: 15, height: 12 }).blur(2.0, 2.0);
    let region = crop_region(&mask, 4, 64, 64).unwrap();
    let result = paste_back(&old, &Picture::filled(64, 64, [1, 2, 3]), &mask, region).unwrap();
    check_untouched(&old, &result, &mask);
    let centre = (16 * 61 + 27) * 3;
    assert_eq!(mask.data[centre / 3], 255);
    assert_eq!(result.rgb[centre..centre + 3], [1, 2, 3]);
    let wrong = paste_back(&old, &old, &Mask::filled(4, 4, 0), region).unwrap_err();
    assert_eq!(wrong.code(), "image_size_mismatch");
}

#[test]
fn outpainting() {
    let picture = noise(6, 4, 9);
    let by = Extend { left: 2, right: 0, top: 1, bottom: 3 };
    let (larger, mask) = extend(&picture, by, 0, &Limits::default()).unwrap();
    assert_eq!((larger.size(), larger.crop(2, 1, 6, 4)), ((8, 8), picture.clone()));
    assert_eq!(mask, block(8, 8, CropRegion { x: 2, y: 1, width: 6, height: 4 }).invert());
    assert_eq!(larger.crop(0, 0, 1, 1), picture.crop(0, 0, 1, 1), "edges repeat");
    let (_, mask) = extend(&picture, by, 1, &Limits::default()).unwrap();
    assert_eq!(mask, block(8, 8, CropRegion { x: 3, y: 2, width: 5, height: 2 }).invert());
    let (_, mask) = extend(&picture, by, 99, &Limits::default()).unwrap();
    assert_eq!(mask, Mask::filled(8, 8, 255));
    assert_eq!(
        extend(&picture, Extend::default(), 5, &Limits::default()).unwrap(),
        (picture.clone(), Mask::filled(6, 4, 0))
    );
    let huge = Extend { left: u32::MAX, right: u32::MAX, ..Extend::default() };
    assert_eq!(extend(&picture, huge, 0, &Limits::default()).unwrap_err().code(), "image_dimensions");
}
