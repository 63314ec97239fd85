//! The command line: what it takes, and which part answers.

mod backends;
mod check;
mod doctor;
mod generate;
mod inspect;
mod models;
mod screen;
mod serve;
mod terminal;

use crate::{
    config::{BackendArgs, LogArgs, ModelArgs, ServeArgs, apply_file},
    fault::{Fault, FaultCode},
};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use generate::GenerateArgs;
use std::{
    ffi::OsString,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
};

/// Exit code of wrong usage or settings (`EX_USAGE` of sysexits.h).
pub(crate) const EX_USAGE: u8 = 64;

const EXAMPLES: &str = "\
Examples:
  sd-worker                                        serve the bundled model on http://127.0.0.1:8600
  sd-worker --port 9000 --model sd-v1-5            serve another model on another port
  sd-worker generate -p 'red apple' -o apple.png     draw from the command line
  sd-worker backend list                           what drives which device, and why
  sd-worker doctor                                 what was found here, and what to do about the rest";

/// Turns prompts into pictures over HTTP and streams every step.
#[derive(Debug, Parser)]
#[command(name = "sd-worker", version, about, after_help = EXAMPLES, subcommand_required = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    log: LogArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve over HTTP; what happens without a subcommand
    Serve(Box<ServeArgs>),
    /// Draw from the command line
    #[command(after_help = generate::EXIT_CODES)]
    Generate(Box<GenerateArgs>),
    /// Backend plugins
    #[command(subcommand)]
    Backend(BackendCommand),
    /// Models
    #[command(subcommand)]
    Models(ModelsCommand),
    /// Print the recipe inside a picture
    Inspect {
        /// A PNG, JPEG or WebP file: one of ours, of A1111 or of ComfyUI
        file: PathBuf,
        /// Everything that is known, as JSON
        #[arg(long)]
        json: bool,
    },
    /// Say what was found on this machine, and what to do about what was not
    Doctor {
        #[command(flatten)]
        backends: BackendArgs,
        #[command(flatten)]
        models: ModelArgs,
    },
    /// Ask a running worker whether it is ready; for containers
    Healthcheck {
        /// The worker's base URL. Without it: where a worker with the same environment and settings file listens
        #[arg(long, env = "SD_WORKER_URL")]
        url: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum BackendCommand {
    /// Every plugin found, what it offers, why it was chosen, refused or skipped
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        backends: BackendArgs,
    },
    /// Have a running worker look for plugins again and take up new versions, without a stop
    Reload {
        /// The worker's base URL
        #[arg(long, env = "SD_WORKER_URL", default_value = "http://127.0.0.1:8600")]
        url: String,
        /// The worker's token
        #[arg(long, env = "SD_WORKER_TOKEN", hide_env_values = true)]
        token: Option<String>,
        /// A file whose first line holds the worker's token, as the worker itself reads it
        #[arg(long, env = "SD_WORKER_TOKEN_FILE")]
        token_file: Option<PathBuf>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Check a plugin: load, probe, run every component, compare with the CPU backend. For authors
    Check(Box<check::CheckArgs>),
}

#[derive(Debug, Subcommand)]
pub(crate) enum ModelsCommand {
    /// The models on disk
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        models: ModelArgs,
    },
    /// What a model is and needs, and what is missing
    Inspect {
        /// A model's name or path
        name: String,
        #[command(flatten)]
        models: ModelArgs,
    },
    /// Take a single-file model into the models folder
    Import {
        /// A .safetensors file
        file: PathBuf,
        /// The name it gets; the file's own without this
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        models: ModelArgs,
    },
    /// Fetch a model from the hub
    Pull {
        /// `org/name[@revision]`, or a short name such as `sd-v1-5`
        name: String,
        #[command(flatten)]
        models: ModelArgs,
    },
    /// Remove a model from disk
    Rm {
        /// A model's name
        name: String,
        #[command(flatten)]
        models: ModelArgs,
    },
}

/// Runs the program. `preset` is the backend of a program built for one.
pub fn main(preset: Option<&str>) -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    if args.get(1).is_some_and(|a| a == "plugin-child") {
        let code = sd_plugins::child_main(args.into_iter().skip(2));
        return ExitCode::from(u8::try_from(code).unwrap_or(1));
    }
    let cli = match parse(args, preset) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no faults; printing to a closed pipe is none of ours.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(EX_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    // Whoever draws at a terminal wants to see the picture, not the log.
    let usual = if matches!(cli.command, Command::Generate(_)) { "warn" } else { "info" };
    let filter = cli.log.log.as_deref().unwrap_or(usual);
    if let Err(error) = crate::telemetry::init(cli.log.log_format.into(), filter) {
        terminal::complain(&error.to_string());
        return ExitCode::from(EX_USAGE);
    }
    let outcome = match cli.command {
        Command::Serve(args) => return serve::run(*args),
        Command::Generate(args) => return generate::run(&args),
        Command::Backend(command) => backends::run(&command),
        Command::Models(command) => models::run(&command),
        Command::Inspect { file, json } => inspect::run(&file, json),
        Command::Doctor { backends, models } => doctor::run(&backends, &models),
        Command::Healthcheck { url } => url.map_or_else(own_url, Ok).and_then(|url| doctor::healthcheck(&url)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            terminal::complain(&fault.to_string());
            ExitCode::FAILURE
        }
    }
}

/// Without a subcommand the program serves: `sd-worker --port 9000` is `sd-worker serve --port 9000`.
fn parse(mut args: Vec<OsString>, preset: Option<&str>) -> Result<Cli, clap::Error> {
    let mut command = Cli::command();
    if let Some(preset) = preset {
        command = command.mut_subcommands(|sub| {
            let has = sub.get_arguments().any(|a| a.get_id() == "backend");
            let preset = preset.to_owned();
            if has { sub.mut_arg("backend", |a| a.default_value(preset)) } else { sub }
        });
    }
    let names: Vec<String> = command.get_subcommands().map(|s| s.get_name().to_owned()).collect();
    let first = args.get(1).and_then(|a| a.to_str()).unwrap_or_default().to_owned();
    let own = ["help", "-h", "--help", "-V", "--version"];
    if !names.contains(&first) && !own.contains(&first.as_str()) {
        args.insert(1.min(args.len()), "serve".into());
    }
    if let Some(path) = config_path(&args) {
        let mut fault = None;
        command = command.mut_subcommand("serve", |serve| match apply_file(serve.clone(), &path) {
            Ok(changed) => changed,
            Err(message) => {
                fault = Some(message);
                serve
            }
        });
        if let Some(message) = fault {
            return Err(command.error(clap::error::ErrorKind::InvalidValue, message));
        }
    }
    Cli::from_arg_matches(&command.try_get_matches_from(args)?)
}

/// Where a worker listens that is started with this environment and no flags.
fn own_url() -> Result<String, Fault> {
    let wrong = |e: clap::Error| Fault::new(FaultCode::InvalidRequest, e.to_string());
    let Command::Serve(args) = parse(vec!["sd-worker".into(), "serve".into()], None).map_err(wrong)?.command else {
        return Err(Fault::internal("serve is another command"));
    };
    let bound = SocketAddr::new(args.bind_addr, args.port);
    if bound.port() == 0 {
        return Err(Fault::field("--url", "is needed: the worker listens on a port of the system's choice"));
    }
    Ok(format!("http://{}", reachable_here(bound)))
}

/// An address that listens on every interface is reached through loopback.
fn reachable_here(bound: SocketAddr) -> SocketAddr {
    let ip = match bound.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, bound.port())
}

/// Reads a settings file and checks its values, as a start of the worker would.
pub(crate) fn check_settings(path: &std::path::Path) -> Result<(), String> {
    let serve = Cli::command().find_subcommand("serve").cloned().unwrap_or_default();
    let command = apply_file(serve, path)?;
    command.try_get_matches_from(["serve"]).map(drop).map_err(|e| e.to_string())
}

/// The settings file, found before everything else is parsed.
fn config_path(args: &[OsString]) -> Option<PathBuf> {
    let given = args.iter().enumerate().find_map(|(i, arg)| match arg.to_str()? {
        "--config" => args.get(i + 1).map(PathBuf::from),
        other => other.strip_prefix("--config=").map(PathBuf::from),
    });
    given.or_else(|| std::env::var_os("SD_WORKER_CONFIG").map(PathBuf::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn no_subcommand_serves() {
        for line in ["sd-worker", "sd-worker --port 9000 --worker-id a", "sd-worker serve --port 9000"] {
            assert!(matches!(parse(words(line), None).unwrap().command, Command::Serve(_)), "{line}");
        }
        assert!(parse(words("sd-worker nonsense"), None).is_err());
    }

    #[test]
    fn what_hives_pass_is_taken() {
        let line = "sd-worker --worker-id worker-cpu-9123 --model emoji-sd --device 0 --port 9123 --queen-url http://localhost:7833";
        let Command::Serve(args) = parse(words(line), Some("candle-cpu")).unwrap().command else {
            unreachable!("it serves")
        };
        assert_eq!((args.port, args.worker_id.as_str()), (9123, "worker-cpu-9123"));
        assert_eq!(args.backends.backend.as_deref(), Some("candle-cpu"));
        assert_eq!(args.backends.device.as_deref(), Some("0"));
        let other = "sd-worker --worker-id a --sd-version turbo --port 9 --callback-url http://x --local-mode --hive-url http://y";
        assert!(parse(words(other), None).is_ok());
    }

    #[test]
    fn every_address_is_reached_from_here() {
        for (bound, reached) in [
            ("127.0.0.1:8600", "127.0.0.1:8600"),
            ("0.0.0.0:9000", "127.0.0.1:9000"),
            ("[::]:9000", "[::1]:9000"),
            ("10.0.0.5:80", "10.0.0.5:80"),
        ] {
            assert_eq!(reachable_here(bound.parse().unwrap()).to_string(), reached);
        }
    }

    #[test]
    fn flags_win_over_the_settings_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("worker.toml");
        std::fs::write(
            &file,
            "port = 9001\nqueue_jobs = 5\nallow_unauthenticated = true\nallowed_host = [\"a\", \"b\"]\n",
        )
        .unwrap();
        let line = format!("sd-worker --config {} --port 9002", file.display());
        let Command::Serve(args) = parse(words(&line), None).unwrap().command else { unreachable!("it serves") };
        assert_eq!((args.port, args.queue_jobs, args.allow_unauthenticated), (9002, 5, true));
        assert_eq!(args.allowed_host, ["a", "b"]);
        std::fs::write(&file, "prot = 9001\n").unwrap();
        let text = parse(words(&line), None).unwrap_err().to_string();
        assert!(text.contains("prot"), "{text}");
    }
}
