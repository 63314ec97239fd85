//! Pictures that are edited: what must stay of them, how large they become, and whose noise they are made of.

use crate::pictures::{Dice, decoded, draw, fault, png, weightless};
use image::RgbImage;
use serde_json::{Value, json};

#[test]
fn kept_pixels_stay_to_the_bit_whatever_the_mask() {
    let worker = weightless(&[]);
    let client = worker.client();
    let mut dice = Dice(7);
    let mut painted = 0;
    for round in 0..60 {
        let extends = round % 3 == 2;
        // A picture that is not extended must come in whole cells, or it would be resized.
        let side = |dice: &mut Dice| if extends { 17 + dice.roll(90) } else { 8 * (4 + dice.roll(12)) };
        let (width, height) = (side(&mut dice), side(&mut dice));
        let (before, mask) = (dice.picture(width, height), dice.mask(width, height));
        let strength = [0.5, 1.0, 1.0][dice.roll(3) as usize];
        let fill = ["fill", "original", "latent_noise", "latent_nothing"][dice.roll(4) as usize];
        let mut body = json!({
            "operation": "image_inpaint", "prompt": "x", "init_image": png(&before), "steps": 2, "seed": round,
            "strength": strength, "only_masked": round % 3 == 1,
            "inpaint_fill": fill,
        });
        let masked = !extends || dice.roll(2) == 0;
        if masked {
            body["mask_image"] = png(&mask);
        }
        let (mut left, mut top) = (0, 0);
        let mut size = (width, height);
        if extends {
            let sides = [0; 4].map(|_: u32| dice.roll(40));
            body["extend"] = json!({ "left": sides[0], "right": sides[1] + 1, "top": sides[2], "bottom": sides[3] });
            (left, top) = (sides[0], sides[2]);
            size = (width + sides[0] + sides[1] + 1, height + sides[2] + sides[3]);
        }
        let (pictures, _) = draw(&client, &body);
        let after = &pictures[0];
        assert_eq!(after.dimensions(), size, "round {round}");
        for (x, y, pixel) in before.enumerate_pixels() {
            let now = after.get_pixel(x + left, y + top);
            if masked && mask.get_pixel(x, y).0[0] > 0 {
                painted += u32::from(now != pixel);
            } else {
                assert_eq!(now, pixel, "round {round}, pixel {x}, {y}");
            }
        }
    }
    assert!(painted > 10_000, "only {painted} pixels were painted at all");
}

#[test]
fn every_size_comes_out_as_asked() {
    let worker = weightless(&["--queue-jobs", "200"]);
    let client = worker.client();
    let jobs: Vec<(String, (u32, u32))> = (64..=1024u32)
        .step_by(8)
        .map(|width| {
            let height = 1088 - width;
            (client.submit(&json!({ "prompt": "x", "steps": 1, "width": width, "height": height })), (width, height))
        })
        .collect();
    assert_eq!(jobs.len(), 121);
    for (job, size) in jobs {
        let last = client.events(&job, 0).rest().pop().unwrap();
        assert_eq!(last["event"], "complete", "{size:?}: {last}");
        let file = client.get(&format!("/v1/jobs/{job}/images/0")).body;
        assert_eq!(decoded(&file).dimensions(), size);
    }
    // Any size comes in: whole cells near it come out, and exactly it where the picture is only extended.
    let mut dice = Dice(3);
    for (width, height) in [(1, 1), (7, 300), (65, 77), (203, 19), (1023, 33)] {
        let near = |side: u32| ((side + 4) / 8 * 8).max(16);
        let init = png(&dice.picture(width, height));
        let (pictures, _) = draw(&client, &json!({ "prompt": "x", "steps": 2, "init_image": init }));
        assert_eq!(pictures[0].dimensions(), (near(width), near(height)));
        for mode in ["stretch", "crop", "fill", "latent"] {
            let body = json!({ "prompt": "x", "steps": 2, "init_image": init, "width": 72, "height": 40, "resize_mode": mode });
            assert_eq!(draw(&client, &body).0[0].dimensions(), (72, 40), "{mode}");
        }
        let body = json!({ "prompt": "x", "steps": 1, "init_image": init, "extend": { "top": 3, "right": 10 } });
        assert_eq!(draw(&client, &body).0[0].dimensions(), (width + 10, height + 3));
    }
}

#[test]
fn strength_counts_steps_in_double_precision() {
    let worker = weightless(&[]);
    let client = worker.client();
    let init = png(&RgbImage::new(64, 64));
    let told = |body: &Value| {
        let events = client.run(body);
        let steps = events.iter().filter(|e| e["event"] == "progress").count();
        assert_eq!(events.last().unwrap()["event"], "complete");
        steps
    };
    // As Python's int(steps * strength); in single precision each of these is one less, and 0.1 of 10 none.
    for (steps, strength, expected) in [(10, 0.7, 7), (20, 0.35, 7), (20, 0.95, 19), (50, 0.9, 45), (10, 0.1, 1)] {
        let body = json!({ "prompt": "x", "init_image": init, "steps": steps, "strength": strength });
        assert_eq!(told(&body), expected, "{steps} steps at {strength}");
        let body = json!({ "prompt": "x", "steps": 2, "width": 64, "height": 64,
            "hires": { "scale": 1.5, "steps": steps, "strength": strength } });
        assert_eq!(told(&body), 2 + expected, "{steps} steps at {strength} in a second pass");
    }
}

#[test]
fn what_cannot_be_extended_is_said() {
    let worker = weightless(&[]);
    let client = worker.client();
    let init = png(&RgbImage::new(64, 64));
    let with = |more: Value| {
        let mut body = json!({ "prompt": "x", "init_image": init });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        fault(&client, &body)
    };
    let says = |field: &str| (422, field.to_owned());
    assert_eq!(with(json!({ "extend": {} })), says("extend"));
    assert_eq!(with(json!({ "extend": { "left": 2049 } })), says("extend.left"));
    assert_eq!(with(json!({ "extend": { "left": 8 }, "operation": "image_transform" })), says("extend"));
    assert_eq!(with(json!({ "extend": { "left": 8 }, "width": 64 })), says("width"));
    assert_eq!(with(json!({ "extend": { "left": 2048, "right": 2048 } })), says("extend"));
    assert_eq!(with(json!({ "resize_mode": "latent", "mask_image": init })), says("resize_mode"));
    assert_eq!(fault(&client, &json!({ "prompt": "x", "extend": { "left": 8 } })), says("init_image"));
}

#[test]
fn variations_share_a_seed_and_differ_by_their_own() {
    let worker = weightless(&[]);
    let client = worker.client();
    let plain = |seed: u64| draw(&client, &json!({ "prompt": "x", "steps": 3, "seed": seed })).0.remove(0);
    let varied = |strength: f64, n: u32| {
        draw(
            &client,
            &json!({ "prompt": "x", "steps": 3, "seed": 5, "variation_seed": 9, "variation_strength": strength, "n": n }),
        )
    };
    let far = |a: &RgbImage, b: &RgbImage| {
        a.as_raw().iter().zip(b.as_raw()).map(|(a, b)| u64::from(a.abs_diff(*b))).sum::<u64>() as f64
            / a.as_raw().len() as f64
    };
    assert_eq!(varied(0.0, 1).0[0], plain(5), "no strength is no variation");
    assert!(far(&varied(1.0, 1).0[0], &plain(9)) < 0.5, "all strength is the other seed's noise");
    let (pictures, last) = varied(0.2, 3);
    assert_eq!(last["seeds"], json!([5, 5, 5]));
    let distance = far(&pictures[0], &plain(5));
    assert!(distance > 0.0 && distance < far(&plain(9), &plain(5)), "{distance}");
    assert_ne!(pictures[1], pictures[2]);
    let recipe = client.post("/v1/png-info", &json!({ "image": last["image_base64"] })).json();
    assert_eq!(recipe["items"]["Variation seed"], "9", "{recipe}");
    assert_eq!(recipe["items"]["Variation seed strength"], "0.2");

    // The middle of a wide picture is made of the square one's noise: where nothing mixes cells, it is the same.
    let square = draw(&client, &json!({ "prompt": "x", "steps": 3, "seed": 5, "width": 64, "height": 64 })).0.remove(0);
    let body = json!({ "prompt": "x", "steps": 3, "seed": 5, "width": 128, "height": 64, "seed_resize_from_w": 64,
        "seed_resize_from_h": 64 });
    let (wide, last) = draw(&client, &body);
    let middle = image::imageops::crop_imm(&wide[0], 32, 0, 64, 64).to_image();
    assert_eq!(middle, square);
    let recipe = client.post("/v1/png-info", &json!({ "image": last["image_base64"] })).json();
    assert_eq!(recipe["items"]["Seed resize from"], "64x64");
}
