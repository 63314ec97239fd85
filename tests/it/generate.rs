//! `sd-worker generate`: pictures in terminals, decoded back; files; Ctrl-C; exit codes. Alone and through a worker.

use base64::Engine as _;
use image::RgbImage;
use sd_tests::{Answers, Terminal, Worker, WorkerOptions, bundled_models, program};
use serde_json::json;
use std::{path::Path, process::Command, time::Duration};

/// The weightless plugin: quick, and as slow as asked.
const GAUSS: &[&str] = &["--backend", "gauss", "--isolate", "never"];

fn args<'a>(models: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["generate", "--models-dir", models], GAUSS, more].concat()
}

fn open(path: &Path) -> RgbImage {
    image::ImageReader::open(path).unwrap().with_guessed_format().unwrap().decode().unwrap().to_rgb8()
}

fn png(bytes: &[u8]) -> RgbImage {
    image::ImageReader::with_format(std::io::Cursor::new(bytes), image::ImageFormat::Png).decode().unwrap().to_rgb8()
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> Vec<&'a str> {
    text.split(start).skip(1).map(|rest| rest.split_once(end).expect("a sequence ends").0).collect()
}

/// The pictures in kitty's graphics sequences.
fn kitty(text: &str) -> Vec<RgbImage> {
    let mut pictures = Vec::new();
    let mut collected = String::new();
    for sequence in between(text, "\x1b_G", "\x1b\\") {
        let (keys, data) = sequence.split_once(';').unwrap();
        if keys.contains("a=q") {
            continue;
        }
        assert!(data.len() <= 4096, "a piece of {} bytes", data.len());
        assert_eq!(collected.is_empty(), keys.contains("a=T,f=100"), "{keys}");
        collected.push_str(data);
        if keys.ends_with("m=0") {
            let file = base64::engine::general_purpose::STANDARD.decode(std::mem::take(&mut collected)).unwrap();
            pictures.push(png(&file));
        } else {
            assert!(keys.ends_with("m=1"), "{keys}");
        }
    }
    pictures
}

fn iterm(text: &str) -> Vec<RgbImage> {
    let show = |sequence: &str| {
        let (keys, data) = sequence.split_once(':').unwrap();
        let file = base64::engine::general_purpose::STANDARD.decode(data).unwrap();
        let picture = png(&file);
        let (w, h) = picture.dimensions();
        assert_eq!(keys, format!("inline=1;size={};width={w}px;height={h}px", file.len()));
        picture
    };
    between(text, "\x1b]1337;File=", "\x07").into_iter().map(show).collect()
}

/// Decodes sixels as a VT340 would.
fn sixel(text: &str) -> Vec<RgbImage> {
    between(text, "\x1bP0;1q\"1;1;", "\x1b\\").into_iter().map(one_sixel).collect()
}

fn one_sixel(data: &str) -> RgbImage {
    let at = data.find('#').unwrap();
    let size: Vec<u32> = data[..at].split(';').map(|n| n.parse().unwrap()).collect();
    let mut picture = RgbImage::new(size[0], size[1]);
    let mut palette = vec![[0u8; 3]; 256];
    let (mut x, mut band, mut colour) = (0, 0, 0);
    let mut rest = &data[at..];
    while let Some(c) = rest.chars().next() {
        rest = &rest[1..];
        let mut number = || {
            let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            let value: u32 = rest[..end].parse().unwrap();
            rest = &rest[end..];
            value
        };
        let (mut count, mut bits) = (1, c);
        match c {
            '#' => {
                colour = number() as usize;
                if rest.starts_with(";2;") {
                    rest = &rest[3..];
                    for channel in 0..3 {
                        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap();
                        let percent: u32 = rest[..end].parse().unwrap();
                        palette[colour][channel] = (percent * 255 / 100) as u8;
                        rest = &rest[end + usize::from(channel < 2)..];
                    }
                }
                continue;
            }
            '$' => {
                x = 0;
                continue;
            }
            '-' => {
                (x, band) = (0, band + 1);
                continue;
            }
            '!' => {
                count = number();
                bits = rest.chars().next().unwrap();
                rest = &rest[1..];
            }
            _ => {}
        }
        let rows = u32::from(bits) - u32::from('?');
        for _ in 0..count {
            for row in (0..6).filter(|row| rows >> row & 1 == 1) {
                picture.put_pixel(x, band * 6 + row, image::Rgb(palette[colour]));
            }
            x += 1;
        }
    }
    picture
}

/// Whether a shown picture is the file's, each pixel magnified to a square.
fn mean_difference(shown: &RgbImage, file: &RgbImage) -> f64 {
    let times = shown.width() / file.width();
    assert_eq!(shown.dimensions(), (file.width() * times, file.height() * times));
    assert!(times >= 2, "a picture of {} pixels is magnified", file.width());
    let mut sum = 0.0;
    for (x, y, pixel) in shown.enumerate_pixels() {
        let wanted = file.get_pixel(x / times, y / times);
        sum += pixel.0.iter().zip(wanted.0).map(|(a, b)| f64::from(a.abs_diff(b))).sum::<f64>();
    }
    sum / f64::from(shown.width() * shown.height() * 3)
}

#[test]
fn the_terminal_shows_what_the_file_holds() {
    type Decode = fn(&str) -> Vec<RgbImage>;
    // What is tried: its environment, what the terminal answers, further flags; how to read it, how far it may be off.
    type Case = (&'static str, &'static [(&'static str, &'static str)], Answers, &'static [&'static str], Decode, f64);
    let cases: [Case; 5] = [
        ("asked, kitty", &[], Answers::Kitty, &[], kitty, 0.0),
        ("asked, sixel", &[], Answers::Attributes("62;4;22"), &[], sixel, 6.0),
        ("by environment", &[("TERM_PROGRAM", "iTerm.app")], Answers::Nothing, &[], iterm, 0.0),
        ("by flag", &[], Answers::Nothing, &["--show", "kitty"], kitty, 0.0),
        ("by setting", &[("SD_WORKER_SHOW", "iterm")], Answers::Nothing, &[], iterm, 0.0),
    ];
    let models = bundled_models();
    let models = models.to_str().unwrap();
    for (what, env, answers, flags, decode, allowed) in cases {
        let folder = tempfile::tempdir().unwrap();
        let out = format!("{}/", folder.path().display());
        let more = ["-p", "red apple", "--steps", "4", "--seed", "5", "-n", "2", "-o", &out];
        let args = args(models, &[&more, flags].concat());
        let mut terminal = Terminal::start(program("sd-worker").as_os_str(), &args, env, answers);
        let status = terminal.wait();
        let said = terminal.said();
        let text = String::from_utf8_lossy(&said).into_owned();
        assert_eq!(status.code(), Some(0), "{what}: {text}");
        let shown = decode(&text);
        assert_eq!(shown.len(), 2, "{what}: {text}");
        for (picture, name) in shown.iter().zip(["00000-5.png", "00001-6.png"]) {
            let off = mean_difference(picture, &open(&folder.path().join(name)));
            assert!(off <= allowed, "{what}: {off}");
            assert!(text.contains(name), "{what}: the file is named");
        }
        assert!(terminal.is_as_before(), "{what}: the terminal is left as it was");
        assert!(!text.contains("OK\x1b") && !text.contains("?62"), "{what}: answers are not echoed: {text:?}");
        assert!(text.contains("a step") && text.contains("steps of"), "{what}: {text:?}");
    }
}

#[test]
fn previews_are_shown_too() {
    let models = bundled_models();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("a.jpg");
    let more = ["-p", "x", "--steps", "6", "--preview-every", "2", "-o", out.to_str().unwrap(), "--show", "kitty"];
    let args = args(models.to_str().unwrap(), &more);
    let mut terminal = Terminal::start(program("sd-worker").as_os_str(), &args, &[], Answers::Nothing);
    assert_eq!(terminal.wait().code(), Some(0));
    let shown = kitty(&String::from_utf8_lossy(&terminal.said()));
    // After steps 2 and 4, perhaps 6; then the picture itself.
    assert!((3..=4).contains(&shown.len()), "{}", shown.len());
    assert!(mean_difference(shown.last().unwrap(), &open(&out)) <= 1.0);
}

#[test]
fn terminals_that_show_nothing_get_nothing() {
    let models = bundled_models();
    let models = models.to_str().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("a.png");
    let more = ["-p", "x", "--steps", "2", "-o", out.to_str().unwrap()];
    let never: &[&str] = &["--show", "never"];
    for (answers, env, flags) in [
        (Answers::Nothing, &[][..], &[][..]),
        (Answers::Attributes("62;22"), &[], &[]),
        (Answers::Kitty, &[], never),
        (Answers::Kitty, &[("TERM", "dumb")], &[]),
    ] {
        let args = args(models, &[&more, flags].concat());
        let mut terminal = Terminal::start(program("sd-worker").as_os_str(), &args, env, answers);
        assert_eq!(terminal.wait().code(), Some(0), "{answers:?}");
        let said = terminal.said();
        let text = String::from_utf8_lossy(&said);
        assert!(!text.contains("a=T") && !text.contains("\x1bP") && !text.contains("1337"), "{answers:?}: {text:?}");
        assert!(terminal.is_as_before());
    }
    let done = Command::new(program("sd-worker")).args(args(models, &more)).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&done.stdout), format!("{} (seed {})\n", out.display(), seed(&out)));
    assert_eq!(String::from_utf8_lossy(&done.stderr), "", "no bar and no log where nobody sees them");
}

fn seed(picture: &Path) -> String {
    let done = Command::new(program("sd-worker")).arg("inspect").arg(picture).output().unwrap();
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    text.split("Seed: ").nth(1).unwrap().split(',').next().unwrap().to_owned()
}

#[test]
fn ctrl_c_ends_the_job_and_the_program() {
    let worker = Worker::start(&WorkerOptions::args(&[GAUSS, &["--backend-option", "step_ms=50"]].concat()));
    let models = bundled_models();
    let alone = args(models.to_str().unwrap(), &["--backend-option", "step_ms=50"]);
    let far = vec!["generate", "--url", &worker.url];
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("a.png");
    for how in [alone, far] {
        let args = [&how[..], &["-p", "x", "--steps", "150", "-o", out.to_str().unwrap()]].concat();
        let mut terminal = Terminal::start(program("sd-worker").as_os_str(), &args, &[], Answers::Nothing);
        terminal.wait_for("a step");
        terminal.press("\x03");
        let status = terminal.wait();
        let said = terminal.said();
        let text = String::from_utf8_lossy(&said);
        assert_eq!(status.code(), Some(130), "{how:?}: {text:?}");
        assert!(text.contains("the job was cancelled"), "{text:?}");
        assert!(!out.exists());
    }
    let jobs = worker.client().get("/v1/jobs").json();
    assert_eq!(jobs["data"][0]["status"], "cancelled", "{jobs}");
    assert!(jobs["data"][0]["progress"]["step"].as_u64() < Some(150));
}

#[test]
fn a_running_worker_draws_for_those_with_its_token() {
    let folder = tempfile::tempdir().unwrap();
    let tokens = folder.path().join("tokens");
    std::fs::write(&tokens, "# who\nalice: correct-horse-battery\n").unwrap();
    let tokens = tokens.to_str().unwrap();
    let worker = Worker::start(&WorkerOptions::args(&[GAUSS, &["--token-file", tokens]].concat()));
    let run = |more: &[&str]| {
        let done = Command::new(program("sd-worker"))
            .args(["generate", "-p", "x", "--steps", "3", "--seed", "7"])
            .args(more)
            .current_dir(folder.path())
            .output()
            .unwrap();
        (done.status.code(), done.stdout, String::from_utf8_lossy(&done.stderr).into_owned())
    };
    let url = worker.url.as_str();
    let (code, out, err) = run(&["--url", url, "--token-file", tokens, "-n", "4", "-o", "new/out/"]);
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(String::from_utf8_lossy(&out).lines().count(), 4);
    let files: Vec<RgbImage> =
        (0..4).map(|i| open(&folder.path().join(format!("new/out/{i:05}-{}.png", 7 + i)))).collect();
    assert!(files.windows(2).all(|pair| pair[0] != pair[1]));
    // The same alone, and into a pipe.
    let models = bundled_models();
    let alone = [&["--models-dir", models.to_str().unwrap(), "-o", "-"], GAUSS].concat();
    let (code, out, err) = run(&alone);
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(png(&out), files[0]);
    // A picture to start from.
    let from = ["--url", url, "--token", "correct-horse-battery", "--init", "new/out/00000-7.png", "--mask"];
    let (code, _, err) = run(&[&from[..], &["new/out/00001-8.png", "--strength", "0.5", "-o", "b.webp"]].concat());
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(open(&folder.path().join("b.webp")).dimensions(), files[0].dimensions());

    for (flags, expected, part) in [
        (&["--url", url][..], 64, "token"),
        (&["--url", url, "--token", "wrong-wrong-wrong-wrong"], 64, "token"),
        (&["--url", "http://127.0.0.1:1"], 69, "127.0.0.1:1"),
        (&["--url", url, "--token-file", "nothing-here"], 64, "nothing-here"),
        (&["--url", url, "--token-file", tokens, "--sampler", "eulr"], 64, "euler"),
        (&["--url", url, "--token-file", tokens, "--set", "nonsense=1"], 64, "nonsense"),
        (&["--url", url, "--token-file", tokens, "--model", "no-such-model"], 64, "no-such-model"),
        (&["--init", "nothing.png"], 64, "nothing.png"),
        (&["-n", "17"], 64, "1 to 16"),
        (&["--nonsense"], 64, "--nonsense"),
        (&["--models-dir", "/nothing/here"], 64, "emoji-sd"),
    ] {
        let (code, out, err) = run(flags);
        assert_eq!((code, out.len()), (Some(expected), 0), "{flags:?}: {err}");
        assert!(err.contains(part), "{flags:?}: {err}");
    }
}

#[test]
fn a_worker_that_is_full_or_gone_is_said() {
    let options = [GAUSS, &["--backend-option", "step_ms=100", "--queue-jobs", "1"]].concat();
    let mut worker = Worker::start(&WorkerOptions::args(&options));
    let client = worker.client();
    let running = client.submit(&json!({ "prompt": "x", "steps": 100 }));
    client.events(&running, 0).until("started");
    client.submit(&json!({ "prompt": "x", "steps": 100 }));
    let url = worker.url.clone();
    let draw = || {
        let mut command = Command::new(program("sd-worker"));
        command.args(["generate", "-p", "x", "--url", &url, "-o", "-"]);
        command
    };
    let done = draw().output().unwrap();
    let err = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(69), "{err}");
    assert!(err.contains("try again"), "{err}");
    // Gone in the middle of a job.
    client.delete(&format!("/v1/jobs/{running}"));
    std::thread::sleep(Duration::from_millis(500));
    let child = draw().stderr(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    worker.signal(libc::SIGKILL);
    worker.wait(Duration::from_secs(10));
    let done = child.wait_with_output().unwrap();
    assert_eq!(done.status.code(), Some(69), "{}", String::from_utf8_lossy(&done.stderr));
}
