//! Broken weights and configs: each gives its own typed error, fast, and never a panic.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail by panicking")]

mod common;

use backend_api::{Code, ModelSource, Param, author::Backend};
use common::{Hand, backend, model_folder, source};
use std::path::{Path, PathBuf};

/// A copy of the tiny SD 1.5 model of which one part is changed.
struct Broken {
    folder: PathBuf,
    source: ModelSource,
}

impl Broken {
    fn new(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&folder).unwrap();
        Broken { folder, source: source(&model_folder("sd15")) }
    }

    fn bytes(&self, role: &str) -> Vec<u8> {
        let file = self.source.files.iter().find(|f| f.key.as_str() == role).unwrap();
        std::fs::read(file.value.as_str()).unwrap()
    }

    fn put(&mut self, role: &str, bytes: &[u8]) {
        let path = self.folder.join("weights.safetensors");
        std::fs::write(&path, bytes).unwrap();
        let file = self.source.files.iter_mut().find(|f| f.key.as_str() == role).unwrap();
        file.value = path.display().to_string().into();
    }

    fn config(&mut self, role: &str, change: impl FnOnce(&mut serde_json::Value)) {
        let config = self.source.configs.iter_mut().find(|c| c.key.as_str() == role).unwrap();
        let mut value = serde_json::from_str(&config.value).unwrap();
        change(&mut value);
        config.value = value.to_string().into();
    }
}

/// A file with another header text before the same data.
fn with_header(bytes: &[u8], change: impl FnOnce(&mut serde_json::Value)) -> Vec<u8> {
    let len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header = serde_json::from_slice(&bytes[8..8 + len]).unwrap();
    change(&mut header);
    let text = header.to_string();
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes(), &bytes[8 + len..]].concat()
}

/// Loading must fail with this code and a message that holds `part_of_message` and no path.
fn check(name: &str, code: Code, part_of_message: &str, change: impl FnOnce(&mut Broken)) {
    let mut broken = Broken::new(name);
    change(&mut broken);
    let backend = backend("portable");
    let error = backend.load(&broken.source, &Hand::default().ctl()).err().unwrap_or_else(|| panic!("{name} loaded"));
    assert_eq!(error.code, code, "{name}: {error}");
    assert!(error.message.contains(part_of_message), "{name}: {error}");
    assert!(!error.message.contains(env!("CARGO_TARGET_TMPDIR")), "{name}: {error}");
}

const UNET: &str = "unet";
const TENSOR: &str = "conv_in.bias";

#[test]
fn files_that_lie() {
    let header = |name: &str, message: &str, change: fn(&mut serde_json::Value)| {
        check(name, Code::DATA_LOSS, message, |b| b.put(UNET, &with_header(&b.bytes(UNET), change)));
    };
    header("dtype unknown", "unknown type", |h| h[TENSOR]["dtype"] = "F33".into());
    header("dtype of integers", "element type I16", |h| h[TENSOR]["dtype"] = "I16".into());
    header("shape too large", "does not fit", |h| h[TENSOR]["shape"] = vec![1u64 << 40].into());
    header("shape overflows", "does not fit", |h| h[TENSOR]["shape"] = vec![u64::MAX, u64::MAX].into());
    header("shape negative", "not readable", |h| h[TENSOR]["shape"] = vec![-4i64].into());
    header("offsets backwards", "outside", |h| h[TENSOR]["data_offsets"] = vec![64u64, 32].into());
    header("offsets outside", "outside", |h| h[TENSOR]["data_offsets"] = vec![u64::MAX - 32, u64::MAX].into());
    header("overlap", "overlap", |h| {
        h["conv_in.weight"]["data_offsets"] = h["conv_out.weight"]["data_offsets"].clone()
    });
    header("entry without shape", "not readable", |h| h[TENSOR] = serde_json::json!({"dtype": "F16"}));
    header("another shape", "[4, 4]", |h| h[TENSOR]["shape"] = vec![4, 4].into());
    check("tensor gone", Code::NOT_FOUND, "conv_in.weight", |b| {
        let without = with_header(&b.bytes(UNET), |h| {
            let gone = h.as_object_mut().unwrap().remove("conv_in.weight");
            assert!(gone.is_some());
        });
        b.put(UNET, &without);
    });
}

#[test]
fn files_that_are_cut_or_foreign() {
    let put = |name: &str, message: &str, change: fn(Vec<u8>) -> Vec<u8>| {
        check(name, Code::DATA_LOSS, message, |b| b.put(UNET, &change(b.bytes(UNET))));
    };
    put("empty", "shortest", |_| Vec::new());
    put("seven bytes", "shortest", |b| b[..7].to_vec());
    put("cut in the header", "claims", |b| b[..100].to_vec());
    put("cut in the data", "truncated", |b| b[..b.len() - 1].to_vec());
    put("half", "truncated", |b| b[..b.len() / 2].to_vec());
    put("header of any size", "claims", |b| [&u64::MAX.to_le_bytes()[..], &b[8..]].concat());
    put("header no JSON", "no JSON", |mut b| {
        b[8] = b'x';
        b
    });
    put("a zip", "pickle", |b| [&b"PK\x03\x04"[..], &b[4..]].concat());
    put("a pickle", "pickle", |b| [&b"\x80\x02"[..], &b[2..]].concat());
    // The last values of the file belong to some tensor: not a number there is found.
    put("not a number", "not finite", |mut b| {
        let at = b.len() - 2;
        b[at..].copy_from_slice(&0x7e00u16.to_le_bytes());
        b
    });
    put("infinite", "not finite", |mut b| {
        let at = b.len() - 2;
        b[at..].copy_from_slice(&0x7c00u16.to_le_bytes());
        b
    });
    check("no file", Code::NOT_FOUND, "cannot be read", |b| {
        let file = b.source.files.iter_mut().find(|f| f.key.as_str() == UNET).unwrap();
        file.value = b.folder.join("nothing.safetensors").display().to_string().into();
    });
    check("a folder", Code::DATA_LOSS, "`unet`", |b| {
        let file = b.source.files.iter_mut().find(|f| f.key.as_str() == UNET).unwrap();
        file.value = b.folder.display().to_string().into();
    });
}

#[test]
fn configs_that_do_not_fit() {
    let unet = |name: &str, code, message: &str, change: fn(&mut serde_json::Value)| {
        check(name, code, message, |b| b.config(UNET, change));
    };
    unet("type of block", Code::UNSUPPORTED, "down_block_types", |c| {
        c["down_block_types"][0] = "AttnDownBlock2D".into()
    });
    unet("fewer blocks", Code::INVALID, "up_block_types", |c| c["up_block_types"] = vec!["UpBlock2D"].into());
    unet("groups", Code::INVALID, "norm_num_groups", |c| c["norm_num_groups"] = 7.into());
    unet("padding", Code::INVALID, "downsample_padding", |c| c["downsample_padding"] = 200_000.into());
    unet("no groups", Code::INVALID, "norm_num_groups", |c| c["norm_num_groups"] = 0.into());
    unet("no width", Code::INVALID, "block_out_channels", |c| c["block_out_channels"] = Vec::<u32>::new().into());
    unet("vast width", Code::INVALID, "block_out_channels", |c| c["block_out_channels"][0] = (1u64 << 40).into());
    unet("heads", Code::INVALID, "attention_head_dim", |c| c["attention_head_dim"] = 0.into());
    unet("text of another width", Code::DATA_LOSS, "attn2", |c| c["cross_attention_dim"] = 48.into());
    unet("channels", Code::UNSUPPORTED, "in_channels", |c| c["in_channels"] = 7.into());
    unet("wider", Code::DATA_LOSS, "shape", |c| c["block_out_channels"][2] = 48.into());
    unet("a string for a number", Code::INVALID, "unet", |c| c["in_channels"] = "four".into());
    check("no JSON", Code::INVALID, "vae", |b| {
        let config = b.source.configs.iter_mut().find(|c| c.key.as_str() == "vae").unwrap();
        config.value = "{".into();
    });
    check("scaling of nothing", Code::INVALID, "scaling_factor", |b| {
        b.config("vae", |c| c["scaling_factor"] = 0.into())
    });
    check("another activation", Code::UNSUPPORTED, "hidden_act", |b| {
        b.config("text_encoder", |c| c["hidden_act"] = "swish2".into());
    });
    check("more layers than weights", Code::NOT_FOUND, "encoder.layers.3", |b| {
        b.config("text_encoder", |c| c["num_hidden_layers"] = 4.into());
    });
    for part in ["unet", "vae", "text_encoder"] {
        check("no config", Code::NOT_FOUND, part, |b| {
            b.source.configs = b.source.configs.iter().filter(|c| c.key.as_str() != part).cloned().collect();
        });
        check("no weights", Code::NOT_FOUND, part, |b| {
            b.source.files = b.source.files.iter().filter(|c| c.key.as_str() != part).cloned().collect();
        });
    }
}

#[test]
fn loading_can_be_cancelled_and_reports_bytes() {
    let source = source(&model_folder("sd15"));
    let backend = backend("portable");
    let error = backend.load(&source, &Hand::cancelling(5).ctl()).err().unwrap();
    assert_eq!(error.code, Code::CANCELLED);
    let hand = Hand::default();
    let model = backend.load(&source, &hand.ctl()).ok().unwrap();
    let plan = backend.inspect(&source).unwrap();
    let total = hand.state().total.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(total, hand.state().done.load(std::sync::atomic::Ordering::Relaxed));
    assert_eq!(plan.weight_bytes, total);
    assert_eq!(model.memory().weights, total);
    assert_eq!(backend.memory().weights, total);
    drop(model);
    assert_eq!(backend.memory().weights, 0);
    assert!(plan.peak_bytes > plan.weight_bytes);
    assert!(source.options.iter().all(|o: &Param| o.key.as_str() != "precision"));
}
