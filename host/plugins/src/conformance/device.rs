//! Checks of the opened device, before a model is loaded.

use super::{
    Outcome, Plan, Run, Trouble, not_tried, refused,
    subject::{Look, quiet},
    wrong,
};
use backend_api::{BackendBox, Code, MemReport, ModelSource, Param, abi_stable::std_types::RVec};
use std::time::{Duration, Instant};

/// Whether figures about memory can be true.
pub(super) fn plausible(memory: MemReport) -> Outcome {
    let MemReport { device_total, device_free, weights, scratch } = memory;
    let mib = |bytes: u64| bytes >> 20;
    for (what, bytes) in [("free", device_free), ("weights", weights), ("scratch", scratch)] {
        if bytes > if device_total == 0 { 1 << 50 } else { device_total } {
            return wrong(format!("it reports {} MiB for `{what}` of {} MiB in all", mib(bytes), mib(device_total)));
        }
    }
    Ok(format!("{} MiB in all, {} free, weights {}", mib(device_total), mib(device_free), mib(weights)))
}

/// Asks before the worker's guard makes the figures plausible.
pub(super) fn memory(run: &mut Run<'_>, backend: &BackendBox) {
    run.check("reports its memory", || plausible(backend.memory()));
    run.check("answers memory from any thread", || {
        let times = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| (0..20).map(|_| asked(backend)).collect())).collect();
            threads.into_iter().filter_map(|t| t.join().ok()).flat_map(|times: Vec<Duration>| times).collect()
        });
        quick(times)
    });
}

/// How long a question about memory takes.
pub(super) fn asked(backend: &BackendBox) -> Duration {
    let start = Instant::now();
    std::hint::black_box(backend.memory());
    start.elapsed()
}

/// Memory is asked for before every job, and may not take long. The median counts, so that a busy machine does not.
pub(super) fn quick(mut times: Vec<Duration>) -> Outcome {
    times.sort();
    let median = times.get(times.len() / 2).copied().unwrap_or_default();
    let words = format!("{} answers, the median after {median:.1?}", times.len());
    if median < Duration::from_millis(50) { Ok(words) } else { wrong(format!("{words}; 50 ms is the most")) }
}

/// `source` with every config replaced.
fn with_configs(source: &ModelSource, text: &str) -> ModelSource {
    let configs: Vec<Param> = source.configs.iter().map(|c| Param::new(&c.key, text)).collect();
    ModelSource { configs: configs.into(), ..source.clone() }
}

pub(super) fn checks(run: &mut Run<'_>, backend: &BackendBox, plan: &Plan<'_>) {
    let source = &plan.source;
    run.check("inspects", || {
        let need = backend.inspect(source).into_result()?;
        let total = backend.memory().device_total;
        if need.weight_bytes > if total == 0 { 1 << 50 } else { total.saturating_mul(64) } {
            return wrong(format!("it wants {} MiB for weights", need.weight_bytes >> 20));
        }
        Ok(format!("{} MiB of weights, {} MiB at most", need.weight_bytes >> 20, need.peak_bytes >> 20))
    });
    let bad = [Code::INVALID, Code::DATA_LOSS, Code::UNSUPPORTED, Code::NOT_FOUND];
    run.check("refuses a model with a broken config", || {
        if source.configs.is_empty() {
            return not_tried("the model has no config");
        }
        let mut words = String::new();
        for text in ["{\"broken", "null", ""] {
            let broken = with_configs(source, text);
            words = refused(backend.load(&broken, &quiet()).into_result(), &bad)?;
        }
        Ok(words)
    });
    run.check("refuses a model with missing weights", || {
        if source.files.is_empty() {
            return not_tried("the model has no weights");
        }
        let broken = ModelSource { files: RVec::new(), ..source.clone() };
        refused(backend.load(&broken, &quiet()).into_result(), &bad)
    });
    run.check("refuses a model with damaged weights", || damaged(backend, source, &bad));
    run.check("stops a load when cancelled", || {
        refused(backend.load(source, &Look::after(0).0).into_result(), &[Code::CANCELLED])?;
        let (ctl, look) = Look::after(1);
        match backend.load(source, &ctl).into_result() {
            Err(e) if e.code == Code::CANCELLED => Ok("also on its way".to_owned()),
            Err(e) => wrong(e.to_string()),
            Ok(_) if look.looks() < 2 => Ok("it looks only once".to_owned()),
            Ok(_) => wrong(format!("it looked {} times and went on", look.looks())),
        }
    });
}

/// Each file of the model in turn is cut to a half.
fn damaged(backend: &BackendBox, source: &ModelSource, codes: &[Code]) -> Outcome {
    if source.files.is_empty() {
        return not_tried("the model has no weights");
    }
    let folder = std::env::temp_dir().join(format!("sd-conformance-{}", std::process::id()));
    let tried = || -> Outcome {
        let wrong_io = |e: std::io::Error| Trouble::NotTried(format!("no room for damaged files: {}", e.kind()));
        std::fs::create_dir_all(&folder).map_err(wrong_io)?;
        let mut words = String::new();
        for (i, file) in source.files.iter().enumerate() {
            let whole = std::fs::read(file.value.as_str()).map_err(wrong_io)?;
            let path = folder.join(format!("{i}.safetensors"));
            std::fs::write(&path, &whole[..whole.len() / 2]).map_err(wrong_io)?;
            let mut broken = source.clone();
            broken.files[i].value = path.to_string_lossy().into_owned().into();
            words = refused(backend.load(&broken, &quiet()).into_result(), codes)?;
        }
        Ok(words)
    };
    let outcome = tried();
    // A folder that stays behind is the system's to clear.
    let _ = std::fs::remove_dir_all(&folder);
    outcome
}
