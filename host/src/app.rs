//! The parts of a running worker, put together.

use crate::{
    api::{self, ApiError, Rooms, SdOptions, Turns},
    backends::Plugins,
    clerk::Clerk,
    config::{BackendArgs, Config, Isolate, Limits, ModelArgs, StateFolder},
    devices::{Start, open_devices},
    engine::{Engine, LoadProgress, LoadedModel},
    fault::{Fault, FaultCode},
    jobs::{Job, JobState, Line, OnDisconnect, Outcome, Queue, Registry},
    ledger::{Ledger, OnRestart},
    library::Library,
    pulls::Pulls,
    server::Shutdown,
    store::{Recovery, StoreOptions},
    telemetry::Metrics,
    webhook::{WebhookError, WebhookPolicy, Webhooks},
};
use backend_api::Param;
use sd_plugins::{Catalog, Choice, PluginError, Search};
use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// The model that is served when none is named.
pub const BUNDLED_MODEL: &str = "emoji-sd";

/// How long jobs that the deadline has stopped may take to come off their devices.
pub const LAST_CALL: Duration = Duration::from_millis(750);
/// How long after the jobs' deadline the server goes on, so that everybody hears how they ended.
pub const LAST_WORDS: Duration = Duration::from_secs(1);

/// Whether jobs are taken.
#[derive(Debug, Clone)]
pub struct Readiness {
    /// Yes or no.
    pub ready: bool,
    /// `starting`, `ready`, `busy`, `stopping` or `broken`.
    pub state: &'static str,
    /// Why not.
    pub reason: Option<String>,
}

/// A running worker.
#[derive(Debug)]
pub struct App {
    /// What handlers look at.
    pub config: Config,
    /// The waiting jobs.
    pub queue: Arc<Queue>,
    /// All jobs.
    pub registry: Arc<Registry>,
    /// What outlives the program; `None`: nothing does.
    pub ledger: Option<Arc<Ledger>>,
    /// Told of every job's life.
    pub(crate) clerk: Arc<Clerk>,
    /// The devices.
    pub engine: Arc<Engine>,
    /// The models.
    pub models: Arc<Library>,
    /// Models that are fetched while the worker runs.
    pub pulls: Pulls,
    /// Figures.
    pub metrics: Arc<Metrics>,
    /// Whether `POST /v1/shutdown` is for those who reach the port: with a token, or from loopback only.
    pub may_shut_down: bool,
    /// The way out.
    pub shutdown: Shutdown,
    /// How long running jobs may go on after the signal.
    pub patience: Duration,
    /// The plugins behind the devices.
    pub plugins: Arc<Plugins>,
    /// What A1111 clients have set.
    pub(crate) sdapi_options: SdOptions,
    /// Requests with an idempotency key that are being taken.
    pub(crate) turns: Turns,
    /// Places for work off the runtime.
    pub(crate) rooms: Rooms,
    default_model: Mutex<String>,
    starting: AtomicBool,
    start_fault: Mutex<Option<Fault>>,
}

/// What an [`App`] is made from.
#[derive(Debug)]
pub struct Settings {
    /// Plugins.
    pub backends: BackendArgs,
    /// Models.
    pub models: ModelArgs,
    /// The worker's name.
    pub worker_id: String,
    /// Bounds on requests.
    pub limits: Limits,
    /// Whether pictures may carry their recipe.
    pub metadata: bool,
    /// Places in the queue.
    pub queue_jobs: usize,
    /// How long finished jobs are kept, and how many.
    pub keep: (Duration, usize),
    /// Where jobs outlive the program.
    pub state: Option<StateFolder>,
    /// Most bytes of finished pictures there.
    pub state_bytes: u64,
    /// What becomes of interrupted jobs.
    pub on_restart: OnRestart,
    /// Who may be told of a job's end; `None`: nobody.
    pub webhooks: Option<WebhookPolicy>,
    /// The longest call into a backend.
    pub call_limit: Duration,
    /// Jobs at a time on one device.
    pub lanes: Option<usize>,
    /// When an idle model goes.
    pub idle_unload: Option<Duration>,
    /// Most models on one device; `None` = as many as fit.
    pub max_models: Option<usize>,
    /// How long running jobs may go on after the signal.
    pub patience: Duration,
    /// Whether the worker may be shut down over HTTP.
    pub may_shut_down: bool,
}

impl App {
    /// Finds plugins and models, opens a device, starts the engine. No model is loaded yet.
    pub fn start(settings: Settings) -> Result<Arc<App>, Fault> {
        Self::with_devices(settings, open_devices)
    }

    /// A worker on which jobs wait for ever, for trying what reads requests.
    pub(crate) fn without_devices(settings: Settings) -> Result<Arc<App>, Fault> {
        let app = Self::with_devices(settings, |settings| Ok(Start::nothing(settings)))?;
        app.starting.store(false, Ordering::Release);
        Ok(app)
    }

    fn with_devices(
        settings: Settings,
        open: impl FnOnce(&Settings) -> Result<Start, Fault>,
    ) -> Result<Arc<App>, Fault> {
        let build = if cfg!(debug_assertions) { "debug" } else { "release" };
        let metrics = Metrics::new(env!("CARGO_PKG_VERSION"), build).map_err(|e| Fault::internal(e.to_string()))?;
        let metrics = Arc::new(metrics);
        let (models, named) = Library::new(model_places(&settings.models), settings.models.model.as_deref())?;
        let models = Arc::new(models);
        let model = named.unwrap_or_else(|| BUNDLED_MODEL.to_owned());
        let pulls = Pulls::new(settings.models.pull);
        // A model that cannot be served is said at once, not at the first job. One that is fetched first is said when it
        // is loaded.
        if pulls.wanted(&model, &models).is_none() {
            models.resolve(&model)?;
        }
        let (ledger, recovery) = open_ledger(&settings)?.unzip();
        let ledger = ledger.map(Arc::new);
        let webhooks = settings.webhooks.clone().map(Webhooks::start).transpose();
        let webhooks = webhooks.map_err(|e| Fault::internal(e.to_string()))?;
        let clerk = Arc::new(Clerk { metrics: metrics.clone(), ledger: ledger.clone(), webhooks });
        let Start { devices, plugins } = open(&settings)?;
        let plugins = Arc::new(plugins);
        let queue = Arc::new(Queue::new(settings.queue_jobs));
        let engine = Engine::start(
            devices,
            queue.clone(),
            models.clone(),
            metrics.clone(),
            settings.idle_unload,
            settings.max_models.unwrap_or(usize::MAX),
            Some(plugins.clone()),
        )
        .map_err(|e| Fault::internal(format!("a thread could not be started: {e}")))?;
        let app = Arc::new(App {
            config: Config {
                worker_id: settings.worker_id,
                model: model.clone(),
                limits: settings.limits,
                metadata: settings.metadata,
            },
            queue,
            registry: Arc::new(Registry::new(settings.keep.0, settings.keep.1)),
            ledger: ledger.clone(),
            clerk,
            engine,
            models,
            pulls,
            metrics,
            may_shut_down: settings.may_shut_down,
            shutdown: Shutdown::new(),
            patience: settings.patience,
            plugins,
            sdapi_options: SdOptions::default(),
            turns: Turns::default(),
            rooms: Rooms::default(),
            default_model: Mutex::new(model),
            starting: AtomicBool::new(true),
            start_fault: Mutex::new(None),
        });
        if let (Some(ledger), Some(recovery)) = (ledger, recovery) {
            api::restore(&app, &ledger, recovery);
        }
        Ok(app)
    }

    /// Loads the default model. Jobs that come meanwhile are refused with `not_ready`.
    pub fn warm_up(&self) {
        let outcome = self.load_everywhere(&self.default_model());
        if let Err(fault) = outcome {
            tracing::error!(code = fault.code.as_str(), message = %fault.message, "the model could not be loaded");
            *self.start_fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault);
        }
        self.starting.store(false, Ordering::Release);
    }

    /// Tries again what failed at the start, now that there is another backend.
    pub(crate) fn start_again(&self) {
        let failed = self.start_fault.lock().unwrap_or_else(PoisonError::into_inner).take();
        if failed.is_some() {
            self.warm_up();
        }
    }

    /// Loads a model on every device, fetched from the hub first if need be and allowed.
    fn load_everywhere(&self, name: &str) -> Result<(), Fault> {
        if let Some(id) = self.pulls.wanted(name, &self.models) {
            self.pulls.fetch_logged(&id, &self.models)?;
        }
        self.engine.load_everywhere(name)
    }

    /// Loads a model outside any job, fetched from the hub first if need be and allowed. Blocks.
    pub fn load_model(&self, name: &str) -> Result<LoadedModel, Fault> {
        self.load_model_watched(name, &(Arc::new(|_, _| ()) as LoadProgress))
    }

    /// The same, telling how the load goes on.
    pub fn load_model_watched(&self, name: &str, progress: &LoadProgress) -> Result<LoadedModel, Fault> {
        if let Some(id) = self.pulls.wanted(name, &self.models) {
            self.pulls.fetch_logged(&id, &self.models)?;
        }
        self.engine.load_model_watched(name, progress)
    }

    /// Whether a job that has not ended goes on in the next program. One that goes with its reader does not: no connection
    /// outlives the program.
    pub(crate) fn keeps(&self, job: &Job) -> bool {
        self.ledger.is_some() && job.spec.on_disconnect == OnDisconnect::Keep
    }

    /// Takes jobs without a model loaded: the first one that needs it waits for it.
    pub fn serve_cold(&self) {
        self.starting.store(false, Ordering::Release);
    }

    /// The model of jobs that name none.
    pub fn default_model(&self) -> String {
        self.default_model.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The short hash that a model's pictures carry.
    pub(crate) fn model_hash(&self, name: &str) -> Option<String> {
        self.models.lookup(name).ok().map(|m| m.model.fingerprint.chars().take(10).collect())
    }

    /// Changes the model of jobs that name none.
    pub fn set_default_model(&self, name: &str) {
        name.clone_into(&mut self.default_model.lock().unwrap_or_else(PoisonError::into_inner));
        *self.start_fault.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Whether jobs are taken. A full queue is no reason not to be: 429 speaks for that.
    pub fn readiness(&self) -> Readiness {
        let not = |state, reason: &str| Readiness { ready: false, state, reason: Some(reason.to_owned()) };
        if self.shutdown.is_draining() {
            return not("stopping", "the worker is shutting down");
        }
        if self.starting.load(Ordering::Acquire) {
            return not("starting", "a model is being loaded");
        }
        if let Some(reason) = self.engine.broken() {
            return not("broken", &reason);
        }
        if let Some(fault) = self.start_fault.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            return not("broken", &fault.message);
        }
        if let Some(trouble) = self.ledger.as_ref().and_then(|l| l.trouble()) {
            return not("broken", &trouble.to_string());
        }
        let busy = self.engine.running() > 0 || !self.queue.is_empty();
        Readiness { ready: true, state: if busy { "busy" } else { "ready" }, reason: None }
    }

    /// A fault when jobs are not taken now.
    pub(crate) fn accepting(&self) -> Result<(), ApiError> {
        let state = self.readiness();
        if state.ready {
            return Ok(());
        }
        let code = if state.state == "stopping" { FaultCode::Draining } else { FaultCode::NotReady };
        let fault = Fault::new(code, state.reason.unwrap_or_default());
        Err(ApiError { retry_after: Some(Duration::from_secs(2)), ..fault.into() })
    }

    /// Whether the end of a job may be told there.
    pub(crate) fn check_webhook(&self, url: &str) -> Result<(), WebhookError> {
        self.clerk.webhooks.as_ref().map_or(Err(WebhookError::HostNotAllowed), |w| w.check(url))
    }

    /// The waiting jobs in the order in which they will start.
    pub fn line(&self) -> Line {
        self.queue.line(self.engine.at_hand())
    }

    /// Seconds until a place in the queue is likely to be free.
    pub fn retry_after_secs(&self) -> u64 {
        let wait = self.queue.len() as f64 * self.engine.mean_job().as_secs_f64();
        (wait.ceil() as u64).clamp(1, 300)
    }

    /// Ends all work: running jobs may go on until the deadline. Those that wait, and those that the deadline stops, are
    /// kept for the next program; without a store they end here. Blocks, for at most `patience` and [`LAST_CALL`].
    pub fn finish(&self, patience: Duration) {
        drop(self.queue.close());
        // Also those whose model is still being fetched, which are in no queue yet.
        for job in self.registry.list().iter().filter(|job| job.state() == JobState::Queued) {
            if self.keeps(job) {
                // One that has just begun is among the running ones below.
                job.suspend_waiting();
            } else {
                job.finish(Outcome::Failed(Fault::new(
                    FaultCode::Draining,
                    "the worker was shut down before this job began",
                )));
            }
        }
        if self.engine.join(patience) {
            return;
        }
        let running = || self.registry.list().into_iter().filter(|job| job.state() == JobState::Running);
        let interrupted =
            || Outcome::Failed(Fault::new(FaultCode::Interrupted, "the worker was shut down while this job ran"));
        for job in running() {
            match self.ledger.as_ref().map(|l| l.on_restart()) {
                Some(OnRestart::Rerun) if self.keeps(&job) => job.park(),
                Some(OnRestart::Report) => drop(job.finish(interrupted())),
                _ => drop(job.request_cancel()),
            }
        }
        if self.engine.join(LAST_CALL) {
            return;
        }
        tracing::warn!("a call into the backend does not come back; leaving it");
        for job in running() {
            // With a store these are found interrupted by the next program.
            if self.keeps(&job) {
                job.suspend();
            } else {
                job.finish(interrupted());
            }
        }
    }

    /// Writes down what there is to write and closes the store. Blocks for at most `limit`.
    pub fn close(&self, limit: Duration) {
        if let Some(ledger) = &self.ledger {
            ledger.close(limit);
        }
    }
}

/// Opens the store. A folder that nobody asked for is left alone when it cannot be used.
fn open_ledger(settings: &Settings) -> Result<Option<(Ledger, Recovery)>, Fault> {
    let Some(folder) = &settings.state else { return Ok(None) };
    let options = StoreOptions {
        time_to_live: settings.keep.0,
        max_finished: u32::try_from(settings.keep.1).unwrap_or(u32::MAX),
        max_picture_bytes: settings.state_bytes,
        ..StoreOptions::default()
    };
    match Ledger::open(&folder.path, options, settings.on_restart) {
        Ok(opened) => {
            tracing::info!(folder = %folder.path.display(), "jobs are kept");
            Ok(Some(opened))
        }
        Err(e) if folder.named => Err(e.into()),
        Err(e) => {
            tracing::warn!(folder = %folder.path.display(), code = e.code(), "jobs are kept in memory only: {e}");
            Ok(None)
        }
    }
}

/// The models directories: the operator's, or those around the program.
pub fn model_places(args: &ModelArgs) -> sd_models::Library {
    let dirs = if args.models_dir.is_empty() {
        std::env::current_exe().map(|exe| sd_models::bundled_dirs(&exe)).unwrap_or_default()
    } else {
        args.models_dir.clone()
    };
    sd_models::Library::new(dirs, sd_models::default_cache_dir())
}

/// Looks for plugins as the flags say.
/// `call_limit` bounds a single call into a plugin's process.
pub fn scan(args: &BackendArgs, call_limit: Option<Duration>) -> (Catalog, Choice) {
    let (search, choice) = search(args, call_limit);
    (Catalog::scan(&search), choice)
}

/// Looks for plugins again, while others work: each is asked in a child, where the system can.
pub(crate) fn rescan(args: &BackendArgs, call_limit: Duration) -> (Catalog, Choice) {
    let (search, choice) = search(args, Some(call_limit));
    (Catalog::scan(&Search { careful: true, ..search }), choice)
}

fn search(args: &BackendArgs, call_limit: Option<Duration>) -> (Search, Choice) {
    let isolate = match args.isolate {
        Isolate::Auto => sd_plugins::Isolate::Auto,
        Isolate::Always => sd_plugins::Isolate::Always,
        Isolate::Never => sd_plugins::Isolate::Never,
    };
    let child = std::env::current_exe().ok().map(|exe| vec![exe.into_os_string(), "plugin-child".into()]);
    let room = args.plugin_memory_mib.map(|mib| mib.saturating_mul(1 << 20));
    let mut limits = sd_plugins::Limits { room, ..sd_plugins::Limits::default() };
    if let Some(limit) = call_limit {
        limits = sd_plugins::Limits { first: limits.first.min(limit), floor: limits.floor.min(limit), ..limits };
    }
    let dirs = args.plugin_dir.clone();
    // A library that is named by its path is taken beside those that are found.
    let files = args.backend.iter().filter(|wish| sd_plugins::is_path(wish)).map(PathBuf::from).collect();
    let manifest = args.plugin_manifest.clone();
    let search = Search { dirs, files, manifest, isolate, child, limits, cache: cache_dir(), ..Search::default() };
    let options = args.backend_option.iter().filter_map(|o| o.split_once('=')).map(|(k, v)| Param::new(k, v)).collect();
    (search, Choice { backend: args.backend.clone(), device: args.device.clone(), options })
}

fn cache_dir() -> Option<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let base = base.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))?;
    Some(base.join("sd-worker").join("plugins"))
}

impl From<PluginError> for Fault {
    fn from(error: PluginError) -> Self {
        Fault::new(FaultCode::NotReady, format!("no backend could be opened: {error}. {}", error.remedy()))
    }
}
