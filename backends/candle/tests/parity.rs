//! Every network against diffusers and transformers, component by component, with every kernel set of this machine.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests stop at the first surprise")]

mod common;

use backend_api::{ModelSource, Param};
use common::{Golden, Hand, model_folder, relative, root, source};
use sd_candle::{
    config::{self, ClipConfig, TinyConfig, UnetConfig, VaeConfig},
    models::{
        Builder,
        autoencoder::Autoencoder,
        clip::{Clip, Tokens, Wanted},
        tiny::TinyDecoder,
        unet::{Unet, UnetItem},
    },
    ops::{self, Activation, Ops},
    weights::{Part, Progress, Vars},
};
use std::{collections::BTreeMap, fmt::Write};

/// The bound that the project promises; single networks stay far below it.
const LIMIT: f64 = 1e-3;

/// Largest relative error by (family, component), over all kernels.
type Table = BTreeMap<(String, String), f64>;

struct Case<'a> {
    family: &'a str,
    golden: Golden,
    ops: Box<dyn Ops>,
    table: &'a mut Table,
}

impl Case<'_> {
    /// Compares one component and notes how far it is.
    fn check(&mut self, component: &str, name: &str, found: &[f32]) {
        let error = relative(found, &self.golden.get(name).1);
        assert!(error <= LIMIT, "{} {name} with {}: {error:.1e}", self.family, self.ops.name());
        let entry = self.table.entry((self.family.to_owned(), component.to_owned())).or_insert(0.0);
        *entry = entry.max(error);
    }

    fn text(&mut self, role: &'static str) {
        let (shape, ids) = self.golden.get(&format!("{role}.ids"));
        let ctl = Hand::default().ctl();
        let src = source(&model_folder(self.family));
        let config: ClipConfig = config::read(&src, role).unwrap().unwrap();
        let layers = config.num_hidden_layers;
        let part = Part::open(&src, role).unwrap().unwrap();
        let progress = Progress::new(&ctl, part.f32_bytes());
        let clip = Clip::new(&Builder::new(self.ops.as_ref(), Vars::new(&part, &progress)), config).unwrap();
        let ids: Vec<u32> = ids.iter().map(|id| *id as u32).collect();
        // All prompts as chunks of one text: chunks do not see each other.
        let run = |ids: &[u32], skip, normed| {
            let wanted = Wanted { skip, normed, pooled: true };
            clip.forward(self.ops.as_ref(), Tokens { ids, length: shape[1], added: &[] }, wanted, &ctl).unwrap()
        };
        let final_states = run(&ids, 0, true).states.to_vec().unwrap();
        let skipped: Vec<_> = (1..layers)
            .map(|n| (n, run(&ids, n, true).states.to_vec().unwrap(), run(&ids, n, false).states.to_vec().unwrap()))
            .collect();
        let pooled: Vec<f32> = ids.chunks_exact(shape[1]).flat_map(|ids| run(ids, 0, true).pooled.unwrap()).collect();
        self.check(role, &format!("{role}.final"), &final_states);
        for (n, normed, raw) in skipped {
            for (name, found) in [(format!("clip_skip.{n}"), normed), (format!("hidden.{}", layers - n), raw)] {
                let name = format!("{role}.{name}");
                if self.golden.has(&name) {
                    self.check(role, &name, &found);
                }
            }
        }
        let name = ["projected", "pooled"].map(|n| format!("{role}.{n}"));
        let name = name.iter().find(|n| self.golden.has(n)).unwrap();
        self.check(&format!("{role}, pooled"), name, &pooled);
    }

    /// All rows in one batch, each with its own timestep, text and extras.
    fn unet(&mut self, src: &ModelSource, prefix: &str) {
        let ctl = Hand::default().ctl();
        let config: UnetConfig = config::read(src, "unet").unwrap().unwrap();
        let part = Part::open(src, "unet").unwrap().unwrap();
        let progress = Progress::new(&ctl, part.f32_bytes());
        let ops = self.ops.as_ref();
        let unet = Unet::new(&Builder::new(ops, Vars::new(&part, &progress)), config).unwrap();
        let (shape, sample) = self.golden.get(&format!("{prefix}.sample"));
        let (_, timesteps) = self.golden.get(&format!("{prefix}.timestep"));
        let (text, context) = self.golden.get(&format!("{prefix}.context"));
        let rows = shape[0];
        let row = |name: &str| -> Option<Vec<Vec<f32>>> {
            let name = format!("{prefix}.{name}");
            self.golden.has(&name).then(|| {
                let values = self.golden.get(&name).1;
                values.chunks_exact(values.len() / rows).map(<[f32]>::to_vec).collect()
            })
        };
        let (pooled, ids, condition) = (row("text_embeds"), row("time_ids"), row("timestep_cond"));
        let class = row("class_labels");
        let keys: Vec<_> = context
            .chunks_exact(text[1] * text[2])
            .map(|c| Activation::from_vec(c.to_vec(), [1, 1, text[1], text[2]], ops.device()).unwrap())
            .map(|c| unet.text_keys(&c, &ctl).unwrap())
            .collect();
        let pick = |of: &'_ Option<Vec<Vec<f32>>>, i: usize| of.as_ref().map(|rows| rows[i].clone());
        let extras: Vec<_> = (0..rows).map(|i| (pick(&pooled, i), pick(&ids, i), pick(&condition, i))).collect();
        let items: Vec<_> = (0..rows)
            .map(|i| UnetItem {
                timestep: timesteps[i],
                text: &keys[i],
                pooled: extras[i].0.as_deref(),
                time_ids: extras[i].1.as_deref(),
                condition: extras[i].2.as_deref(),
                class: class.as_ref().map(|rows| rows[i].as_slice()),
            })
            .collect();
        let x = Activation::from_nchw(&sample, [shape[0], shape[1], shape[2], shape[3]], ops.device()).unwrap();
        let out = unet.forward(ops, &x, &items, &ctl).unwrap().to_nchw().unwrap();
        self.check(prefix, &format!("{prefix}.out"), &out);
    }

    fn vae(&mut self, src: &ModelSource, prefix: &str) {
        let ctl = Hand::default().ctl();
        let config: VaeConfig = config::read(src, "vae").unwrap().unwrap();
        let channels = config.latent_channels;
        let part = Part::open(src, "vae").unwrap().unwrap();
        let progress = Progress::new(&ctl, part.f32_bytes());
        let vae = Autoencoder::new(&Builder::new(self.ops.as_ref(), Vars::new(&part, &progress)), config).unwrap();
        for label in [prefix.to_owned(), format!("{prefix}.odd")] {
            let input = |name: &str| {
                let (s, values) = self.golden.get(&format!("{label}.{name}"));
                Activation::from_nchw(&values, [s[0], s[1], s[2], s[3]], self.ops.device()).unwrap()
            };
            let (latents, picture) = (input("latents"), input("picture"));
            let decoded = vae.decode(self.ops.as_ref(), &latents, &ctl).unwrap().to_nchw().unwrap();
            let moments = vae.encode(self.ops.as_ref(), &picture, &ctl).unwrap();
            assert_eq!(moments.channels(), 2 * channels);
            let moments = moments.to_nchw().unwrap();
            let (mean, logvar) = moments.split_at(moments.len() / 2);
            self.check(&format!("{prefix} decode"), &format!("{label}.decoded"), &decoded);
            self.check(&format!("{prefix} encode"), &format!("{label}.mean"), mean);
            let clamped: Vec<f32> = logvar.iter().map(|v| v.clamp(-30.0, 20.0)).collect();
            self.check(&format!("{prefix} encode"), &format!("{label}.logvar"), &clamped);
        }
    }
}

impl Case<'_> {
    fn tiny(&mut self, src: &ModelSource) {
        let ctl = Hand::default().ctl();
        let config: TinyConfig = config::read(src, "taesd").unwrap().unwrap();
        let part = Part::open(src, "taesd").unwrap().unwrap();
        let progress = Progress::new(&ctl, part.f32_bytes());
        let tiny = TinyDecoder::new(&Builder::new(self.ops.as_ref(), Vars::new(&part, &progress)), config).unwrap();
        let (s, values) = self.golden.get("taesd.latents");
        let latents = Activation::from_nchw(&values, [s[0], s[1], s[2], s[3]], self.ops.device()).unwrap();
        let decoded = tiny.decode(self.ops.as_ref(), &latents).unwrap().to_nchw().unwrap();
        // diffusers turns the decoder's 0 … 1 into −1 … 1.
        let decoded: Vec<f32> = decoded.iter().map(|v| v * 2.0 - 1.0).collect();
        self.check("taesd decode", "taesd.decoded", &decoded);
    }
}

/// The families whose goldens are there: all of them, in the committed tree.
fn families() -> Vec<String> {
    let folder = root().join("tests/fixtures/goldens");
    let names = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter_map(|n| n.strip_suffix(".safetensors").map(str::to_owned)).collect();
    names.retain(|n| model_folder(n).join("model_index.json").exists());
    names.sort();
    assert!(names.iter().any(|n| n == "emoji-sd") && names.iter().any(|n| n == "sd15"), "{names:?}");
    names
}

#[test]
fn networks_agree_with_diffusers() {
    let mut table = Table::new();
    for family in families() {
        for kernels in ops::cpu::available() {
            let ops = ops::cpu::choose(kernels).unwrap();
            let mut case = Case { family: &family, golden: Golden::read(&family), ops, table: &mut table };
            for role in ["text_encoder", "text_encoder_2"] {
                if case.golden.has(&format!("{role}.ids")) {
                    case.text(role);
                }
            }
            let src = source(&model_folder(&family));
            case.unet(&src, "unet");
            case.vae(&src, "vae");
        }
    }
    // Networks that no tiny model has.
    let part = |role: &str, name: &str| {
        let folder = model_folder("parts").join(name);
        let text = std::fs::read_to_string(folder.join("config.json")).unwrap();
        let file = folder.join("diffusion_pytorch_model.safetensors");
        ModelSource {
            name: name.into(),
            files: vec![Param::new(role, file.display())].into(),
            configs: vec![Param::new(role, text)].into(),
            options: Vec::new().into(),
        }
    };
    for kernels in ops::cpu::available() {
        let ops = ops::cpu::choose(kernels).unwrap();
        let mut case = Case { family: "parts", golden: Golden::read("parts"), ops, table: &mut table };
        case.unet(&part("unet", "unclip"), "unclip");
        case.unet(&part("unet", "upscaler"), "upscaler");
        case.vae(&part("vae", "vae-16"), "vae-16");
        case.tiny(&part("taesd", "taesd"));
    }
    compare(&table);
}

/// The table as committed. Errors are rounded up to a power of ten and never below 1e-5, so that machines agree.
fn compare(table: &Table) {
    let mut text = String::from(
        "# How close the networks are to diffusers\n\n\
         Written by the test `networks_agree_with_diffusers` of `backends/candle` (`SD_UPDATE_DOCS=1` rewrites it). Largest\n\
         difference from diffusers' f32 output, relative to the largest value of that output, over all kernel sets of the\n\
         machine; an upper bound, rounded to a power of ten and not finer than 1e-5. The promise is 1e-3.\n\n\
         | model | component | at most |\n|---|---|---|\n",
    );
    for ((family, component), error) in table {
        let power = error.max(1e-5).log10().ceil() as i32;
        writeln!(text, "| {family} | {component} | 1e{power} |").unwrap();
    }
    let path = root().join("docs/PARITY-networks.md");
    if std::env::var_os("SD_UPDATE_DOCS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(committed, text, "run once with SD_UPDATE_DOCS=1");
}
