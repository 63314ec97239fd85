//! Infotexts against A1111's own rules, and recipes that come back whatever stands in them.
#![allow(clippy::unwrap_used, reason = "a test file: its helpers may fail loudly")]

use sd_images::{Embedded, Infotext, Limits, OutputFormat, Picture, Recipe, encode, inspect};
use serde_json::{Map, Value};

#[test]
fn texts_are_read_as_a1111_reads_them() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/goldens/infotexts.json");
    let goldens: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let texts = goldens["texts"].as_array().unwrap();
    assert!(texts.len() > 300);
    let mut with_pairs = 0;
    for wanted in texts {
        let text = wanted["text"].as_str().unwrap();
        let info = Infotext::parse(text);
        let pairs: Map<String, Value> = info.fields.iter().map(|(k, v)| (k.clone(), v.as_str().into())).collect();
        assert_eq!(info.prompt, wanted["prompt"].as_str().unwrap(), "{text:?}");
        assert_eq!(info.negative_prompt, wanted["negative"].as_str().unwrap(), "{text:?}");
        assert_eq!(&pairs, wanted["pairs"].as_object().unwrap(), "{text:?}");
        for (key, value) in &pairs {
            assert_eq!(info.get(key), value.as_str(), "{text:?}");
        }
        with_pairs += usize::from(!pairs.is_empty());
    }
    assert!(with_pairs > 150, "{with_pairs} texts have pairs");
}

/// A generator that makes a failing case again.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound.max(1)
    }

    /// Text that tries to be read as something else.
    fn text(&mut self, length: usize) -> String {
        const PIECES: &[&str] = &[
            "a",
            "cat",
            " ",
            ",",
            ", ",
            ":",
            ": ",
            "\"",
            "\\",
            "\n",
            "é",
            "猫",
            "😀",
            "-",
            "/",
            "(x:1.2)",
            "<lora:b:1>",
            "Steps: 20",
            "Seed: 1, ",
            "\t",
            "{\"k\": [1]}",
            "\\n",
            "'",
            "\u{301}",
            "BREAK",
            "=",
            "\u{2028}",
        ];
        (0..self.below(length)).map(|_| PIECES[self.below(PIECES.len())]).collect()
    }
}

/// What the text form keeps of a prompt: blanks at the ends of lines and empty lines in front are lost in A1111 too.
fn kept(prompt: &str) -> String {
    let lines: Vec<&str> = prompt.split('\n').map(str::trim).collect();
    lines.join("\n").trim_start_matches('\n').to_owned()
}

#[test]
fn recipes_come_back() {
    const KEYS: &[&str] = &[
        "Lora hashes",
        "TI hashes",
        "Mask blur",
        "Hires upscale",
        "Hires steps",
        "Hires upscaler",
        "Hires prompt",
        "Inpaint area",
        "Masked area padding",
        "Seed resize from",
        "ControlNet 0",
        "User",
        "So-so/other_1",
    ];
    let mut chance = Chance(1111);
    for round in 0..20_000 {
        let extra = KEYS.iter().filter(|_| chance.below(3) == 0).copied().collect::<Vec<_>>();
        let extra = extra.into_iter().map(|key| (key.to_owned(), chance.text(9)));
        let extra: Vec<_> = extra.filter(|(_, value)| !value.is_empty()).collect();
        let some = |value: String| Some(value).filter(|v| !v.is_empty());
        let recipe = Recipe {
            prompt: chance.text(14),
            negative_prompt: chance.text(8),
            steps: chance.below(150) as u32,
            sampler: "DPM++ 2M".into(),
            schedule: some(chance.text(3)),
            cfg_scale: chance.below(300) as f64 / 10.0,
            seed: chance.0,
            width: chance.below(4096) as u32,
            height: chance.below(4096) as u32,
            model: "a, b: c".into(),
            model_hash: some(chance.text(2)),
            vae: some(chance.text(4)),
            denoising_strength: (round % 2 == 0).then(|| chance.below(1000) as f64 / 1000.0),
            clip_skip: (round % 3 == 0).then(|| 2 + chance.below(10) as u32),
            variation_seed: (round % 5 == 0).then_some(chance.0),
            variation_strength: (round % 5 == 0).then(|| chance.below(1000) as f64 / 1000.0),
            rng: some("CPU".into()),
            extra,
            version: "sd-worker 0.1.0".into(),
        };
        assert_eq!(serde_json::from_str::<Recipe>(&recipe.json()).unwrap(), recipe, "the JSON keeps everything");
        let text = recipe.infotext();
        let back = Recipe::from_infotext(&text);
        let negative_prompt = kept(&recipe.negative_prompt);
        let expected = Recipe { prompt: kept(&recipe.prompt), negative_prompt, ..recipe };
        // Trailing empty lines are cut with the text's end only where no pairs follow; here they always do.
        assert_eq!(back, expected, "round {round}: {text:?}");
        assert_eq!(Recipe::from_infotext(&back.infotext()), back, "and once more");
    }
}

#[test]
fn every_format_carries_every_text() {
    let mut chance = Chance(7);
    let picture = Picture::filled(8, 8, [10, 200, 30]);
    for round in 0..400 {
        let (text, json) = (chance.text(30), serde_json::json!({ "prompt": chance.text(30) }).to_string());
        let embedded = Embedded { parameters: Some(&text), recipe: Some(&json) };
        for format in [
            OutputFormat::Png,
            OutputFormat::Jpeg { quality: 50 },
            OutputFormat::Webp { quality: 50 },
            OutputFormat::WebpLossless,
        ] {
            let found = inspect(&encode(&picture, format, &embedded).unwrap(), &Limits::default()).unwrap();
            assert_eq!(found.parameters.as_deref(), Some(text.as_str()), "round {round}, {format:?}");
            assert_eq!(found.recipe.as_deref(), Some(json.as_str()), "round {round}, {format:?}");
        }
    }
}
