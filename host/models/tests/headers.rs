//! Safetensors files that lie: each is a typed error, fast, and nothing is mapped or allocated on their word.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where it fails")]

mod common;

use std::time::Duration;

#[track_caller]
fn check(label: &str, bytes: &[u8], code: &str) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    std::fs::write(&path, bytes).unwrap();
    let start = common::Clock::start();
    let error = common::resolve(&path).expect_err(label);
    assert_eq!(error.code(), code, "{label}: {error}");
    assert!(start.elapsed() < Duration::from_secs(1), "{label} took {:?}", start.elapsed());
    assert!(!error.to_string().contains(dir.path().to_str().unwrap()), "{label} tells a path: {error}");
}

#[track_caller]
fn check_header(label: &str, header: &str, data: usize, code: &str) {
    check(label, &common::raw(header, data), code);
}

#[test]
fn lies_about_lengths() {
    check("empty", b"", "file_truncated");
    check("nine bytes", &[2, 0, 0, 0, 0, 0, 0, 0, b'{'], "file_truncated");
    for length in [1_u64 << 63, u64::MAX, 100_000_001, u64::MAX - 7] {
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.extend(b"{}");
        check(&format!("header of {length}"), &bytes, "bad_header");
    }
    let mut bytes = 100_000_000_u64.to_le_bytes().to_vec();
    bytes.extend(b"{\"a\":1}");
    check("a 100 MB header in a small file", &bytes, "file_truncated");
    check("not an object", &common::raw("[1,2,3]   ", 0), "bad_header");
    check_header("trailing bytes", r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, 5, "trailing_bytes");
    check_header("one byte short", r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, 3, "file_truncated");
}

#[test]
fn lies_about_tensors() {
    let one = |body: &str| format!(r#"{{"a":{body}}}"#);
    let two = |a: &str, b: &str| format!(r#"{{"a":{a},"b":{b}}}"#);
    let tensor = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#"{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}"#)
    };
    for (label, header, data) in [
        ("not JSON", "{\"a\":".to_owned(), 0),
        ("text after the object", r#"{}{}"#.to_owned(), 0),
        ("no offsets", one(r#"{"dtype":"F32","shape":[1]}"#), 4),
        ("a further field", one(r#"{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1}"#), 4),
        ("unknown dtype", one(&tensor("F99", "[1]", "[0,4]")), 4),
        ("dtype is a number", one(r#"{"dtype":4,"shape":[1],"data_offsets":[0,4]}"#), 4),
        ("negative dimension", one(&tensor("F32", "[-1]", "[0,4]")), 4),
        ("fraction as dimension", one(&tensor("F32", "[1.5]", "[0,4]")), 4),
        ("nine dimensions", one(&tensor("F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]")), 4),
        ("shape overflows", one(&tensor("F32", "[4294967296,4294967296]", "[0,4]")), 4),
        ("shape × dtype overflows", one(&tensor("F64", "[4611686018427387904]", "[0,4]")), 4),
        ("offsets too small for the shape", one(&tensor("F32", "[2]", "[0,4]")), 4),
        ("offsets too large for the shape", one(&tensor("F32", "[1]", "[0,8]")), 8),
        ("offsets backwards", one(&tensor("F32", "[1]", "[4,0]")), 4),
        ("first tensor not at 0", one(&tensor("F32", "[1]", "[4,8]")), 8),
        ("overlap", two(&tensor("F32", "[2]", "[0,8]"), &tensor("F32", "[2]", "[4,12]")), 12),
        ("same bytes twice", two(&tensor("F32", "[1]", "[0,4]"), &tensor("F32", "[1]", "[0,4]")), 4),
        ("hole", two(&tensor("F32", "[1]", "[0,4]"), &tensor("F32", "[1]", "[8,12]")), 12),
        (
            "offsets at the end of the world",
            one(&tensor("F32", "[1]", "[18446744073709551611,18446744073709551615]")),
            4,
        ),
        ("a name twice", format!(r#"{{"a":{t},"a":{t}}}"#, t = tensor("F32", "[1]", "[0,4]")), 4),
        ("metadata of numbers", r#"{"__metadata__":{"a":1}}"#.to_owned(), 0),
        ("metadata twice", r#"{"__metadata__":{},"__metadata__":{}}"#.to_owned(), 0),
    ] {
        check_header(label, &header, data, "bad_header");
    }
}

#[test]
fn large_headers_are_cheap() {
    let names: Vec<String> =
        (0..100_001).map(|i| format!(r#""t{i}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#)).collect();
    check_header("100,001 tensors", &format!("{{{}}}", names.join(",")), 0, "bad_header");
    check_header("20 MB of brackets", &format!("{{\"a\":{}", "[".repeat(20_000_000)), 0, "bad_header");
    check_header(
        "20 MB of dimensions",
        &format!(r#"{{"a":{{"shape":[{}]}}}}"#, vec!["1"; 10_000_000].join(",")),
        0,
        "bad_header",
    );
    check_header(
        "a long name",
        &format!(r#"{{"{}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}}}"#, "a".repeat(2_000)),
        0,
        "bad_header",
    );
}

#[test]
fn other_formats_are_named() {
    // The first bytes of what torch.save, pickle.dump (protocols 0, 2, 4) and others write.
    for (label, bytes, code) in [
        (
            "torch zip",
            b"PK\x03\x04\x00\x00\x08\x08\x00\x00\x00\x00\x00\x00\x00\x00archive/data.pkl".as_slice(),
            "pickle_refused",
        ),
        ("pickle 2", b"\x80\x02}q\x00X\x05\x00\x00\x00modelq\x01K\x01s.".as_slice(), "pickle_refused"),
        (
            "pickle 4",
            b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00}\x94\x8c\x01a\x94K\x01s.".as_slice(),
            "pickle_refused",
        ),
        ("pickle 0", b"(dp0\nS'a'\np1\nI1\ns.".as_slice(), "pickle_refused"),
        ("pickle of a call", b"cos\nsystem\n(S'id'\ntR.".as_slice(), "pickle_refused"),
        ("gguf", b"GGUF\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00".as_slice(), "unsupported_format"),
        ("hdf5", b"\x89HDF\r\n\x1a\n\x00\x00\x00\x00\x00\x00\x00\x00".as_slice(), "unsupported_format"),
        ("lfs pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n".as_slice(), "unsupported_format"),
        ("html", b"<!DOCTYPE html><html><body>Sign in</body></html>".as_slice(), "unsupported_format"),
    ] {
        check(label, bytes, code);
    }
    // A header of 640 bytes begins with the bytes of a pickle and is none.
    let mut header = r#"{"x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#.to_owned();
    header.extend(std::iter::repeat_n(' ', 640 - header.len()));
    check_header("a header like a pickle", &header, 0, "unsupported_model");
}

#[test]
fn pickles_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let (header, data) = common::header(&[("a", &[1])]);
    for name in ["m.ckpt", "m.pt", "m.bin", "m.pkl", "m.PTH"] {
        let path = dir.path().join(name);
        std::fs::write(&path, common::raw(&header, data)).unwrap();
        assert_eq!(common::resolve(&path).unwrap_err().code(), "pickle_refused", "{name}");
    }
    std::fs::write(dir.path().join("only.ckpt"), b"\x80\x02").unwrap();
    let library = sd_models::Library::new(vec![dir.path().into()], None);
    let asked = sd_models::ModelRef::from_operator("only").unwrap();
    assert_eq!(library.resolve(&asked, Default::default()).unwrap_err().code(), "pickle_refused");
}

#[test]
fn other_safetensors_are_named() {
    for (tensor, what) in [
        ("lora_unet_down_blocks_0.lora_down.weight", "LoRA"),
        ("model.diffusion_model.double_blocks.0.img_attn.norm.key_norm.scale", "Flux"),
        ("model.diffusion_model.joint_blocks.0.context_block.adaLN_modulation.1.bias", "Diffusion 3"),
        ("control_model.time_embed.0.weight", "ControlNet"),
        ("encoder.down.0.block.0.conv1.weight", "VAE"),
        ("down_blocks.0.resnets.0.conv1.weight", "diffusers folder"),
        ("emb_params", "textual-inversion"),
        ("something.else", "unknown"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let (header, data) = common::header(&[(tensor, &[2])]);
        std::fs::write(&path, common::raw(&header, data)).unwrap();
        let error = common::resolve(&path).unwrap_err();
        assert_eq!(error.code(), "unsupported_model", "{tensor}");
        assert!(error.to_string().contains(what), "{tensor}: {error}");
    }
}

/// Random bytes in the header of a real checkpoint: an answer every time, never a panic, never slow.
#[test]
fn mutated_headers() {
    use std::io::{Seek, SeekFrom, Write};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.safetensors");
    let whole = std::fs::read(common::repository().join("tests/fixtures/singlefile/sd15.safetensors")).unwrap();
    let length = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    std::fs::write(&path, &whole).unwrap();
    let mut file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |bound: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % bound
    };
    let signs = b"0123456789[]{},:\"-.eE \\\x00\xff";
    let mut codes = std::collections::BTreeMap::new();
    for _ in 0..400 {
        let at = if next(8) == 0 { next(8) } else { 8 + next(length) };
        let byte = signs[next(signs.len())];
        file.seek(SeekFrom::Start(at as u64)).unwrap();
        file.write_all(&[byte]).unwrap();
        let start = common::Clock::start();
        let code = common::resolve(&path).err().map_or("ok", |error| error.code());
        assert!(start.elapsed() < Duration::from_secs(1), "byte {at} = {byte}");
        *codes.entry(code).or_insert(0) += 1;
        file.seek(SeekFrom::Start(at as u64)).unwrap();
        file.write_all(&whole[at..=at]).unwrap();
    }
    // Without its tokenizer the untouched file itself ends in `bad_tokenizer`.
    assert!(codes["bad_header"] > 100, "{codes:?}");
    assert!(
        codes.keys().all(|code| [
            "bad_header",
            "bad_tokenizer",
            "file_truncated",
            "tensor_missing",
            "wrong_family",
            "unsupported_model",
            "unsupported_dtype",
            "trailing_bytes",
            "bad_config"
        ]
        .contains(code)),
        "{codes:?}"
    );
}
