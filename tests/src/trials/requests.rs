//! Mutated requests: valid ones with something wrong in the method, the path, the headers, the JSON, the text or the numbers.

use crate::{Random, Worker, wire};
use std::time::Duration;

/// Valid requests; `{n}` stands for the length of the body.
const SEEDS: &[&str] = &[
    "POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {n}\r\nConnection: close\r\n\r\n{\"prompt\":\"a red apple\",\"steps\":4,\"width\":64,\"height\":64,\"seed\":1}",
    "POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nIdempotency-Key: k-1\r\nContent-Length: {n}\r\nConnection: close\r\n\r\n{\"operation\":\"image_generation\",\"hive_id\":\"localhost\",\"prompt\":\"(a:1.2) [b:c:0.5] [d|e] BREAK f\",\"negative_prompt\":\"x\",\"guidance_scale\":7.5,\"sampler\":\"euler\",\"schedule\":\"karras\",\"n\":2,\"preview_every\":1,\"output_format\":\"webp\",\"on_disconnect\":\"cancel\",\"timeout_secs\":5,\"priority\":-1}",
    "POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {n}\r\nConnection: close\r\n\r\n{\"operation\":\"image_transform\",\"prompt\":\"x\",\"init_image\":\"data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC\",\"strength\":0.5,\"steps\":2}",
    "POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n1c\r\n{\"prompt\":\"apple\",\"steps\":1}\r\n0\r\n\r\n",
    "POST /v1/png-info HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {n}\r\nConnection: close\r\n\r\n{\"image\":\"iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC\"}",
    "POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {n}\r\nConnection: close\r\n\r\n{\"prompt\":\"apple\",\"size\":\"64x64\",\"n\":1,\"response_format\":\"b64_json\",\"steps\":1}",
    "POST /v1/images/edits HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=abc\r\nContent-Length: {n}\r\nConnection: close\r\n\r\n--abc\r\nContent-Disposition: form-data; name=\"prompt\"\r\n\r\napple\r\n--abc\r\nContent-Disposition: form-data; name=\"image[]\"; filename=\"a.png\"\r\nContent-Type: image/png\r\n\r\nnothing\r\n--abc--\r\n",
    "POST /sdapi/v1/txt2img HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {n}\r\nConnection: close\r\n\r\n{\"prompt\":\"apple\",\"steps\":1,\"width\":64,\"height\":64,\"sampler_name\":\"Euler a\",\"override_settings\":{\"CLIP_stop_at_last_layers\":2}}",
    "POST /sdapi/v1/options HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {n}\r\nConnection: close\r\n\r\n{\"samples_format\":\"png\"}",
    "GET /sdapi/v1/progress?skip_current_image=true HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    "GET /v1/jobs/job-00000000-0000-4000-8000-000000000000/stream HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: 3\r\nConnection: close\r\n\r\n",
    "DELETE /v1/jobs/job-00000000-0000-4000-8000-000000000000 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    "GET /v1/jobs?status=queued&limit=10&after=job-00000000-0000-4000-8000-000000000000 HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\nConnection: close\r\n\r\n",
    "GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: abc\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\nConnection: close\r\n\r\n",
    "GET http://localhost/v1/jobs HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    "GET localhost HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    "POST /v1/models/nothing-here/load HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
];

/// Words that parsers trip over.
const WORDS: &[&str] = &[
    "18446744073709551616",
    "-9223372036854775809",
    "1e400",
    "-0",
    "NaN",
    "null",
    "true",
    "[]",
    "{}",
    "\"",
    "\\u0000",
    "\\ud800",
    "%00",
    "%2e%2e%2f",
    "../",
    "\r\n",
    "\r\n\r\n",
    "\n",
    "\t",
    "chunked",
    "Content-Length: 5\r\n",
    "close",
    "HTTP/1.0",
    "HTTP/2.0",
    ":",
    ";",
    "?",
    "&",
    "#",
    "(((((((((",
    "[[[[[[[[[",
    "<lora:x:1>",
    "4294967296",
    "😀",
    "gzip",
    "Expect: 100-continue\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Host: evil.example\r\n",
];

/// The next mutated request.
pub fn mutant(random: &mut Random) -> Vec<u8> {
    let (head, body) = random.pick(SEEDS).split_once("\r\n\r\n").expect("a head");
    let mut body = body.as_bytes().to_vec();
    let grown = |body: &[u8], head: &str| head.replace("{n}", &body.len().to_string()).into_bytes();
    // Half the time the length follows the mutated body, so that what is mutated reaches the parsers whole.
    let honest = random.below(2) == 0;
    let mut mutated_head = grown(&body, head);
    for _ in 0..1 + random.below(4) {
        let in_head = body.is_empty() || random.below(3) == 0;
        let target = if in_head { &mut mutated_head } else { &mut body };
        if target.is_empty() {
            continue;
        }
        let at = random.below(target.len());
        match random.below(8) {
            0 => target[at] = random.byte(),
            1 => target.truncate(at.max(1)),
            2 => target.insert(at, random.byte()),
            3 => {
                let piece = target[at..(at + 8).min(target.len())].to_vec();
                target.splice(at..at, piece);
            }
            4 => {
                let end = (at + random.below(12)).min(target.len());
                target.drain(at..end);
            }
            5 => {
                let word = random.pick(WORDS).as_bytes().to_vec();
                target.splice(at..at, word);
            }
            6 => {
                // A number or word in place of what stands between two separators.
                let separator = |b: &u8| b",:{}[]/?&= \r".contains(b);
                let from = target[..at].iter().rposition(separator).map_or(0, |i| i + 1);
                let to = target[at..].iter().position(separator).map_or(target.len(), |i| at + i);
                let word = random.pick(WORDS).as_bytes().to_vec();
                target.splice(from..to.max(from), word);
            }
            _ => target[at] ^= 1 << random.below(8),
        }
        if honest && !in_head {
            let text = String::from_utf8_lossy(&mutated_head).into_owned();
            if let Some((before, after)) = text.split_once("Content-Length: ") {
                let rest = after.find("\r\n").map_or("", |i| &after[i..]);
                mutated_head = format!("{before}Content-Length: {}{rest}", body.len()).into_bytes();
            }
        }
    }
    [&mutated_head[..], b"\r\n\r\n", &body[..]].concat()
}

/// What became of some mutated requests.
#[derive(Debug, Default)]
struct Tally {
    answered: usize,
    refused: usize,
    slowest: Duration,
}

/// Clients at once: many mutants are requests without an end, for which a client waits a moment.
const CLIENTS: usize = 16;

/// Sends `count` mutated requests, the same ones for the same seed. Every refusal must be a 4xx with our JSON error,
/// nothing may hang or panic, and the worker must be well afterwards.
pub fn mutated_requests(worker: &Worker, count: usize, seed: u64) -> String {
    let share = count.div_ceil(CLIENTS);
    let total = std::thread::scope(|scope| {
        let clients: Vec<_> =
            (0..CLIENTS as u64).map(|n| scope.spawn(move || send(worker, share, seed.wrapping_add(n)))).collect();
        clients.into_iter().map(|c| c.join().expect("a client ends well")).fold(Tally::default(), |all, one| Tally {
            answered: all.answered + one.answered,
            refused: all.refused + one.refused,
            slowest: all.slowest.max(one.slowest),
        })
    });
    let Tally { answered, refused, slowest } = total;
    // Those cut short get no answer: a client that ends is a client that has gone.
    assert!(answered * 10 > count * 7, "{answered} of {count} requests were answered");
    assert!(refused * 3 > count, "{refused} of {count} requests were refused: the mutations do not bite");
    assert_eq!(worker.client().get("/health").status, 200);
    assert!(!worker.log_text().contains("panicked"), "{}", worker.log_text());
    format!("{count} requests, {answered} answered, {refused} refused, slowest {:.0} ms", slowest.as_secs_f64() * 1e3)
}

fn send(worker: &Worker, count: usize, seed: u64) -> Tally {
    let address = wire::address(&worker.url);
    let (mut random, mut tally) = (Random::new(seed), Tally::default());
    for round in 0..count {
        let request = mutant(&mut random);
        let shown = || String::from_utf8_lossy(&request).into_owned();
        let exchange = wire::exchange(address, &request, Duration::from_secs(10));
        assert!(!exchange.hangs, "request {round} hangs: {}", shown());
        tally.slowest = tally.slowest.max(exchange.took);
        let Some(answer) = exchange.answer else { continue };
        tally.answered += 1;
        assert!(answer.status < 500 || answer.status == 503, "request {round}: {}: {}", answer.status, shown());
        if answer.status >= 400 {
            tally.refused += 1;
            // The answer to HEAD has no body.
            if !request.starts_with(b"HEAD ") {
                wire::proper_refusal(&answer).unwrap_or_else(|e| panic!("request {round}: {e}: {}", shown()));
            }
        }
    }
    tally
}
