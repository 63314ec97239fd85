//! The names that clients send.

use sd_sampling::names::{Choice, model_sampler, resolve, samplers, schedule, schedules};
use sd_sampling::{Error, Sampler, Schedule, SchedulerConfig};

#[track_caller]
fn check(sampler: &str, schedule: Option<&str>, expected: (Sampler, Schedule, Option<f64>)) {
    let (sampler_expected, schedule_expected, eta) = expected;
    let choice = resolve(sampler, schedule).unwrap();
    assert_eq!(
        choice,
        Choice { sampler: sampler_expected, schedule: schedule_expected, eta },
        "{sampler} {schedule:?}"
    );
}

#[test]
fn every_row_is_found_by_every_name_of_it() {
    assert_eq!(samplers().iter().map(|info| info.sampler).collect::<Vec<_>>(), Sampler::ALL);
    assert_eq!(schedules().iter().map(|info| info.schedule).collect::<Vec<_>>(), Schedule::ALL);
    for info in samplers() {
        for name in [info.name, info.label].iter().chain(info.aliases) {
            check(name, None, (info.sampler, Schedule::Auto, None));
            check(
                &name.to_uppercase(),
                Some("karras"),
                (resolve(&name.to_uppercase(), None).unwrap().sampler, Schedule::Karras, None),
            );
        }
        check(info.label, Some("Automatic"), (info.sampler, info.default_schedule, None));
        assert_eq!(info.sampler.name(), info.name);
    }
    for info in schedules() {
        for name in [info.name, info.label].iter().chain(info.aliases) {
            assert_eq!(schedule(name).unwrap(), info.schedule, "{name}");
            check("euler", Some(name), (Sampler::Euler, info.schedule, None));
        }
    }
}

#[test]
fn joined_names_carry_their_schedule() {
    use Sampler as S;
    use Schedule::{Auto, Exponential, Karras, SgmUniform};
    check("DPM++ 2M Karras", None, (S::Dpmpp2m, Karras, None));
    check("DPM++ 2M SDE Heun Exponential", None, (S::Dpmpp2mSdeHeun, Exponential, None));
    check("Euler a SGM Uniform", None, (S::EulerAncestral, SgmUniform, None));
    check("DPM2 a Karras", Some("automatic"), (S::Dpm2Ancestral, Karras, None));
    check("DPM++ 2M Karras", Some("normal"), (S::Dpmpp2m, Schedule::Normal, None));
    check("LMS Karras", None, (S::Lms, Karras, None));
    check("dpmpp_2m_k", None, (S::Dpmpp2m, Karras, None));
    check("kdpm_2_a_k", None, (S::Dpm2Ancestral, Karras, None));
    check("dpmpp_2s", None, (S::Dpmpp2sAncestral, Auto, Some(0.0)));
    check("dpmpp_2s_k", None, (S::Dpmpp2sAncestral, Karras, Some(0.0)));
    check("dpmpp_3m_k", None, (S::Dpmpp3mSde, Karras, Some(0.0)));
    check("ddim_trailing", None, (S::Ddim, SgmUniform, None));
    check("uni_pc", None, (S::UniPcBh1, Auto, None));
    check("unipc", None, (S::UniPcBh2, Auto, None));
    check("UniPC", None, (S::UniPcBh2, Auto, None));
    check("  dpm++2s_a ", Some("discrete"), (S::Dpmpp2sAncestral, Schedule::Normal, None));
}

#[test]
fn unknown_names_are_answered_with_the_closest() {
    let closest = |result: Result<Choice, Error>| match result.unwrap_err() {
        Error::UnknownSampler { closest, .. } | Error::UnknownSchedule { closest, .. } => closest,
        other => panic!("{other}"),
    };
    assert_eq!(closest(resolve("dpm++ 2n", None))[0], "dpmpp_2m");
    assert_eq!(closest(resolve("ueler", None))[0], "euler");
    assert_eq!(closest(resolve("euler", Some("karas")))[0], "karras");
    let error = resolve("ueler", None).unwrap_err();
    assert_eq!(error.code(), "unknown_sampler");
    assert!(error.to_string().starts_with("unknown sampler `ueler`; the closest names are `euler`, "), "{error}");
    // A long or strange name makes a short answer.
    for name in [String::new(), "x".repeat(1 << 20), "é ".repeat(1 << 16), "Karras".to_owned(), " _k".to_owned()] {
        let error = resolve(&name, None).unwrap_err();
        assert!(error.to_string().len() < 400, "{}", error.to_string().len());
    }
}

#[test]
fn a_models_own_sampler_is_found() {
    for (json, expected) in [
        (r#"{"_class_name": "PNDMScheduler"}"#, Some(Sampler::Plms)),
        (r#"{"_class_name": "EulerAncestralDiscreteScheduler"}"#, Some(Sampler::EulerAncestral)),
        (
            r#"{"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++"}"#,
            Some(Sampler::Dpmpp2mSde),
        ),
        (r#"{"_class_name": "UniPCMultistepScheduler", "solver_type": "bh1"}"#, Some(Sampler::UniPcBh1)),
        (r#"{"_class_name": "FlowMatchEulerDiscreteScheduler"}"#, None),
        ("{}", None),
    ] {
        let config: SchedulerConfig = serde_json::from_str(json).unwrap();
        assert_eq!(model_sampler(&config), expected, "{json}");
    }
}
