//! Every sampler against diffusers and k-diffusion: same noise, same closed-form denoisers, final latents compared.
//!
//! Writes the table of `docs/PARITY-samplers.md` (with `SD_UPDATE_DOCS=1`), or compares with it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use crate::support::{Denoiser, Goldens};
use sd_sampling::{ModelSampling, Options, Plan, Prediction, Sampler, Schedule, SchedulerConfig, Settings};
use serde::Deserialize;

/// The largest deviation of final latents that passes.
const LIMIT: f64 = 1e-3;

#[derive(Deserialize)]
struct Index {
    defaults: serde_json::Map<String, serde_json::Value>,
    schedules: BTreeMap<String, NamedSchedule>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct NamedSchedule {
    sigmas: BTreeMap<String, Vec<f64>>,
}

#[derive(Deserialize)]
struct Case {
    library: String,
    sampler: String,
    steps: usize,
    denoiser: String,
    /// k-diffusion only.
    schedule: Option<String>,
    /// diffusers only.
    #[serde(default)]
    config: serde_json::Map<String, serde_json::Value>,
    #[serde(default)]
    options: serde_json::Map<String, serde_json::Value>,
    calls: usize,
    #[serde(default)]
    timesteps: Vec<f64>,
}

fn goldens_dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/goldens")
}

fn index() -> Index {
    serde_json::from_slice(&std::fs::read(goldens_dir().join("samplers.json")).unwrap()).unwrap()
}

/// What a case of the goldens is in our terms.
struct Ours {
    settings: Settings,
    config: SchedulerConfig,
    row: String,
    column: String,
}

/// Cases of options that this crate does not have, by name; they are listed in the document.
fn not_covered(case: &Case) -> Option<&'static str> {
    let is = |key: &str, value: serde_json::Value| case.config.get(key) == Some(&value);
    if case.sampler.starts_with("EDM") {
        return Some("EDM preconditioning (EDMEulerScheduler, EDMDPMSolverMultistepScheduler)");
    }
    if case.sampler == "DPMSolverSinglestepScheduler" {
        return Some("DPMSolverSinglestepScheduler (DPM++ 2S without noise is there as 2S a with eta 0)");
    }
    if is("algorithm_type", "dpmsolver".into()) {
        return Some("algorithm_type dpmsolver (deprecated in diffusers)");
    }
    if is("predict_x0", false.into()) || case.config.contains_key("disable_corrector") {
        return Some("UniPC with predict_x0 = false or disable_corrector");
    }
    if is("variance_type", "fixed_large".into()) {
        return Some("DDPM with variance_type fixed_large");
    }
    None
}

/// Cases in which ours is another answer than diffusers', and why ours is right.
fn explained(case: &Case) -> Option<&'static str> {
    let is = |key: &str, value: serde_json::Value| case.config.get(key) == Some(&value);
    if is("algorithm_type", "sde-dpmsolver++".into()) && is("solver_order", 3.into()) {
        return Some(
            "DPM-Solver++ SDE of order 3: the third-order term of diffusers has -1/2 where the integral (and its own \
             order 3 without noise, and k-diffusion's 3M SDE) has +1/2.",
        );
    }
    if case.sampler == "PNDMScheduler" && is("timestep_spacing", "linspace".into()) && case.steps == 5 {
        return Some(
            "PNDM with linspace spacing: diffusers does its first step twice as if the timesteps were an even stride \
             apart, which linspace's are not; ours takes the timesteps that the network is told.",
        );
    }
    None
}

fn ours(case: &Case, index: &Index, prediction: Prediction) -> Ours {
    if case.library == "k-diffusion" { k_diffusion(case, index, prediction) } else { diffusers(case, index) }
}

fn k_diffusion(case: &Case, index: &Index, prediction: Prediction) -> Ours {
    let mut options = Options::default();
    let sampler = match case.sampler.as_str() {
        "euler" => Sampler::Euler,
        "euler_churn" => {
            options.s_churn = 4.0;
            Sampler::Euler
        }
        "euler_ancestral" => Sampler::EulerAncestral,
        "euler_ancestral_eta05" => {
            options.eta = Some(0.5);
            Sampler::EulerAncestral
        }
        "heun" => Sampler::Heun,
        "dpm_2" => Sampler::Dpm2,
        "dpm_2_ancestral" => Sampler::Dpm2Ancestral,
        "lms" => Sampler::Lms,
        "dpmpp_2s_ancestral" => Sampler::Dpmpp2sAncestral,
        "dpmpp_sde" => Sampler::DpmppSde,
        "dpmpp_2m" => Sampler::Dpmpp2m,
        "dpmpp_2m_sde" => Sampler::Dpmpp2mSde,
        "dpmpp_2m_sde_heun" => Sampler::Dpmpp2mSdeHeun,
        "dpmpp_3m_sde" => Sampler::Dpmpp3mSde,
        "dpm_fast" => Sampler::DpmFast,
        "dpm_adaptive" => Sampler::DpmAdaptive,
        "dpm_fast_eta1" | "dpm_adaptive_eta1" => {
            options.eta = Some(1.0);
            if case.sampler.starts_with("dpm_fast") { Sampler::DpmFast } else { Sampler::DpmAdaptive }
        }
        "restart" => Sampler::Restart,
        "ipndm" => Sampler::Ipndm,
        "lcm" => Sampler::Lcm,
        other => panic!("no sampler for {other}"),
    };
    let name = case.schedule.clone().unwrap();
    // Variants that we do not name run as lists of sigmas; so does ddim_uniform where it has more than the steps.
    let mut sigmas = None;
    let schedule = match name.as_str() {
        "normal" => Schedule::Normal,
        "simple" => Schedule::Simple,
        "karras" => Schedule::Karras,
        "exponential" => Schedule::Exponential,
        "polyexponential" => Schedule::PolyExponential,
        "sgm_uniform" => Schedule::SgmUniform,
        "ddim_uniform" => Schedule::DdimUniform,
        "beta" => Schedule::Beta,
        "align_your_steps" => Schedule::AlignYourSteps,
        "align_your_steps_xl" => Schedule::AlignYourStepsXl,
        "kl_optimal" => Schedule::KlOptimal,
        _ => {
            sigmas = Some(index.schedules[&name].sigmas[&case.steps.to_string()].clone());
            Schedule::Auto
        }
    };
    Ours {
        settings: Settings { sampler, schedule, sigmas, steps: case.steps, options, ..Settings::default() },
        config: SchedulerConfig { prediction_type: Some(prediction.name().to_owned()), ..SchedulerConfig::default() },
        row: case.sampler.clone(),
        column: name,
    }
}

fn diffusers(case: &Case, index: &Index) -> Ours {
    let mut json = index.defaults.clone();
    json.extend(case.config.clone());
    let config: SchedulerConfig = serde_json::from_value(json.into()).unwrap();
    let sde = config.algorithm_type.as_deref() == Some("sde-dpmsolver++");
    let sampler = match case.sampler.as_str() {
        "DDIMScheduler" => Sampler::Ddim,
        "DDPMScheduler" => Sampler::Ddpm,
        "PNDMScheduler" => Sampler::Plms,
        "EulerDiscreteScheduler" => Sampler::Euler,
        "EulerAncestralDiscreteScheduler" => Sampler::EulerAncestral,
        "HeunDiscreteScheduler" => Sampler::Heun,
        "LMSDiscreteScheduler" => Sampler::Lms,
        "KDPM2DiscreteScheduler" => Sampler::Dpm2,
        "KDPM2AncestralDiscreteScheduler" => Sampler::Dpm2Ancestral,
        "DPMSolverMultistepScheduler" if sde => Sampler::Dpmpp2mSde,
        "DPMSolverMultistepScheduler" => Sampler::Dpmpp2m,
        "DPMSolverSDEScheduler" => Sampler::DpmppSde,
        "UniPCMultistepScheduler" if config.solver_type.as_deref() == Some("bh1") => Sampler::UniPcBh1,
        "UniPCMultistepScheduler" => Sampler::UniPcBh2,
        "DEISMultistepScheduler" => Sampler::Deis,
        "LCMScheduler" => Sampler::Lcm,
        "TCDScheduler" => Sampler::Tcd,
        other => panic!("no sampler for {other}"),
    };
    let eta = case.options.get("eta").and_then(serde_json::Value::as_f64);
    let column = case
        .config
        .iter()
        .filter(|(key, _)| !matches!(key.as_str(), "clip_sample" | "original_inference_steps" | "steps_offset"))
        .map(|(key, value)| format!("{key}={}", value.to_string().replace('"', "")))
        .chain(eta.map(|eta| format!("eta={eta}")))
        .collect::<Vec<_>>()
        .join(" ");
    Ours {
        settings: Settings {
            sampler,
            steps: case.steps,
            options: Options { eta, ..Options::default() },
            ..Settings::default()
        },
        config,
        row: case.sampler.clone(),
        column,
    }
}

/// Runs a case our way: the largest deviation from the golden latents.
fn deviation(case: &Case, ours: &Ours, initial: &[f32], noise: &[f32], golden: &[f32]) -> f64 {
    let model = ModelSampling::new(&ours.config).unwrap();
    let plan = Plan::new(&model, &ours.settings).unwrap();
    let denoiser = if case.denoiser == "gauss" { Denoiser::Gauss } else { Denoiser::Mixture };
    let (mut drawn, mut calls, mut reports) = (0, 0, 0);
    let mut timesteps = Vec::new();
    let result: Result<Vec<f32>, ()> = plan.run(
        plan.begin(initial, None),
        &mut |eval| {
            calls += 1;
            timesteps.push(f64::from(eval.timestep));
            Ok(denoiser.network(eval, model.prediction()))
        },
        &mut |_| {
            drawn += 1;
            noise[(drawn - 1) * initial.len()..drawn * initial.len()].to_vec()
        },
        &mut |step| {
            reports += 1;
            assert_eq!((step.step, step.total), (reports, plan.total()));
            Ok(())
        },
    );
    assert_eq!(reports, plan.total(), "{} {}: reports", ours.row, ours.column);
    assert_eq!(calls, case.calls, "{} {} {}: calls of the network", ours.row, ours.column, case.steps);
    for (ours_t, theirs) in timesteps.iter().zip(&case.timesteps) {
        assert!(
            (ours_t - theirs).abs() < 0.02,
            "{} {}: timesteps {timesteps:?}, not {:?}",
            ours.row,
            ours.column,
            case.timesteps
        );
    }
    let latents = result.unwrap();
    latents
        .iter()
        .zip(golden)
        .map(|(a, b)| f64::from((a - b).abs()))
        .fold(0.0, |m, d| if d.is_nan() { d } else { f64::max(m, d) })
}

/// Largest deviation per reference, row and column.
type Table = BTreeMap<(String, String), BTreeMap<String, f64>>;

#[test]
fn samplers_are_those_of_diffusers_and_k_diffusion() {
    let index = index();
    let goldens = Goldens::open("samplers");
    let (initial, noise, finals) = (goldens.f32("initial"), goldens.f32("noise"), goldens.f32("finals"));
    let (mut failures, mut table, mut count) = (String::new(), Table::new(), 0);
    let (mut skipped, mut reasons) = (BTreeMap::new(), BTreeMap::<&str, f64>::new());
    assert_eq!(index.cases.len(), finals.len() / initial.len());
    for (case, golden) in index.cases.iter().zip(finals.chunks_exact(initial.len())) {
        if let Some(reason) = not_covered(case) {
            *skipped.entry(reason).or_insert(0) += 1;
            continue;
        }
        // k-diffusion knows no predictions: each of ours must give its result.
        let all = [Prediction::Epsilon, Prediction::V, Prediction::Sample];
        let predictions = if case.library == "diffusers" { &all[..1] } else { &all[..] };
        for prediction in predictions {
            let ours = ours(case, &index, *prediction);
            let deviation = deviation(case, &ours, &initial, &noise, golden);
            count += 1;
            if let Some(reason) = explained(case) {
                let largest = reasons.entry(reason).or_insert(0.0);
                *largest = largest.max(deviation);
                continue;
            }
            if deviation > LIMIT || deviation.is_nan() {
                let Ours { row, column, .. } = &ours;
                writeln!(failures, "{deviation:.1e} {row} [{column}] {} steps {prediction:?}", case.steps).unwrap();
            }
            let cell = table.entry((case.library.clone(), ours.row)).or_default().entry(ours.column).or_insert(0.0);
            *cell = cell.max(deviation);
        }
    }
    assert!(failures.is_empty(), "{failures}");
    let text = document(&table, &skipped, &reasons, count);
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/PARITY-samplers.md");
    if std::env::var_os("SD_UPDATE_DOCS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        return;
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(same_claims(&committed, &text), "docs/PARITY-samplers.md is out of date: run with SD_UPDATE_DOCS=1");
}

fn document(table: &Table, skipped: &BTreeMap<&str, usize>, reasons: &BTreeMap<&str, f64>, count: usize) -> String {
    let mut text = format!(
        "# Parity of the samplers\n\n\
         Written by `SD_UPDATE_DOCS=1 cargo test --release -p sd-sampling` and compared by every later run.\n\n\
         Each number is the largest deviation of a final latent from the reference over all runs of its kind: same\n\
         initial noise, same noise in the steps, and in place of a network the exact denoisers of two known\n\
         distributions (`tests/golden/denoisers.py`). Latents are of size 1, the limit is {LIMIT:.0e}; the rest is\n\
         float32 rounding. {count} runs; the numbers of network calls and the timesteps are compared as well.\n\n\
         ## k-diffusion\n\n\
         5 to 30 steps (Restart to 40), each with epsilon, v and sample prediction. `ipndm`, `lcm` and `restart` are\n\
         not in k-diffusion: their reference is the formula in `tests/golden/kdiffusion.py`. `karras_rho5`,\n\
         `polyexponential_rho2`, `beta_comfyui` and `kl_optimal_a1111` run as lists of sigmas.\n"
    );
    let mut columns: Vec<&String> = Vec::new();
    for cells in table.iter().filter(|((library, _), _)| library == "k-diffusion").map(|(_, cells)| cells) {
        columns.extend(cells.keys().filter(|column| !columns.contains(column)).collect::<Vec<_>>());
    }
    let head = columns.iter().map(|column| format!(" {column} |")).collect::<String>();
    writeln!(text, "\n| sampler |{head}\n|---|{}", "---|".repeat(columns.len())).unwrap();
    for ((_, row), cells) in table.iter().filter(|((library, _), _)| library == "k-diffusion") {
        let value = |column: &&String| cells.get(*column).map_or(" |".to_owned(), |d| format!(" {d:.0e} |"));
        writeln!(text, "| {row} |{}", columns.iter().map(value).collect::<String>()).unwrap();
    }
    text.push_str("\n## diffusers, schedule `auto`\n\n| scheduler | configuration | deviation |\n|---|---|---|\n");
    for ((_, row), cells) in table.iter().filter(|((library, _), _)| library == "diffusers") {
        for (column, deviation) in cells {
            writeln!(text, "| {row} | {column} | {deviation:.0e} |").unwrap();
        }
    }
    text.push_str("\n## Where ours differs, and is right\n\n");
    for (reason, deviation) in reasons {
        writeln!(text, "- {reason} Deviation {deviation:.1}.").unwrap();
    }
    text.push_str("\n## Not covered\n\nOptions of diffusers that this worker does not have:\n\n");
    for (reason, cases) in skipped {
        writeln!(text, "- {reason}: {cases} golden runs.").unwrap();
    }
    text
}

/// Whether every line of the fresh text is in the committed one, numbers up to the difference of C libraries.
fn same_claims(committed: &str, fresh: &str) -> bool {
    let same_cell = |(old, new): (&str, &str)| match (old.trim().parse::<f64>(), new.trim().parse::<f64>()) {
        (Ok(old), Ok(new)) => new <= 2.0 * old + 1e-5,
        _ => old == new,
    };
    let same_line = |(old, new): (&str, &str)| {
        old.split('|').count() == new.split('|').count() && old.split('|').zip(new.split('|')).all(same_cell)
    };
    committed.lines().count() == fresh.lines().count() && committed.lines().zip(fresh.lines()).all(same_line)
}

#[test]
fn training_schedules_are_diffusers() {
    let goldens = Goldens::open("samplers");
    for (name, json) in [
        ("scaled_linear", "{}"),
        ("linear", r#"{"beta_schedule": "linear"}"#),
        ("squaredcos_cap_v2", r#"{"beta_schedule": "squaredcos_cap_v2"}"#),
        ("scaled_linear.zero_snr", r#"{"rescale_betas_zero_snr": true, "prediction_type": "v_prediction"}"#),
    ] {
        let model = ModelSampling::new(&serde_json::from_str::<SchedulerConfig>(json).unwrap()).unwrap();
        for (t, (ours, theirs)) in
            model.alphas_cumprod().iter().zip(goldens.f32(&format!("alphas_cumprod.{name}"))).enumerate()
        {
            let theirs = f64::from(theirs);
            assert!((ours - theirs).abs() <= 2e-6 * theirs + 1e-9, "{name}[{t}]: {ours:e} {theirs:e}");
        }
    }
}

#[test]
fn named_schedules_are_those_of_a1111_and_comfyui() {
    let index = index();
    let model = ModelSampling::new(&SchedulerConfig::default()).unwrap();
    for (name, golden) in &index.schedules {
        let Ok(schedule) = sd_sampling::names::schedule(name) else { continue };
        for (steps, sigmas) in &golden.sigmas {
            let steps: usize = steps.parse().unwrap();
            let plan = Plan::new(&model, &Settings { schedule, steps, ..Settings::default() }).unwrap();
            let ours: Vec<f64> = plan.levels().iter().map(|level| level.sigma).collect();
            assert_eq!(ours.len(), steps + 1);
            // ddim_uniform has more levels than asked for where the steps do not divide 1000; ours are its lowest.
            let theirs = &sigmas[sigmas.len() - ours.len()..];
            for (a, b) in ours.iter().zip(theirs) {
                assert!((a - b).abs() <= 2e-6 * b + 1e-9, "{name} {steps}: {ours:?} {theirs:?}");
            }
        }
    }
}
