//! Model names that would lead out of the models directory, and traps that see whether anything outside is opened.

use crate::{Client, Random, Worker};
use serde_json::{Value, json};
use std::{
    fs,
    io::Read,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

/// What a hostile name is made of.
const PIECES: [&str; 28] = [
    "..",
    "../",
    "..\\",
    "/",
    "\\",
    "\0",
    "%2e%2e",
    "%2e%2e%2f",
    "%252e",
    "%00",
    "．．",
    "‥",
    "․․",
    "／",
    "\u{202e}",
    "~",
    "~/",
    "file://",
    "http://",
    "C:",
    "nul",
    "con",
    ".",
    "./",
    "//",
    "$(id)",
    "`id`",
    "*",
];

/// What stands between them.
const WORDS: [&str; 5] = ["model-a", "outside", "secret.safetensors", "etc/passwd", "a"];

/// Lays models, links out of the directory, a pipe and the outside itself under `folder`; answers the models directory
/// and the outside.
pub fn lay_traps(folder: &Path) -> (PathBuf, PathBuf) {
    let (models, outside) = (folder.join("models"), folder.join("outside"));
    super::two_models(&models);
    super::two_models(&outside);
    fs::write(outside.join("secret.safetensors"), "secret").expect("a file");
    symlink(outside.join("model-a"), models.join("link-to-folder")).expect("a link");
    symlink(outside.join("secret.safetensors"), models.join("link-to-file.safetensors")).expect("a link");
    symlink("/dev/zero", models.join("link-to-device.safetensors")).expect("a link");
    symlink(&outside, models.join("link-to-outside")).expect("a link");
    // Whoever opened a pipe would wait for a writer for ever.
    rustix::fs::mkfifoat(rustix::fs::CWD, models.join("pipe.safetensors"), rustix::fs::Mode::RUSR).expect("a pipe");
    fs::create_dir(models.join("half")).expect("a folder");
    fs::copy(models.join("model-a/model_index.json"), models.join("half/model_index.json")).expect("a copy");
    for part in ["unet", "vae", "text_encoder", "scheduler", "tokenizer"] {
        symlink(outside.join("model-a").join(part), models.join("half").join(part)).expect("a link");
    }
    (models, outside)
}

/// Names that exist in the directory of [`lay_traps`] and lead out of it.
const LINKS: [&str; 6] = ["link-to-folder", "link-to-file", "link-to-device", "link-to-outside", "half", "pipe"];

/// Opens of files and folders below a folder, counted by the kernel.
struct Watch {
    inotify: fs::File,
}

impl Watch {
    fn on(folder: &Path) -> Watch {
        use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
        let fd = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).expect("inotify");
        let mut folders = vec![folder.to_path_buf()];
        while let Some(folder) = folders.pop() {
            add_watch(&fd, &folder, WatchFlags::OPEN | WatchFlags::ACCESS).expect("a watch");
            folders.extend(folder.read_dir().expect("a folder").flatten().map(|e| e.path()).filter(|p| p.is_dir()));
        }
        let mut watch = Watch { inotify: fs::File::from(fd) };
        // Laying the watches has opened the folders.
        watch.opens();
        watch
    }

    /// Bytes of events since the last look; 0 = nothing was opened.
    fn opens(&mut self) -> usize {
        // The kernel wants room for a whole event at each read.
        let (mut events, mut all) = (vec![0; 64 * 1024], 0);
        while let Ok(n @ 1..) = self.inotify.read(&mut events) {
            all += n;
        }
        all
    }
}

/// Sends `count` hostile names through every door that takes a model's name. The worker must have been started on the
/// models directory of [`lay_traps`]. None is taken, nothing is given away, and nothing outside is opened.
pub fn hostile_names(worker: &Worker, count: usize, outside: &Path) -> String {
    let mut watch = Watch::on(outside);
    drop(fs::File::open(outside.join("secret.safetensors")).expect("it is there"));
    assert!(watch.opens() > 0, "the watch sees an open");
    let client = worker.client();
    let outside_text = outside.display().to_string();
    let mut random = Random::new(20);
    let (mut malformed, mut unknown) = (0, 0);
    for n in 0..count {
        let link = LINKS.get(n).map(|link| (*link).to_owned());
        let name = link.unwrap_or_else(|| hostile(&mut random, n, &outside_text));
        let answer = door(&client, n, &name);
        let body = answer.1.to_string();
        assert!((400..500).contains(&answer.0), "{name:.200?} is answered {}: {body:.300}", answer.0);
        assert!(!body.contains(&outside_text), "{name:.200?}: the answer names a place on the disk: {body:.300}");
        if answer.0 == 404 { unknown += 1 } else { malformed += 1 }
    }
    assert_eq!(watch.opens(), 0, "something outside of the models directory was opened");
    assert_eq!(client.get("/health").status, 200);
    format!("{count} names: {malformed} malformed, {unknown} unknown, none opened anything outside")
}

/// Sends a name through one of the doors.
fn door(client: &Client, n: usize, name: &str) -> (u16, Value) {
    let encoded: String = name.bytes().map(|b| format!("%{b:02x}")).collect();
    let answer = match n % 4 {
        0 | 1 => client.post("/v1/jobs", &json!({ "prompt": "x", "steps": 1, "model": name })),
        // A request target of 64 KiB is refused as such.
        2 => client.post(&format!("/v1/models/{encoded:.9000}/load"), &json!({})),
        _ => {
            client.post("/v1/images/generations", &json!({ "prompt": "x", "steps": 1, "size": "64x64", "model": name }))
        }
    };
    (answer.status, answer.json())
}

fn hostile(random: &mut Random, n: usize, outside: &str) -> String {
    match n % 16 {
        1 => format!("{outside}/model-a"),
        2 => format!("../outside/{}", "model-a"),
        3 => "../".repeat(1 + random.below(20)) + outside.trim_start_matches('/') + "/secret.safetensors",
        4 => "/dev/zero".to_owned(),
        5 => "a".repeat(64 * 1024),
        6 => format!("model-a/{}", "../".repeat(3) + "outside/model-a"),
        _ => {
            let mut name = String::new();
            // At least one piece is hostile by itself.
            for _ in 0..1 + random.below(5) {
                name.push_str(PIECES[random.below(PIECES.len())]);
                if random.below(2) == 0 {
                    name.push_str(WORDS[random.below(WORDS.len())]);
                }
            }
            name
        }
    }
}
