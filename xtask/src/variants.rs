//! Builds of the CPU plugin for several instruction sets, as files beside each other: the worker takes the one that fits
//! the processor best, and leaves those that need another processor alone.

use crate::shell::{Outcome, cargo, say, step, target};
use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

/// One build: the end of its file's name, what the compiler is told, and whether it is made without being named.
struct Variant {
    name: &'static str,
    flags: &'static [&'static str],
    usual: bool,
}

/// The x86-64 levels are those of the psABI: level 3 has AVX2 and FMA, level 4 the AVX-512 of servers since 2017. None for
/// AVX-512 BF16 or AMX: the compiler turns no `f32` arithmetic into theirs. Made by default is what was measured to bring
/// something (docs/VARIANTS.md).
#[cfg(target_arch = "x86_64")]
const VARIANTS: [Variant; 3] = [
    Variant { name: "baseline", flags: &["-C", "target-cpu=x86-64"], usual: true },
    Variant { name: "avx2", flags: &["-C", "target-cpu=x86-64-v3"], usual: true },
    Variant { name: "avx512", flags: &["-C", "target-cpu=x86-64-v4"], usual: false },
];

/// NEON is in every 64-bit Arm processor.
#[cfg(target_arch = "aarch64")]
const VARIANTS: [Variant; 1] = [Variant { name: "neon", flags: &[], usual: true }];

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const VARIANTS: [Variant; 1] = [Variant { name: "baseline", flags: &[], usual: true }];

/// The builds of `gauss` that the choice is tested with, made by `cargo xtask test` too.
#[cfg(target_arch = "x86_64")]
const GAUSS: [(&str, &str); 4] = [
    ("baseline", "+sse2"),
    ("avx2", "+avx2,+fma"),
    ("avx512", "+avx512f,+avx512vl"),
    // No processor has both: TBM went before AVX-512 came.
    ("impossible", "+tbm,+avx512f"),
];

#[derive(Default)]
struct Options {
    out: Option<PathBuf>,
    profile: Option<String>,
    check: bool,
    bench: bool,
    gauss: bool,
    names: Vec<String>,
}

pub(crate) fn run(args: &[String]) -> Outcome {
    let options = read(args)?;
    if options.gauss {
        return gauss();
    }
    let out = options.out.clone().unwrap_or_else(|| place().join("plugins"));
    let profile = options.profile.as_deref().unwrap_or("release");
    std::fs::create_dir_all(&out).map_err(|e| format!("{}: {e}", out.display()))?;
    let named = |v: &Variant| options.names.iter().any(|name| name == v.name);
    for variant in VARIANTS.iter().filter(|v| if options.names.is_empty() { v.usual } else { named(v) }) {
        build(variant, profile, &out)?;
    }
    say(&format!("\nin {}", out.display()));
    if options.check || options.bench {
        step("build the worker", cargo(&["build", "--release", "--locked", "--workspace"]))?;
        let mut judge = Command::new(target().join("variants"));
        judge.arg(&out).args(options.check.then_some("--check")).args(options.bench.then_some("--bench"));
        step("variants", judge)?;
    }
    Ok(())
}

fn read(args: &[String]) -> Result<Options, String> {
    let mut options = Options::default();
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        let mut value = || rest.next().cloned().ok_or_else(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "--out" => options.out = Some(value()?.into()),
            "--profile" => options.profile = Some(value()?),
            "--check" => options.check = true,
            "--bench" => options.bench = true,
            "--gauss" => options.gauss = true,
            name if VARIANTS.iter().any(|v| v.name == name) => options.names.push(name.to_owned()),
            other => {
                let known: Vec<&str> = VARIANTS.iter().map(|v| v.name).collect();
                return Err(format!(
                    "there is no variant `{other}` for this processor; there are {}",
                    known.join(", ")
                ));
            }
        }
    }
    Ok(options)
}

/// Where all of it is built: apart from other builds, so that neither undoes the other's cache.
fn place() -> PathBuf {
    target().parent().map_or_else(|| PathBuf::from("target"), Path::to_path_buf).join("variants")
}

/// This machine's target triple. Naming it keeps the flags away from build scripts and macros, which run here.
fn triple() -> Result<String, String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let out = Command::new(rustc).arg("-vV").output().map_err(|e| format!("rustc does not start: {e}"))?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let host = text.lines().find_map(|line| line.strip_prefix("host: ")).ok_or("rustc does not say its host")?;
    Ok(host.to_owned())
}

/// The flags of the caller's environment, then ours, as cargo takes them.
fn flags(ours: &[&str]) -> OsString {
    let theirs = std::env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_else(|_| {
        let flags = std::env::var("RUSTFLAGS").unwrap_or_default();
        flags.split_whitespace().collect::<Vec<_>>().join("\x1f")
    });
    let all: Vec<&str> = theirs.split('\x1f').filter(|f| !f.is_empty()).chain(ours.iter().copied()).collect();
    all.join("\x1f").into()
}

fn build(variant: &Variant, profile: &str, out: &Path) -> Outcome {
    let (place, triple) = (place(), triple()?);
    let mut command = cargo(&["build", "--locked", "--package", "sd-backend-candle-cpu", "--profile", profile]);
    command.args(["--target", &triple]).arg("--target-dir").arg(&place);
    command.env("CARGO_ENCODED_RUSTFLAGS", flags(variant.flags));
    step(&format!("candle-cpu for {}", variant.name), command)?;
    let folder = if profile == "dev" { "debug" } else { profile };
    let built = library(&place.join(triple).join(folder), "sd_backend_candle_cpu");
    put(&built, &library(out, &format!("sd_backend_candle_cpu_{}", variant.name)))
}

/// `gauss` for other processors: only its own crate is compiled anew, since nothing is gained by the rest.
#[cfg(target_arch = "x86_64")]
pub(crate) fn gauss() -> Outcome {
    let out = target().join("gauss-variants");
    std::fs::create_dir_all(&out).map_err(|e| format!("{}: {e}", out.display()))?;
    for (name, features) in GAUSS {
        let example = ["rustc", "--release", "--locked", "--package", "sd-backend-gauss", "--example", "gauss_variant"];
        let mut command = cargo(&example);
        command.args(["--", &format!("-Ctarget-feature={features}")]);
        step(&format!("gauss for {name}"), command)?;
        let built = library(&target().join("examples"), "gauss_variant");
        put(&built, &library(&out, &format!("sd_backend_gauss_{name}")))?;
    }
    Ok(())
}

/// There is but one build elsewhere.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn gauss() -> Outcome {
    Ok(())
}

fn library(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{}{name}{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX))
}

/// Copies by renaming: a worker may have the old file mapped.
fn put(from: &Path, to: &Path) -> Outcome {
    let aside = to.with_extension("new");
    let failed = |e: std::io::Error| format!("{}: {e}", to.display());
    let bytes = std::fs::copy(from, &aside).map_err(|e| format!("{}: {e}", from.display()))?;
    std::fs::rename(&aside, to).map_err(failed)?;
    say(&format!("── {} ({:.1} MiB)", to.file_name().unwrap_or_default().to_string_lossy(), bytes as f64 / 1048576.0));
    Ok(())
}
