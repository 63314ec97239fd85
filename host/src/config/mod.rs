//! Settings: flags over environment over file over default, in one struct.

mod file;
mod state;
mod webhook;

pub use file::apply_file;
pub use state::{StateArgs, StateFolder};
pub use webhook::{RateArgs, WebhookArgs};

use crate::server::body::BodyBudget;
use clap::{Args, ValueEnum};
use std::{net::IpAddr, path::PathBuf, time::Duration};

/// How plugins are kept apart from the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Default)]
pub enum Isolate {
    /// The shipped CPU plugin in the program, every other one in a process of its own.
    #[default]
    Auto,
    /// Every plugin in a process of its own.
    Always,
    /// Every plugin in the program.
    Never,
}

/// Whether models that are not here are fetched from the hub while the worker runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Default)]
pub enum PullPolicy {
    /// Only `sd-worker models pull` fetches. Whoever may send jobs cannot fill the disk.
    #[default]
    Never,
    /// A job, a load or `--model` that names `org/name[@revision]` or a short name fetches it.
    OnDemand,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For collectors.
    Json,
}

impl From<LogFormat> for crate::telemetry::LogFormat {
    fn from(format: LogFormat) -> Self {
        match format {
            LogFormat::Text => Self::Text,
            LogFormat::Json => Self::Json,
        }
    }
}

/// Where plugins come from and which is taken. Shared by every subcommand that opens a device.
#[derive(Debug, Clone, Args)]
pub struct BackendArgs {
    /// A folder with backend plugins; may be given several times. Without it: `plugins` beside the program, and the
    /// program's own folder
    #[arg(long, env = "SD_WORKER_PLUGIN_DIR", value_delimiter = ':')]
    pub plugin_dir: Vec<PathBuf>,
    /// A file with SHA-256 checksums, as sha256sum writes it: plugins that it does not list, or lists otherwise, are refused
    #[arg(long, env = "SD_WORKER_PLUGIN_MANIFEST", value_name = "FILE")]
    pub plugin_manifest: Option<PathBuf>,
    /// Use this plugin instead of the best for the hardware (see `sd-worker backend list`): an id, the `x-y` of one
    /// `libsd_backend_x_y` among several builds, or a library's path
    #[arg(long, env = "SD_WORKER_BACKEND")]
    pub backend: Option<String>,
    /// Use these devices: `cpu`, `cuda:1`, a PCI address, a number (the device of this index), a list of them with
    /// commas, `gpu` for all GPUs, or `all`. Without it: all GPUs of the best backend, else the CPU
    #[arg(long, env = "SD_WORKER_DEVICE", visible_aliases = ["cuda-device", "metal-device"])]
    pub device: Option<String>,
    /// An option for the backend as `name=value`, such as `threads=2`; may be given several times
    #[arg(long, env = "SD_WORKER_BACKEND_OPTION", value_name = "NAME=VALUE", value_delimiter = ',', value_parser = pair)]
    pub backend_option: Vec<String>,
    /// Whether plugins run in processes of their own
    #[arg(long, env = "SD_WORKER_ISOLATE", value_enum, default_value = "auto")]
    pub isolate: Isolate,
    /// Most memory in MiB that a plugin in a process of its own may take once its device is open; without it as much as
    /// there is
    #[arg(long, env = "SD_WORKER_PLUGIN_MEMORY_MIB")]
    pub plugin_memory_mib: Option<u64>,
}

/// Takes `NAME=VALUE`.
pub(crate) fn pair(text: &str) -> Result<String, String> {
    text.split_once('=')
        .filter(|(name, _)| !name.is_empty())
        .map(|_| text.to_owned())
        .ok_or_else(|| "must be NAME=VALUE".to_owned())
}

/// Where models come from. Shared by every subcommand that names one.
#[derive(Debug, Clone, Args)]
pub struct ModelArgs {
    /// A folder with models; may be given several times. Without it: `models` beside the program or in the source tree
    #[arg(long, env = "SD_WORKER_MODELS_DIR", value_delimiter = ':')]
    pub models_dir: Vec<PathBuf>,
    /// The model to serve: a name from `sd-worker models list`, a folder, or a .safetensors file. Without it: the
    /// bundled model
    #[arg(long, env = "SD_WORKER_MODEL", visible_aliases = ["model-ref", "sd-version", "model-path"])]
    pub model: Option<String>,
    /// Whether a model of the hub that is not here is fetched when a job, a load or --model names it
    #[arg(long, env = "SD_WORKER_PULL", value_enum, default_value = "never")]
    pub pull: PullPolicy,
}

/// Log settings.
#[derive(Debug, Clone, Args)]
pub struct LogArgs {
    /// How log lines look
    #[arg(long, env = "SD_WORKER_LOG_FORMAT", value_enum, default_value = "text", global = true)]
    pub log_format: LogFormat,
    /// Which log lines are written: `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `sd_worker=debug`.
    /// Without it: `info`, and `warn` for `generate`
    #[arg(long, env = "SD_WORKER_LOG", global = true)]
    pub log: Option<String>,
}

/// Everything `serve` takes.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// The port to listen on; 0 takes a free one
    #[arg(long, env = "SD_WORKER_PORT", default_value_t = 8600)]
    pub port: u16,
    /// The address to listen on. Any other than loopback needs a token
    #[arg(long, env = "SD_WORKER_BIND_ADDR", default_value = "127.0.0.1")]
    pub bind_addr: IpAddr,
    /// A TOML file with settings: the flags' names with underscores
    #[arg(long, env = "SD_WORKER_CONFIG")]
    pub config: Option<PathBuf>,
    /// This worker's name towards a hive
    #[arg(long, env = "SD_WORKER_WORKER_ID", default_value = "sd-worker")]
    pub worker_id: String,
    /// Where heartbeats go: the base URL of a queen or hive
    #[arg(long, env = "SD_WORKER_QUEEN_URL", visible_alias = "hive-url")]
    pub queen_url: Option<String>,
    /// Where to tell once that the worker is ready
    #[arg(long, env = "SD_WORKER_CALLBACK_URL")]
    pub callback_url: Option<String>,
    /// The base URL under which others reach this worker, as the callback tells it. Without it: the address it listens
    /// on, or with every address the machine's name
    #[arg(long, env = "SD_WORKER_ADVERTISE_URL")]
    pub advertise_url: Option<String>,
    /// A file with API tokens: one a line, `name:token` or `token`. Read again on SIGHUP
    #[arg(long, env = "SD_WORKER_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// Serve beyond loopback without a token. Whoever reaches the port can use the worker
    #[arg(long, env = "SD_WORKER_ALLOW_UNAUTHENTICATED")]
    pub allow_unauthenticated: bool,
    /// Loopback only, without tokens
    #[arg(long, env = "SD_WORKER_LOCAL_MODE")]
    pub local_mode: bool,
    /// Host names that requests may name, besides loopback and the bound address
    #[arg(long, env = "SD_WORKER_ALLOWED_HOST", value_delimiter = ',')]
    pub allowed_host: Vec<String>,
    /// Origins of web pages that may call this worker
    #[arg(long, env = "SD_WORKER_ALLOWED_ORIGIN", value_delimiter = ',')]
    pub allowed_origin: Vec<String>,
    /// Jobs that may wait
    #[arg(long, env = "SD_WORKER_QUEUE_JOBS", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub queue_jobs: u32,
    /// Largest request body in MiB
    #[arg(long, env = "SD_WORKER_MAX_BODY_MIB", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub max_body_mib: u32,
    /// Most pixels of one picture, in multiples of 1024 × 1024
    #[arg(long, env = "SD_WORKER_MAX_MEGAPIXELS", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=16))]
    pub max_megapixels: u32,
    /// Most open connections
    #[arg(long, env = "SD_WORKER_MAX_CONNECTIONS", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub max_connections: u32,
    /// Write no recipe into pictures, whatever requests ask
    #[arg(long, env = "SD_WORKER_NO_METADATA")]
    pub no_metadata: bool,
    /// The longest a job may run, in seconds
    #[arg(long, env = "SD_WORKER_JOB_TIMEOUT_SECS", default_value_t = 1800, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub job_timeout_secs: u32,
    /// How long finished jobs and pictures are kept, in seconds
    #[arg(long, env = "SD_WORKER_KEEP_SECS", default_value_t = 3600, value_parser = clap::value_parser!(u32).range(1..=2_592_000))]
    pub keep_secs: u32,
    /// Most finished jobs that are kept
    #[arg(long, env = "SD_WORKER_KEEP_JOBS", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub keep_jobs: u32,
    /// How long running jobs may go on after SIGTERM, in seconds
    #[arg(long, env = "SD_WORKER_DRAIN_SECS", default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=3600))]
    pub drain_secs: u32,
    /// The longest a single call into a backend may take before the backend counts as hung, in seconds
    #[arg(long, env = "SD_WORKER_CALL_LIMIT_SECS", default_value_t = 600, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub call_limit_secs: u32,
    /// Jobs that run at the same time on one device; their steps share calls. Without it: 1 on a CPU, 4 on a GPU
    #[arg(long, env = "SD_WORKER_LANES", value_parser = clap::value_parser!(u32).range(1..=16))]
    pub lanes: Option<u32>,
    /// Most models that one device holds at the same time; the one unused for longest goes first. Without it: as many
    /// as fit into its memory
    #[arg(long, env = "SD_WORKER_MAX_MODELS", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub max_models: Option<u32>,
    /// Give a model's memory back after so many idle seconds; 0 keeps it
    #[arg(long, env = "SD_WORKER_IDLE_UNLOAD_SECS", default_value_t = 0)]
    pub idle_unload_secs: u32,
    /// Print `release` or `debug` and end
    #[arg(long)]
    pub build_info: bool,
    /// State
    #[command(flatten)]
    pub state: StateArgs,
    /// Webhooks
    #[command(flatten)]
    pub webhook: WebhookArgs,
    /// Rates
    #[command(flatten)]
    pub rate: RateArgs,
    /// Plugins
    #[command(flatten)]
    pub backends: BackendArgs,
    /// Models
    #[command(flatten)]
    pub models: ModelArgs,
}

/// Bounds on requests.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Largest body in bytes.
    pub body_bytes: usize,
    /// Most pixels of one picture.
    pub pixels: u64,
    /// The longest a job may run.
    pub job_timeout: Duration,
    /// The memory that all bodies read at the same time share.
    pub budget: BodyBudget,
}

/// The settings that handlers look at.
#[derive(Debug, Clone)]
pub struct Config {
    /// This worker's name.
    pub worker_id: String,
    /// The model that jobs without one get.
    pub model: String,
    /// Bounds on requests.
    pub limits: Limits,
    /// Whether pictures may carry their recipe.
    pub metadata: bool,
}

impl ServeArgs {
    /// The bounds on requests.
    pub fn limits(&self) -> Limits {
        Limits {
            body_bytes: self.max_body_mib as usize * 1024 * 1024,
            pixels: u64::from(self.max_megapixels) * 1024 * 1024,
            job_timeout: Duration::from_secs(u64::from(self.job_timeout_secs)),
            budget: BodyBudget::new(self.max_body_mib as usize * 1024 * 1024 * 8),
        }
    }
}
