//! The clients of the soak: good ones, impatient ones, those that die, those that send nonsense.

use crate::{Client, Random, trials::mutant, wire};
use base64::Engine as _;
use serde_json::{Value, json};
use std::{
    any::Any,
    io::{Read, Write},
    net::TcpStream,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// What a role does once.
type Role = fn(&Chaos, &mut Random);

/// Who takes part. Of all the readers about one in four is killed in the middle.
pub(super) const ROLES: &[(&str, Role)] = &[
    ("artist", artist),
    ("second artist", artist),
    ("third artist", artist),
    ("client that dies", dies),
    ("client that cancels", cancels),
    ("swapper", swaps),
    ("vandal", vandal),
    ("slow reader", reads_slowly),
    ("dialects", dialects),
    ("watcher", watches),
];

/// After so many surprises the run ends.
const MAX_SURPRISES: usize = 50;

/// What the clients share.
pub(super) struct Chaos {
    pub(super) client: Client,
    url: String,
    models: Vec<String>,
    picture: String,
    mask: String,
    over: AtomicBool,
    jobs: AtomicUsize,
    outcomes: Mutex<std::collections::BTreeMap<String, usize>>,
    times: Mutex<std::collections::BTreeMap<&'static str, Vec<f64>>>,
    surprises: Mutex<Vec<String>>,
}

impl Chaos {
    pub(super) fn new(client: Client, url: String, models: Vec<String>) -> Self {
        let mut random = Random::new(3);
        let mut rgb = image::RgbImage::new(64, 64);
        rgb.pixels_mut().for_each(|p| p.0 = [random.byte(), 100, 50]);
        let mut mask = image::GrayImage::new(64, 64);
        (0..32).for_each(|x| mask.put_pixel(x, x, image::Luma([255])));
        Chaos {
            client,
            url,
            models,
            picture: base64_png(&image::DynamicImage::ImageRgb8(rgb)),
            mask: base64_png(&image::DynamicImage::ImageLuma8(mask)),
            over: AtomicBool::new(false),
            jobs: AtomicUsize::new(0),
            outcomes: Mutex::default(),
            times: Mutex::default(),
            surprises: Mutex::default(),
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed) || self.has_too_many_surprises()
    }

    pub(super) fn stop(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// Jobs that were taken so far.
    pub(super) fn jobs(&self) -> usize {
        self.jobs.load(Ordering::Relaxed)
    }

    /// What went on, by name.
    pub(super) fn outcomes(&self) -> Vec<(String, usize)> {
        self.outcomes.lock().expect("outcomes").clone().into_iter().collect()
    }

    /// How many milliseconds each answer took, by kind, in the order in which they came.
    pub(super) fn times(&self) -> Vec<(&'static str, Vec<f64>)> {
        self.times.lock().expect("times").clone().into_iter().collect()
    }

    /// Does something, and notes how long it took.
    fn timed<T>(&self, what: &'static str, f: impl FnOnce() -> T) -> T {
        let since = Instant::now();
        let done = f();
        let ms = since.elapsed().as_secs_f64() * 1e3;
        self.times.lock().expect("times").entry(what).or_default().push(ms);
        done
    }

    pub(super) fn surprises(&self) -> Vec<String> {
        self.surprises.lock().expect("surprises").clone()
    }

    pub(super) fn has_too_many_surprises(&self) -> bool {
        self.surprises.lock().expect("surprises").len() >= MAX_SURPRISES
    }

    pub(super) fn surprise(&self, role: &str, panic: &(dyn Any + Send)) {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default();
        self.surprises.lock().expect("surprises").push(format!("{role}: {text:.400}"));
        std::thread::sleep(Duration::from_millis(200));
    }

    fn note(&self, what: &str) {
        *self.outcomes.lock().expect("outcomes").entry(what.to_owned()).or_default() += 1;
    }

    /// Sends a job; `None` when the queue is full.
    fn submit(&self, body: &Value) -> Option<String> {
        let answer = self.timed("time of POST /v1/jobs", || self.client.post("/v1/jobs", body));
        if answer.status == 429 {
            assert!(answer.header("retry-after").is_some(), "429 without Retry-After");
            self.note("refused: queue full");
            std::thread::sleep(Duration::from_millis(50));
            return None;
        }
        assert_eq!(answer.status, 200, "{}", answer.json());
        self.jobs.fetch_add(1, Ordering::Relaxed);
        Some(answer.json()["job_id"].as_str().expect("an id").to_owned())
    }

    /// Checks a whole stream and notes how it ended.
    fn ended(&self, events: &[Value]) {
        let ends: Vec<&str> = events
            .iter()
            .filter_map(|e| e["event"].as_str())
            .filter(|e| ["complete", "error", "cancelled"].contains(e))
            .collect();
        assert_eq!(ends.len(), 1, "exactly one terminal event: {ends:?}");
        let last = events.last().expect("events");
        assert_eq!(last["event"], ends[0], "the terminal event is the last");
        match ends[0] {
            "error" => self.note(&format!("error: {}", last["code"].as_str().unwrap_or_default())),
            end => self.note(end),
        }
    }

    /// A job of any kind.
    fn job(&self, random: &mut Random) -> Value {
        let mut body = json!({
            "prompt": format!("a (thing:1.{}) [number:{}:0.5]", random.below(9), random.below(40)),
            "steps": 1 + random.below(12), "seed": random.below(1000), "guidance_scale": random.below(10),
            "sampler": random.pick(&["euler", "euler_a", "ddim", "dpmpp_2m", "heun", "lms"]),
            "output_format": random.pick(&["png", "jpeg", "webp"]),
            "n": 1 + random.below(3), "preview_every": random.below(4),
        });
        if random.below(3) == 0 {
            body["model"] = json!(random.pick(&self.models));
        }
        if random.below(3) == 0 {
            (body["width"], body["height"]) = (json!(64 + 64 * random.below(4)), json!(64 + 64 * random.below(4)));
        }
        match random.below(4) {
            0 => body["init_image"] = json!(self.picture),
            1 => {
                body["operation"] = json!("image_inpaint");
                (body["init_image"], body["mask_image"]) = (json!(self.picture), json!(self.mask));
            }
            _ => {}
        }
        body
    }

    /// A raw connection with a request on it.
    fn raw(&self, request: &str) -> TcpStream {
        let mut stream = TcpStream::connect(wire::address(&self.url)).expect("the worker accepts");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
        stream.write_all(request.as_bytes()).expect("the request goes out");
        stream
    }
}

fn base64_png(picture: &image::DynamicImage) -> String {
    let mut png = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut png, image::ImageFormat::Png).expect("a PNG");
    base64::engine::general_purpose::STANDARD.encode(png.into_inner())
}

/// Sends jobs, follows them to the end, comes back with `Last-Event-ID` now and then, fetches the pictures.
fn artist(chaos: &Chaos, random: &mut Random) {
    let Some(job) = chaos.submit(&chaos.job(random)) else { return };
    let mut all = Vec::new();
    let mut events = chaos.timed("time to a stream's first event", || {
        let mut events = chaos.client.events(&job, 0);
        all.extend(events.next_event());
        events
    });
    let cut = random.below(6);
    while let Some(event) = events.next_event() {
        all.push(event);
        if all.len() == cut {
            let last = events.last_id;
            drop(events);
            events = chaos.client.events(&job, last);
        }
    }
    chaos.ended(&all);
    if all.last().is_some_and(|e| e["event"] == "complete") && random.below(2) == 0 {
        let path = format!("/v1/jobs/{job}/images/0");
        let status = chaos.timed("time of GET …/images/0", || chaos.client.get(&path)).status;
        // With few jobs kept, it may be gone already.
        assert!([200, 410].contains(&status), "image: {status}");
    }
}

/// Opens a stream and goes away after some bytes, with the job asked to end or to go on.
fn dies(chaos: &Chaos, random: &mut Random) {
    let mut body = chaos.job(random);
    body["on_disconnect"] = json!(random.pick(&["keep", "cancel"]));
    let Some(job) = chaos.submit(&body) else { return };
    let mut stream = chaos.raw(&format!("GET /v1/jobs/{job}/stream HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    let mut bytes = vec![0; random.below(3000)];
    let _ = stream.read(&mut bytes);
    std::thread::sleep(Duration::from_millis(random.below(50) as u64));
    chaos.note("client died");
}

/// Cancels a job before, while or after it runs.
fn cancels(chaos: &Chaos, random: &mut Random) {
    let Some(job) = chaos.submit(&chaos.job(random)) else { return };
    std::thread::sleep(Duration::from_millis(random.below(120) as u64));
    let status = chaos.client.post(&format!("/v1/jobs/{job}/cancel"), &json!({})).status;
    assert!([200, 409, 410].contains(&status), "cancel: {status}");
    let state = chaos.client.get(&format!("/v1/jobs/{job}"));
    if state.status == 200 {
        chaos.ended(&chaos.client.events(&job, 0).rest());
    }
}

/// Loads and unloads models, one that is not there among them.
fn swaps(chaos: &Chaos, random: &mut Random) {
    let name = random.pick(&chaos.models);
    let (what, status) = match random.below(5) {
        0 => ("unload", chaos.client.post(&format!("/v1/models/{name}/unload"), &json!({})).status),
        1 => {
            let answer = chaos.client.post("/v1/models/not-here/load", &json!({}));
            wire::proper_refusal(&answer).unwrap_or_else(|e| panic!("{e}"));
            ("failed load", answer.status)
        }
        _ => ("load", chaos.client.post(&format!("/v1/models/{name}/load"), &json!({})).status),
    };
    assert!([200, 404, 409].contains(&status), "{what}: {status}");
    chaos.note(what);
    std::thread::sleep(Duration::from_millis(random.below(1500) as u64));
}

/// Sends mutated requests.
fn vandal(chaos: &Chaos, random: &mut Random) {
    let request = mutant(random);
    let exchange = wire::exchange(wire::address(&chaos.url), &request, Duration::from_secs(15));
    assert!(!exchange.hangs, "hangs: {}", String::from_utf8_lossy(&request));
    if let Some(answer) = exchange.answer.filter(|a| a.status >= 400) {
        if !request.starts_with(b"HEAD ") {
            wire::proper_refusal(&answer).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&request)));
        }
        chaos.note("bad request refused");
    }
    std::thread::sleep(Duration::from_millis(10));
}

/// Reads a stream a few bytes at a time, and leaves before the end as often as not.
fn reads_slowly(chaos: &Chaos, random: &mut Random) {
    let Some(job) = chaos.submit(&chaos.job(random)) else { return };
    let request = format!("GET /v1/jobs/{job}/stream HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let mut stream = chaos.raw(&request);
    let mut bytes = [0; 256];
    for _ in 0..random.below(200) {
        if chaos.is_over() || stream.read(&mut bytes).unwrap_or(0) == 0 {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    chaos.note("slow reader");
}

/// The other dialects.
fn dialects(chaos: &Chaos, random: &mut Random) {
    let answer = if random.below(2) == 0 {
        chaos
            .client
            .post("/v1/images/generations", &json!({ "prompt": "x", "size": "64x64", "steps": 1 + random.below(4) }))
    } else {
        chaos.client.post(
            "/sdapi/v1/txt2img",
            &json!({ "prompt": "x", "width": 64, "height": 64, "steps": 1 + random.below(4) }),
        )
    };
    // A vandal or a neighbour may have stopped it: A1111's interrupt takes all of a key's jobs along.
    assert!([200, 409, 429].contains(&answer.status), "{} {}", answer.status, answer.json());
    chaos.note("other dialects");
    std::thread::sleep(Duration::from_millis(random.below(400) as u64));
}

/// Looks at everything, as dashboards do.
fn watches(chaos: &Chaos, random: &mut Random) {
    for path in ["/health", "/ready", "/metrics", "/v1/jobs", "/v1/queue", "/v1/models", "/info", "/sdapi/v1/progress"]
    {
        let answer = chaos.timed("time of GET /health and others", || chaos.client.get(path));
        assert_eq!(answer.status, 200, "{path}: {}", answer.json());
    }
    std::thread::sleep(Duration::from_millis(100 + random.below(300) as u64));
}
