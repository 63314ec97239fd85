//! The metrics of the worker, in Prometheus text format. Every label has a bounded set of values, so that no client can grow the registry.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use super::TelemetryError;
use super::process::Process;
use crate::server::{Closed, Stats};

/// More model names than this are all counted as `other`.
const MAX_MODELS: usize = 64;

/// What a job makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A picture from a text.
    Generation,
    /// A picture from a picture and a text.
    Transform,
    /// A part of a picture anew.
    Inpaint,
    /// Anything else, such as an upscale.
    Other,
}

impl Kind {
    fn label(self) -> &'static str {
        match self {
            Self::Generation => "generation",
            Self::Transform => "transform",
            Self::Inpaint => "inpaint",
            Self::Other => "other",
        }
    }
}

/// How a job ended. `Failed` and `Rejected` carry the error's code, which is one of a fixed set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Complete.
    Ok,
    /// Cancelled by the client, by a lost connection, or by a drain.
    Cancelled,
    /// Never queued.
    Rejected(&'static str),
    /// Failed while running.
    Failed(&'static str),
}

/// The parts of a job's run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Prompts and input pictures.
    Encode,
    /// The steps.
    Denoise,
    /// Latents to pixels.
    Decode,
    /// Pixels to a file.
    Png,
}

impl Stage {
    fn label(self) -> &'static str {
        match self {
            Self::Encode => "encode",
            Self::Denoise => "denoise",
            Self::Decode => "decode",
            Self::Png => "png",
        }
    }
}

/// All metrics of one worker. Shared by reference; every method is cheap and never blocks on a scrape.
pub struct Metrics {
    registry: Registry,
    accepted: IntCounterVec,
    finished: IntCounterVec,
    /// Jobs waiting.
    pub queue_jobs: IntGauge,
    /// The bound of the queue.
    pub queue_capacity_jobs: IntGauge,
    queue_wait: Histogram,
    job_duration: HistogramVec,
    step_duration: HistogramVec,
    stage_duration: HistogramVec,
    /// Pictures made.
    pub images_total: IntCounter,
    load_duration: Histogram,
    loaded: IntGaugeVec,
    swaps: IntCounterVec,
    deaths: IntCounterVec,
    device_memory: IntGaugeVec,
    /// Event streams open now.
    pub sse_streams: IntGauge,
    sse_dropped: IntCounterVec,
    http_duration: HistogramVec,
    /// Heartbeats that the queen did not take.
    pub heartbeat_failures_total: IntCounter,
    models: Mutex<HashSet<String>>,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// Seconds: steps and small stages.
const SHORT: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// Seconds: jobs, loads and waits.
const LONG: &[f64] = &[0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0];

impl Metrics {
    /// A registry with every metric in it. `version` and `build` describe the program itself.
    ///
    /// # Errors
    /// None in practice: names and labels are constants.
    pub fn new(version: &str, build: &str) -> Result<Self, TelemetryError> {
        let registry = Registry::new();
        let r = &registry;
        let metrics = Self {
            accepted: counters(r, "jobs_accepted_total", "Jobs taken into the queue.", &["kind"])?,
            finished: counters(r, "jobs_finished_total", "Jobs that ended, by outcome.", &["kind", "outcome"])?,
            queue_jobs: gauge(r, "queue_jobs", "Jobs waiting.")?,
            queue_capacity_jobs: gauge(r, "queue_capacity_jobs", "Jobs that may wait.")?,
            queue_wait: histogram(r, "queue_wait_seconds", "From acceptance to start.", LONG)?,
            job_duration: histograms(r, "job_duration_seconds", "From start to end.", LONG, &["kind"])?,
            step_duration: histograms(r, "step_duration_seconds", "One sampler step.", SHORT, &["model"])?,
            stage_duration: histograms(r, "stage_duration_seconds", "One stage of a job.", SHORT, &["stage"])?,
            images_total: counter(r, "images_total", "Pictures made.")?,
            load_duration: histogram(r, "model_load_duration_seconds", "Loading a model.", LONG)?,
            loaded: gauges(r, "model_loaded_info", "On how many devices each model is in memory.", &["model", "hash"])?,
            swaps: counters(r, "model_swaps_total", "Changes of the loaded model.", &["outcome"])?,
            deaths: counters(r, "backend_deaths_total", "Times that a backend died or hung.", &["device"])?,
            device_memory: gauges(r, "device_memory_bytes", "Memory of a device.", &["device", "state"])?,
            sse_streams: gauge(r, "sse_streams", "Event streams open.")?,
            sse_dropped: counters(
                r,
                "sse_dropped_total",
                "Event streams that were left before their end.",
                &["reason"],
            )?,
            http_duration: histograms(
                r,
                "http_request_duration_seconds",
                "From request head to answer head.",
                SHORT,
                &["route", "method", "status"],
            )?,
            heartbeat_failures_total: counter(r, "heartbeat_failures_total", "Heartbeats that were not taken.")?,
            models: Mutex::default(),
            registry: registry.clone(),
        };
        gauges(r, "build_info", "1, with the build's labels.", &["version", "build"])?
            .with_label_values(&[version, build])
            .set(1);
        registry.register(Box::new(Process::new()?))?;
        Ok(metrics)
    }

    /// Shows the counters of a server too.
    ///
    /// # Errors
    /// When called twice.
    pub fn watch_server(&self, stats: Arc<Stats>) -> Result<(), TelemetryError> {
        Ok(self.registry.register(Box::new(ServerCollector::new(stats)?))?)
    }

    /// Everything, in Prometheus text format (version 0.0.4).
    #[must_use]
    pub fn render(&self) -> String {
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_else(|e| {
            tracing::error!(error = %e, "cannot render the metrics");
            String::new()
        })
    }

    /// The media type of [`Metrics::render`].
    pub const CONTENT_TYPE: &'static str = prometheus::TEXT_FORMAT;

    /// A job was queued.
    pub fn job_accepted(&self, kind: Kind) {
        self.accepted.with_label_values(&[kind.label()]).inc();
    }

    /// A job left the queue after `waited`.
    pub fn job_started(&self, waited: Duration) {
        self.queue_wait.observe(waited.as_secs_f64());
    }

    /// A job ended, wherever it was: waiting, or on a device.
    pub fn job_finished(&self, kind: Kind, outcome: Outcome) {
        let label = match outcome {
            Outcome::Ok => "ok".to_owned(),
            Outcome::Cancelled => "cancelled".to_owned(),
            Outcome::Rejected(code) => format!("rejected:{code}"),
            Outcome::Failed(code) => format!("failed:{code}"),
        };
        self.finished.with_label_values(&[kind.label(), label.as_str()]).inc();
    }

    /// A job that was on a device has left it after `ran`.
    pub fn job_ran(&self, kind: Kind, ran: Duration) {
        self.job_duration.with_label_values(&[kind.label()]).observe(ran.as_secs_f64());
    }

    /// A sampler step on `model` took `time`.
    pub fn step(&self, model: &str, time: Duration) {
        self.step_duration.with_label_values(&[self.model_label(model)]).observe(time.as_secs_f64());
    }

    /// A stage of a job took `time`.
    pub fn stage(&self, stage: Stage, time: Duration) {
        self.stage_duration.with_label_values(&[stage.label()]).observe(time.as_secs_f64());
    }

    /// A model was loaded in `time`.
    pub fn model_loaded(&self, model: &str, hash: &str, time: Duration) {
        self.load_duration.observe(time.as_secs_f64());
        self.loaded.with_label_values(&[self.model_label(model), hash]).inc();
    }

    /// A model was dropped.
    pub fn model_unloaded(&self, model: &str, hash: &str) {
        let labels = [self.model_label(model), hash];
        let gauge = self.loaded.with_label_values(&labels);
        gauge.dec();
        if gauge.get() <= 0 {
            // Just made or found, so that it is there to be removed.
            let _ = self.loaded.remove_label_values(&labels);
        }
    }

    /// The backend of a device died, hung or lost its device.
    pub fn backend_died(&self, device: &str) {
        self.deaths.with_label_values(&[device]).inc();
    }

    /// The loaded model changed, or could not be changed.
    pub fn model_swap(&self, ok: bool) {
        self.swaps.with_label_values(&[if ok { "ok" } else { "failed" }]).inc();
    }

    /// Bytes of `device` in `state` (`used`, `free`, `model`, …: a fixed set).
    pub fn device_memory(&self, device: &str, state: &'static str, bytes: u64) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.device_memory.with_label_values(&[device, state]).set(bytes);
    }

    /// A stream was left before its end; `reason` is one of a fixed set.
    pub fn sse_dropped(&self, reason: &'static str) {
        self.sse_dropped.with_label_values(&[reason]).inc();
    }

    /// A request was answered. `route` is a pattern such as `/v1/jobs/{id}`, never the path itself.
    pub fn http_request(&self, route: &'static str, method: &http::Method, status: u16, time: Duration) {
        let method = match method.as_str() {
            known @ ("GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS") => known,
            _ => "other",
        };
        self.http_duration.with_label_values(&[route, method, status.to_string().as_str()]).observe(time.as_secs_f64());
    }

    fn model_label<'a>(&self, model: &'a str) -> &'a str {
        let mut models = self.models.lock().unwrap_or_else(PoisonError::into_inner);
        let known = models.contains(model) || (models.len() < MAX_MODELS && models.insert(model.to_owned()));
        if known { model } else { "other" }
    }
}

/// Shows a server's own counters, without the server knowing of Prometheus.
struct ServerCollector {
    stats: Arc<Stats>,
    open: IntGauge,
    accepted: IntCounter,
    accept_errors: IntCounter,
    closed: IntCounterVec,
    // Two scrapes at once must not set the counters under each other's hands.
    scrape: Mutex<()>,
}

impl ServerCollector {
    fn new(stats: Arc<Stats>) -> Result<Self, prometheus::Error> {
        let closed = Opts::new(name("connections_closed_total"), "Connections ended or refused by the server.");
        Ok(Self {
            stats,
            open: IntGauge::new(name("connections_open"), "Connections open.")?,
            accepted: IntCounter::new(name("connections_accepted_total"), "Connections taken, refused ones included.")?,
            accept_errors: IntCounter::new(name("accept_errors_total"), "Failures to take a connection.")?,
            closed: IntCounterVec::new(closed, &["reason"])?,
            scrape: Mutex::new(()),
        })
    }

    fn parts(&self) -> [&dyn Collector; 4] {
        [&self.open, &self.accepted, &self.accept_errors, &self.closed]
    }
}

impl Collector for ServerCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.parts().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let _one = self.scrape.lock().unwrap_or_else(PoisonError::into_inner);
        let view = self.stats.view();
        let set = |counter: &IntCounter, value| {
            counter.reset();
            counter.inc_by(value);
        };
        self.open.set(view.open);
        set(&self.accepted, view.accepted);
        set(&self.accept_errors, view.accept_errors);
        for reason in Closed::ALL {
            set(&self.closed.with_label_values(&[reason.label()]), self.stats.closed(reason));
        }
        self.parts().into_iter().flat_map(Collector::collect).collect()
    }
}

fn name(name: &str) -> String {
    format!("sd_worker_{name}")
}

fn added<C: Collector + Clone + 'static>(registry: &Registry, metric: C) -> Result<C, prometheus::Error> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn counter(r: &Registry, n: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
    added(r, IntCounter::new(name(n), help)?)
}

fn counters(r: &Registry, n: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
    added(r, IntCounterVec::new(Opts::new(name(n), help), labels)?)
}

fn gauge(r: &Registry, n: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
    added(r, IntGauge::new(name(n), help)?)
}

fn gauges(r: &Registry, n: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, prometheus::Error> {
    added(r, IntGaugeVec::new(Opts::new(name(n), help), labels)?)
}

fn histogram(r: &Registry, n: &str, help: &str, buckets: &[f64]) -> Result<Histogram, prometheus::Error> {
    added(r, Histogram::with_opts(HistogramOpts::new(name(n), help).buckets(buckets.to_vec()))?)
}

fn histograms(
    r: &Registry,
    n: &str,
    help: &str,
    buckets: &[f64],
    labels: &[&str],
) -> Result<HistogramVec, prometheus::Error> {
    added(r, HistogramVec::new(HistogramOpts::new(name(n), help).buckets(buckets.to_vec()), labels)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Dashboards and alerts hang on these names: a change here is a change of the interface.
    const NAMES: &str = "
        process_cpu_seconds_total process_max_fds process_open_fds process_resident_memory_bytes
        process_start_time_seconds process_threads process_virtual_memory_bytes
        sd_worker_accept_errors_total sd_worker_backend_deaths_total sd_worker_build_info sd_worker_connections_accepted_total
        sd_worker_connections_closed_total sd_worker_connections_open sd_worker_device_memory_bytes
        sd_worker_heartbeat_failures_total sd_worker_http_request_duration_seconds sd_worker_images_total
        sd_worker_job_duration_seconds sd_worker_jobs_accepted_total sd_worker_jobs_finished_total
        sd_worker_model_load_duration_seconds sd_worker_model_loaded_info sd_worker_model_swaps_total
        sd_worker_queue_capacity_jobs sd_worker_queue_jobs sd_worker_queue_wait_seconds sd_worker_sse_dropped_total
        sd_worker_sse_streams sd_worker_stage_duration_seconds sd_worker_step_duration_seconds";

    fn touched() -> Metrics {
        let m = Metrics::new("1.2.3", "release").unwrap();
        m.watch_server(Arc::default()).unwrap();
        let t = Duration::from_millis(30);
        m.job_accepted(Kind::Generation);
        m.job_started(t);
        m.job_ran(Kind::Generation, t);
        m.job_finished(Kind::Generation, Outcome::Failed("backend_panic"));
        m.step("emoji-sd", t);
        m.stage(Stage::Decode, t);
        m.model_loaded("emoji-sd", "abc", t);
        m.model_swap(true);
        m.device_memory("cpu:0", "used", 1 << 40);
        m.backend_died("cpu:0");
        m.sse_dropped("reader_gone");
        m.http_request("/v1/jobs/{id}", &http::Method::GET, 200, t);
        m
    }

    fn line(text: &str, start: &str) -> String {
        text.lines().find(|l| l.starts_with(start)).unwrap_or_else(|| panic!("no {start} in {text}")).to_owned()
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_list_of_names_is_fixed() {
        let text = touched().render();
        let mut names: Vec<&str> = text.lines().filter_map(|l| l.strip_prefix("# TYPE ")?.split(' ').next()).collect();
        names.sort_unstable();
        assert_eq!(names, NAMES.split_whitespace().collect::<Vec<_>>());
    }

    #[test]
    fn values_arrive() {
        let m = touched();
        let text = m.render();
        let check = |expected: &str| assert!(text.lines().any(|l| l == expected), "{expected} is not in {text}");
        check(r#"sd_worker_jobs_finished_total{kind="generation",outcome="failed:backend_panic"} 1"#);
        check(r#"sd_worker_build_info{build="release",version="1.2.3"} 1"#);
        check(r#"sd_worker_device_memory_bytes{device="cpu:0",state="used"} 1099511627776"#);
        check(r#"sd_worker_connections_closed_total{reason="stalled_reader"} 0"#);
        check(r#"sd_worker_http_request_duration_seconds_count{method="GET",route="/v1/jobs/{id}",status="200"} 1"#);
        check(r#"sd_worker_step_duration_seconds_bucket{model="emoji-sd",le="0.025"} 0"#);
        check(r#"sd_worker_step_duration_seconds_bucket{model="emoji-sd",le="0.05"} 1"#);
        check(r#"sd_worker_model_loaded_info{hash="abc",model="emoji-sd"} 1"#);
        m.model_unloaded("emoji-sd", "abc");
        assert!(!m.render().contains("sd_worker_model_loaded_info{"));
    }

    #[test]
    fn labels_are_bounded() {
        let m = touched();
        for n in 0..1000 {
            m.step(&format!("model-{n}"), Duration::ZERO);
            let method = http::Method::from_bytes(format!("M{n}").as_bytes()).unwrap();
            m.http_request("/", &method, 405, Duration::ZERO);
        }
        let text = m.render();
        assert_eq!(text.matches("sd_worker_step_duration_seconds_count{").count(), MAX_MODELS + 1);
        assert!(line(&text, r#"sd_worker_step_duration_seconds_count{model="other"}"#).ends_with(" 937"));
        assert_eq!(text.matches("sd_worker_http_request_duration_seconds_count{").count(), 2);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_process_is_measured() {
        let text = touched().render();
        let value = |name: &str| -> f64 { line(&text, &format!("{name} "))[name.len() + 1..].parse().unwrap() };
        let rss = value("process_resident_memory_bytes");
        assert!(rss > 1e6 && rss < value("process_virtual_memory_bytes"), "{rss}");
        assert!(value("process_threads") >= 1.0 && value("process_open_fds") >= 3.0);
        let age = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64()
            - value("process_start_time_seconds");
        assert!((-2.0..86_400.0).contains(&age), "{age}");
    }
}
