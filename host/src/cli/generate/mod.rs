//! `sd-worker generate`: draws from the command line, alone or through a running worker.

mod alone;
mod flags;
mod interrupt;
pub(super) mod remote;
mod watch;

use super::{
    EX_USAGE,
    screen::{Screen, Show},
    terminal::{complain, say},
};
use crate::{
    config::{BackendArgs, ModelArgs},
    fault::{Fault, FaultCode},
};
use clap::Args;
use flags::JobFlags;
use serde_json::{Map, Value, json};
use std::{
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};
use watch::Watch;

/// Exit code of a worker that cannot be reached or does not take the job now (`EX_UNAVAILABLE` of sysexits.h).
const EX_UNAVAILABLE: u8 = 69;
/// Exit code after Ctrl-C, as shells have it.
const EX_INTERRUPTED: u8 = 130;

/// Says what the exit codes mean.
pub(super) const EXIT_CODES: &str = "\
Exit codes:
  0    drawn
  64   what was asked for is at fault: a flag, a picture, a model's name
  69   the worker cannot be reached or does not take the job now; it may later
  130  stopped by Ctrl-C, and the job with it
  1    anything else";

/// Drawing from the command line.
#[derive(Debug, Args)]
pub(crate) struct GenerateArgs {
    #[command(flatten)]
    job: JobFlags,
    /// Where the pictures go: a file, a folder such as `out/` (they get numbers there), or `-` for standard output.
    /// A file's ending decides the format unless --output-format does
    #[arg(long, short, default_value = "out.png")]
    out: PathBuf,
    /// Show the pictures in the terminal, and previews with --preview-every: by which protocol, or never
    #[arg(long, env = "SD_WORKER_SHOW", value_enum, default_value = "auto")]
    show: Show,
    /// Any other field of a job, for workers that take more than this program knows
    #[arg(long = "set", value_name = "NAME=VALUE")]
    set: Vec<String>,
    /// Let a running worker draw, at this base URL
    #[arg(long, env = "SD_WORKER_URL")]
    url: Option<String>,
    /// The running worker's token
    #[arg(long, env = "SD_WORKER_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// A file whose first line holds the running worker's token, as the worker itself reads it
    #[arg(long, env = "SD_WORKER_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    backends: BackendArgs,
    #[command(flatten)]
    models: ModelArgs,
}

/// A finished picture.
struct Drawn {
    bytes: Vec<u8>,
    seed: u64,
    media_type: String,
}

pub(super) fn run(args: &GenerateArgs) -> ExitCode {
    match draw(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            complain(&fault.to_string());
            ExitCode::from(match fault.code {
                FaultCode::Cancelled => EX_INTERRUPTED,
                FaultCode::NotReady | FaultCode::QueueFull | FaultCode::RateLimited | FaultCode::Draining => {
                    EX_UNAVAILABLE
                }
                code if (400..500).contains(&code.status()) => EX_USAGE,
                _ => 1,
            })
        }
    }
}

fn draw(args: &GenerateArgs) -> Result<(), Fault> {
    let fields = fields(args)?;
    let target = Target::of(&args.out)?;
    let piped = matches!(target, Target::Stdout);
    let screen = if piped { None } else { Screen::choose(args.show) };
    let mut watch = Watch::new(screen.as_ref());
    let outcome = match &args.url {
        Some(url) => remote::draw(url, args, fields, &mut watch),
        None => alone::draw(args, fields, &mut watch),
    };
    let summary = watch.end();
    let pictures = outcome?;
    for (i, picture) in pictures.iter().enumerate() {
        if let Some(screen) = &screen {
            screen.show(&picture.bytes);
        }
        if let Some(path) = target.write(picture, i, pictures.len())? {
            say(&format!("{} (seed {})", path.display(), picture.seed));
        }
    }
    if !summary.is_empty() && std::io::stderr().is_terminal() {
        // A closed terminal is no fault.
        let _ = writeln!(std::io::stderr(), "{summary}");
    }
    Ok(())
}

fn fields(args: &GenerateArgs) -> Result<Map<String, Value>, Fault> {
    let mut fields = args.job.fields()?;
    let format = match args.out.extension().and_then(|e| e.to_str()) {
        Some("jpg" | "jpeg") => Some("jpeg"),
        Some("webp") => Some("webp"),
        _ => None,
    };
    if let Some(format) = format {
        fields.entry("output_format").or_insert(format.into());
    }
    for pair in &args.set {
        let (name, text) = pair.split_once('=').ok_or_else(|| Fault::field("--set", "--set: must be NAME=VALUE"))?;
        fields.insert(name.to_owned(), serde_json::from_str(text).unwrap_or_else(|_| json!(text)));
    }
    Ok(fields)
}

fn runtime() -> Result<tokio::runtime::Runtime, Fault> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Fault::internal(format!("the runtime could not be started: {e}")))
}

/// Where pictures go.
enum Target {
    File(PathBuf),
    /// A folder, and the number of the next picture in it.
    Folder(PathBuf, usize),
    Stdout,
}

impl Target {
    /// Makes the folder, before anything is drawn for it.
    fn of(out: &Path) -> Result<Target, Fault> {
        let make = |folder: &Path| {
            std::fs::create_dir_all(folder).map_err(|e| Fault::internal(format!("{}: {e}", folder.display())))
        };
        if out == Path::new("-") {
            return Ok(Target::Stdout);
        }
        if out.is_dir() || out.extension().is_none() {
            make(out)?;
            return Ok(Target::Folder(out.to_owned(), next_number(out)));
        }
        if let Some(folder) = out.parent().filter(|p| !p.as_os_str().is_empty()) {
            make(folder)?;
        }
        Ok(Target::File(out.to_owned()))
    }

    /// Writes one picture of several; answers where it went.
    fn write(&self, picture: &Drawn, index: usize, count: usize) -> Result<Option<PathBuf>, Fault> {
        let path = match self {
            Target::Stdout => {
                let written = std::io::stdout().write_all(&picture.bytes);
                return written.map(|()| None).map_err(|e| Fault::internal(format!("standard output: {e}")));
            }
            Target::Folder(folder, first) => {
                let ending = match picture.media_type.as_str() {
                    "image/jpeg" => "jpg",
                    "image/webp" => "webp",
                    _ => "png",
                };
                folder.join(format!("{:05}-{}.{ending}", first + index, picture.seed))
            }
            Target::File(file) if count == 1 => file.clone(),
            Target::File(file) => {
                let stem = file.file_stem().unwrap_or_default().to_string_lossy();
                let ending = file.extension().unwrap_or_default().to_string_lossy();
                file.with_file_name(format!("{stem}-{index}.{ending}"))
            }
        };
        std::fs::write(&path, &picture.bytes).map_err(|e| Fault::internal(format!("{}: {e}", path.display())))?;
        Ok(Some(path))
    }
}

/// One more than the highest number that a file of the folder begins with: nothing is overwritten.
fn next_number(folder: &Path) -> usize {
    let names = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.file_name());
    let number = |name: &str| name.split_once('-')?.0.parse::<usize>().ok();
    names.filter_map(|n| number(n.to_str()?)).max().map_or(0, |n| n.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_get_names_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        let picture = |media_type: &str| Drawn { bytes: vec![1], seed: 7, media_type: media_type.to_owned() };
        let name = |target: &Target, picture: &Drawn, i, n| {
            let path = target.write(picture, i, n).unwrap().unwrap();
            path.strip_prefix(folder.path()).unwrap().to_str().unwrap().to_owned()
        };
        let one = Target::of(&folder.path().join("new/a.png")).unwrap();
        assert_eq!(name(&one, &picture("image/png"), 0, 1), "new/a.png");
        assert_eq!(name(&one, &picture("image/png"), 2, 3), "new/a-2.png");
        let many = folder.path().join("out");
        let first = Target::of(&many).unwrap();
        assert_eq!(name(&first, &picture("image/png"), 0, 2), "out/00000-7.png");
        assert_eq!(name(&first, &picture("image/webp"), 1, 2), "out/00001-7.webp");
        let second = Target::of(&many).unwrap();
        assert_eq!(name(&second, &picture("image/jpeg"), 0, 1), "out/00002-7.jpg");
    }
}
