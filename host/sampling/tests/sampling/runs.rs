//! What every sampler promises: one report per step, finite results, errors handed on, images that do not depend on
//! what they are batched with.

use crate::support::Denoiser;
use sd_sampling::noise::{BatchNoise, ImageSeed, NoiseShape, Rng};
use sd_sampling::{Error, ModelSampling, Plan, Prediction, Sampler, Schedule, SchedulerConfig, Settings};

const SHAPE: NoiseShape = NoiseShape { channels: 2, height: 3, width: 4 };

fn config(json: &str) -> ModelSampling {
    ModelSampling::new(&serde_json::from_str::<SchedulerConfig>(json).unwrap()).unwrap()
}

/// Runs a batch of seeds and checks the promises of the reports.
fn run(model: &ModelSampling, settings: &Settings, seeds: &[u64], init: Option<f32>) -> Vec<f32> {
    let plan = Plan::new(model, settings).unwrap();
    let seeds: Vec<ImageSeed> = seeds.iter().map(|seed| ImageSeed { seed: *seed, ..ImageSeed::default() }).collect();
    let mut noise = BatchNoise::new(Rng::Cpu, SHAPE, &seeds);
    let initial = noise.initial();
    let init = init.map(|value| vec![value; initial.len()]);
    let reports = std::cell::Cell::new(0);
    let result: Result<Vec<f32>, ()> = plan.run(
        plan.begin(&initial, init.as_deref()),
        &mut |eval| {
            assert!(eval.step == reports.get() || settings.sampler == Sampler::DpmAdaptive, "{settings:?}");
            assert!(eval.x.iter().all(|x| x.is_finite()), "{settings:?}");
            assert!((0.0..1000.0).contains(&eval.timestep), "{settings:?}: {}", eval.timestep);
            Ok(Denoiser::Mixture.network(eval, model.prediction()))
        },
        &mut |request| noise.sample(request),
        &mut |step| {
            reports.set(reports.get() + 1);
            assert_eq!((step.step, step.total), (reports.get(), plan.total()), "{settings:?}");
            assert_eq!(step.x.len(), step.denoised.len());
            assert!((0.0..=1.0).contains(&step.signal) && step.noise >= 0.0 && step.noise.is_finite(), "{settings:?}");
            Ok(())
        },
    );
    assert_eq!(reports.get(), plan.total(), "{settings:?}");
    result.unwrap()
}

const MODELS: [&str; 5] = [
    "{}",
    r#"{"rescale_betas_zero_snr": true, "timestep_spacing": "trailing"}"#,
    r#"{"prediction_type": "v_prediction", "rescale_betas_zero_snr": true, "timestep_spacing": "trailing"}"#,
    r#"{"timestep_spacing": "leading", "steps_offset": 1, "set_alpha_to_one": false, "skip_prk_steps": false}"#,
    r#"{"beta_schedule": "squaredcos_cap_v2", "prediction_type": "sample", "use_karras_sigmas": true}"#,
];

#[test]
fn every_sampler_runs_every_schedule_in_any_number_of_steps() {
    for json in MODELS {
        let model = config(json);
        for sampler in Sampler::ALL {
            for schedule in Schedule::ALL {
                for (steps, strength) in [(1, 1.0), (2, 1.0), (3, 0.5), (4, 1.0), (7, 0.9), (20, 0.05), (37, 1.0)] {
                    let settings = Settings { sampler, schedule, steps, strength, ..Settings::default() };
                    let latents = run(&model, &settings, &[1], (strength < 1.0).then_some(0.5));
                    assert!(latents.iter().all(|x| x.is_finite()), "{json} {settings:?}: {latents:?}");
                }
            }
        }
    }
}

#[test]
fn most_samplers_reach_the_data() {
    // ±1 with deviation 0.4: what comes out of 37 steps must look like it.
    let model = config("{}");
    for sampler in Sampler::ALL {
        let settings = Settings { sampler, schedule: Schedule::Karras, steps: 37, ..Settings::default() };
        let latents = run(&model, &settings, &[3, 4, 5], None);
        let size = (latents.iter().map(|x| x * x).sum::<f32>() / latents.len() as f32).sqrt();
        assert!((0.7..1.4).contains(&size), "{sampler:?}: {size}");
    }
}

#[test]
fn an_image_does_not_depend_on_its_batch() {
    let model = config("{}");
    for sampler in Sampler::ALL.into_iter().filter(|sampler| !sampler.couples_images()) {
        for schedule in [Schedule::Auto, Schedule::Karras] {
            let settings = Settings { sampler, schedule, steps: 9, ..Settings::default() };
            let batch = run(&model, &settings, &[7, 8], None);
            let alone = run(&model, &settings, &[8], None);
            assert_eq!(batch[SHAPE.len()..], alone[..], "{sampler:?} {schedule:?}");
        }
    }
}

#[test]
fn errors_of_the_closures_end_the_run() {
    let model = config("{}");
    for sampler in Sampler::ALL {
        let settings = Settings { sampler, steps: 6, ..Settings::default() };
        let plan = Plan::new(&model, &settings).unwrap();
        for fail_in_model in [true, false] {
            let (mut calls, mut steps) = (0, 0);
            let result = plan.run(
                plan.begin(&[0.5; 4], None),
                &mut |eval| {
                    calls += 1;
                    if fail_in_model && calls == 3 { Err("model") } else { Ok(vec![0.1; eval.x.len()]) }
                },
                &mut |_| vec![0.0; 4],
                &mut |_| {
                    steps += 1;
                    if !fail_in_model && steps == 2 { Err("step") } else { Ok(()) }
                },
            );
            assert_eq!(result, Err(if fail_in_model { "model" } else { "step" }), "{sampler:?}");
            assert!(if fail_in_model { calls == 3 } else { steps == 2 }, "{sampler:?}: went on after the error");
        }
    }
}

#[test]
fn a_model_that_breaks_does_not_make_a_run_endless() {
    let model = config("{}");
    for value in [f32::NAN, f32::INFINITY, 1e30] {
        for sampler in Sampler::ALL {
            let plan = Plan::new(&model, &Settings { sampler, steps: 5, ..Settings::default() }).unwrap();
            let (mut calls, mut steps, mut sign) = (0, 0, 1.0);
            let result: Result<Vec<f32>, ()> = plan.run(
                plan.begin(&[0.5; 4], None),
                &mut |eval| {
                    calls += 1;
                    sign = -sign;
                    Ok(vec![value * sign; eval.x.len()])
                },
                &mut |_| vec![0.0; 4],
                &mut |_| {
                    steps += 1;
                    Ok(())
                },
            );
            assert_eq!(result.unwrap().len(), 4);
            assert_eq!(steps, 5, "{sampler:?}");
            assert!(calls < 3000, "{sampler:?}: {calls} calls");
        }
    }
}

#[test]
fn strength_counts_steps_as_diffusers_does() {
    // (steps, strength, min(int(steps · strength), steps))
    for (steps, strength, expected) in
        [(20, 1.0, 20), (20, 0.35, 7), (50, 0.8, 40), (10, 0.29, 2), (30, 0.7, 21), (7, 0.9999, 6), (100, 0.57, 56)]
    {
        let model = config("{}");
        let plan = Plan::new(&model, &Settings { steps, strength, ..Settings::default() }).unwrap();
        assert_eq!((plan.total(), plan.range()), (expected, steps - expected..steps), "{steps} {strength}");
        let first = plan.levels()[plan.range().start].sigma;
        let x = plan.begin(&[2.0], Some(&[0.5]));
        if strength < 1.0 {
            assert!((f64::from(x[0]) - (0.5 + 2.0 * first)).abs() < 1e-5);
        }
    }
}

#[test]
fn a_refiner_goes_on_where_the_base_stopped() {
    // diffusers: 40 steps split at 0.8 of the training schedule are 32 and 8.
    let model = config(r#"{"timestep_spacing": "leading", "steps_offset": 1}"#);
    let whole = Settings { steps: 40, ..Settings::default() };
    let base = Plan::new(&model, &Settings { end: 0.8, ..whole.clone() }).unwrap();
    let refiner = Plan::new(&model, &Settings { start: 0.8, ..whole.clone() }).unwrap();
    assert_eq!((base.range(), refiner.range()), (0..32, 32..40));
    let steps = |plan: &Plan, x: Vec<f32>| -> Vec<f32> {
        let network =
            &mut |eval: sd_sampling::Eval<'_>| Ok::<_, ()>(Denoiser::Mixture.network(eval, Prediction::Epsilon));
        plan.run(x, network, &mut |_| Vec::new(), &mut |_| Ok(())).unwrap()
    };
    let one = Plan::new(&model, &whole).unwrap();
    let start = one.begin(&[0.3, -1.2], None);
    assert_eq!(steps(&refiner, steps(&base, start.clone())), steps(&one, start));
}

#[test]
fn numbers_out_of_range_are_refused_with_their_name() {
    let model = config("{}");
    let plain = Settings::default;
    let refused = |settings: Settings| Plan::new(&model, &settings).unwrap_err();
    assert_eq!(refused(Settings { steps: 0, ..plain() }), Error::Steps { steps: 0, max: 1000 });
    assert_eq!(refused(Settings { sampler: Sampler::Lcm, steps: 51, ..plain() }), Error::Steps { steps: 51, max: 50 });
    assert_eq!(refused(Settings { sampler: Sampler::Dpmpp2m, steps: 1000, ..plain() }).code(), "steps_out_of_range");
    for strength in [-0.1, 1.1, f64::NAN] {
        assert_eq!(refused(Settings { strength, ..plain() }).code(), "value_out_of_range");
    }
    assert_eq!(refused(Settings { strength: 0.01, ..plain() }), Error::NothingToDo { strength: 0.01, steps: 20 });
    for sigmas in [vec![], vec![1.0], vec![1.0, 2.0], vec![f64::INFINITY, 1.0], vec![1.0, -1.0], vec![0.0; 2000]] {
        assert_eq!(refused(Settings { sigmas: Some(sigmas), ..plain() }).code(), "bad_sigmas");
    }
}

#[test]
fn configurations_that_would_be_run_wrongly_are_refused() {
    for (json, field) in [
        (r#"{"beta_schedule": "sigmoid"}"#, "beta_schedule"),
        (r#"{"prediction_type": "flow"}"#, "prediction_type"),
        (r#"{"num_train_timesteps": 0}"#, "num_train_timesteps"),
        (r#"{"num_train_timesteps": 4000000000}"#, "num_train_timesteps"),
        (r#"{"beta_start": 2.0}"#, "betas"),
        (r#"{"trained_betas": [0.1, -0.5]}"#, "betas"),
        (r#"{"trained_betas": []}"#, "num_train_timesteps"),
        (r#"{"timestep_type": "continuous"}"#, "timestep_type"),
        (r#"{"use_flow_sigmas": true}"#, "use_flow_sigmas"),
        (r#"{"use_karras_sigmas": true, "use_beta_sigmas": true}"#, "use_karras_sigmas"),
    ] {
        let config: SchedulerConfig = serde_json::from_str(json).unwrap();
        match ModelSampling::new(&config).unwrap_err() {
            Error::Config { field: named, .. } => assert_eq!(named, field, "{json}"),
            other => panic!("{json}: {other}"),
        }
    }
    let model = config(r#"{"timestep_spacing": "middle", "unknown": [1, {}]}"#);
    assert_eq!(Plan::new(&model, &Settings::default()).unwrap_err().code(), "bad_scheduler_config");
}

#[test]
fn two_models_share_a_run() {
    // The same network in both parts: what one of them gives in a whole run, noise included.
    for json in [MODELS[0], MODELS[3]] {
        let model = config(json);
        // Those that remember no earlier step.
        for sampler in [
            Sampler::Euler,
            Sampler::EulerAncestral,
            Sampler::Heun,
            Sampler::Dpm2Ancestral,
            Sampler::DpmppSde,
            Sampler::Dpmpp2sAncestral,
            Sampler::Ddim,
            Sampler::Ddpm,
            Sampler::Lcm,
        ] {
            for schedule in [Schedule::Auto, Schedule::Karras] {
                let settings = Settings { sampler, schedule, steps: 20, ..Settings::default() };
                let whole = run(&model, &settings, &[5, 6], None);
                let first = Plan::new(&model, &Settings { end: 0.8, ..settings.clone() }).unwrap();
                let second = Plan::new(&model, &Settings { start: 0.8, ..settings.clone() }).unwrap();
                assert_eq!(first.total() + second.total(), 20, "{settings:?}");
                let mut noise = BatchNoise::new(Rng::Cpu, SHAPE, &ImageSeed::batch(5, 2));
                let mut latents = first.begin(&noise.initial(), None);
                for plan in [&first, &second] {
                    let result: Result<Vec<f32>, ()> = plan.run(
                        latents,
                        &mut |eval| Ok(Denoiser::Mixture.network(eval, model.prediction())),
                        &mut |request| noise.sample(request),
                        &mut |_| Ok(()),
                    );
                    latents = result.unwrap();
                }
                let far = whole.iter().zip(&latents).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(far < 1e-4, "{settings:?}: {far}");
            }
        }
    }
}
