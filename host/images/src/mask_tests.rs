//! Tests of masks.

use super::*;

fn mask(width: u32, data: &[u8]) -> Mask {
    Mask::new(width, data.len() as u32 / width, data.to_vec()).unwrap()
}

fn dot(width: u32, height: u32, x: u32, y: u32) -> Mask {
    let mut mask = Mask::filled(width, height, 0);
    mask.data[(y * width + x) as usize] = 255;
    mask
}

#[test]
fn both_meanings() {
    let rgb = [[255; 3], [0; 3], [255, 0, 0], [0, 0, 255]].concat();
    let opaque = Picture::new(4, 1, rgb.clone(), Some(vec![255; 4])).unwrap();
    assert_eq!(Mask::from_white(&opaque).data, [255, 0, 76, 29]);
    assert_eq!(Mask::from_transparent(&opaque).unwrap().data, [0; 4]);
    let glass = Picture::new(4, 1, rgb.clone(), Some(vec![0, 255, 128, 0])).unwrap();
    assert_eq!(Mask::from_white(&glass).data, [0, 255, 128, 0]);
    assert_eq!(Mask::from_transparent(&glass).unwrap().data, [255, 0, 127, 255]);
    let none = Picture::new(4, 1, rgb, None).unwrap();
    assert_eq!(Mask::from_transparent(&none).unwrap_err().code(), "mask_without_alpha");
}

#[test]
fn invert_binarize_union() {
    let soft = mask(4, &[0, 100, 128, 255]);
    assert_eq!(soft.clone().invert().data, [255, 155, 127, 0]);
    assert_eq!(soft.clone().binarize(128).data, [0, 0, 255, 255]);
    assert_eq!(soft.clone().union(&mask(4, &[9, 200, 0, 0])).unwrap().data, [9, 200, 128, 255]);
    assert_eq!(soft.union(&mask(2, &[0; 4])).unwrap_err().code(), "image_size_mismatch");
    assert_eq!(Mask::new(2, 2, vec![0; 3]).unwrap_err().code(), "image_buffer_length");
}

#[test]
fn blur_is_a_gaussian_mirrored_at_the_edges() {
    let line = mask(12, &[0, 0, 0, 255, 255, 0, 0, 0, 0, 0, 0, 255]);
    // The reference values come from numpy: reflect padding and a normalised window of 2·4 + 1.
    assert_eq!(line.blur(1.5, 0.0).data, [22, 39, 82, 122, 122, 82, 37, 13, 11, 28, 54, 68]);
    let column = Mask { width: 1, height: 12, data: line.data.clone() };
    assert_eq!(column.blur(0.0, 1.5).data, line.blur(1.5, 0.0).data);
    assert_eq!(line.blur(0.0, 0.0), line);
    assert_eq!(line.blur(f32::NAN, -1.0), line);
    assert_eq!(Mask::filled(3, 3, 255).blur(1e30, 2.0), Mask::filled(3, 3, 255));
    assert_eq!(Mask::filled(1, 1, 7).blur(4.0, 4.0).data, [7]);
}

#[test]
fn latent_sizes() {
    let ramp = Mask::new(10, 6, (0..60).collect()).unwrap();
    let cells: Vec<f32> = ramp.latent(3, 4, LatentMask::Nearest).iter().map(|v| (v * 255.0).round()).collect();
    // torch: interpolate(arange(60).reshape(1, 1, 6, 10), size=(4, 3))
    assert_eq!(cells, [0.0, 3.0, 6.0, 10.0, 13.0, 16.0, 30.0, 33.0, 36.0, 40.0, 43.0, 46.0]);
    let dot = dot(16, 16, 3, 3);
    assert_eq!(dot.latent(2, 2, LatentMask::Nearest), [0.0; 4]);
    assert_eq!(dot.latent(2, 2, LatentMask::Box), [4.0 / 255.0, 0.0, 0.0, 0.0]);
    for side in (64..=1024).step_by(8) {
        let white = Mask::filled(side, 64, 255);
        for mode in [LatentMask::Nearest, LatentMask::Box] {
            assert_eq!(white.latent(side / 8, 8, mode), vec![1.0; side as usize], "{mode:?} at {side}");
        }
    }
}

#[test]
fn bounds_and_crop() {
    assert_eq!(Mask::filled(5, 4, 0).bounds(), None);
    assert!(Mask::filled(5, 4, 0).is_empty() && !dot(5, 4, 0, 0).is_empty());
    assert_eq!(dot(5, 4, 3, 2).bounds(), Some((3, 2, 1, 1)));
    assert_eq!(dot(5, 4, 0, 0).union(&dot(5, 4, 4, 1)).unwrap().bounds(), Some((0, 0, 5, 2)));
    assert_eq!(dot(5, 4, 3, 2).crop(2, 1, 3, 9).data, [0, 0, 0, 0, 255, 0, 0, 0, 0]);
}

#[test]
fn resize_follows_the_picture() {
    let half = mask(2, &[255, 0]);
    assert_eq!(half.resize(4, 1, ResizeMode::Stretch, Filter::Nearest).unwrap().data, [255, 255, 0, 0]);
    let filled = half.resize(2, 4, ResizeMode::Fill, Filter::Lanczos).unwrap();
    assert_eq!(filled.data, [255, 0, 255, 0, 255, 0, 255, 0]);
}

#[test]
fn masked_pixels_are_grey() {
    let picture = Picture::filled(3, 1, [0, 51, 255]);
    let pixels = mask(3, &[127, 128, 255]).masked_pixels(&picture).unwrap();
    assert_eq!(pixels, [0.0, 0.2, 1.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]);
    assert_eq!(mask(1, &[0]).masked_pixels(&picture).unwrap_err().code(), "image_size_mismatch");
}
