//! Damaged pictures: files of the fixtures with some bytes changed, lost, doubled or cut off.

use crate::{Client, Random, Worker, root, wire};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use std::{
    fs,
    sync::atomic::{AtomicUsize, Ordering},
};

/// What the worker may keep for all of this, in KiB.
const GROWTH_KIB: u64 = 64 * 1024;

/// Asks for a job that can never run: the picture is judged, whatever becomes of it nothing is queued. Answers the status
/// and the fault of the picture.
pub fn judge_picture(client: &Client, image: &Value) -> (u16, Option<Value>) {
    let body = json!({ "prompt": "x", "init_image": image, "guidance_start": 1, "guidance_end": 0 });
    let answer = client.post("/v1/jobs", &body);
    let error = answer.json()["error"].clone();
    let all = error["errors"].as_array().cloned().unwrap_or_else(|| vec![error.clone()]);
    assert!(all.iter().any(|e| e["field"] == "guidance_start"), "the picture was looked at: {error}");
    (answer.status, all.into_iter().find(|e| e["field"] == "init_image"))
}

/// Sends `count` damaged pictures, by `clients` at once, every fourth of them to be read for its recipe too. Each is
/// refused or taken for what it is, and nothing is kept of it.
pub fn damaged_pictures(worker: &Worker, count: usize, clients: usize) -> String {
    let folder = root().join("tests/fixtures/images");
    let list: Value = serde_json::from_slice(&fs::read(folder.join("expected.json")).expect("the list")).expect("JSON");
    let names = list.as_object().expect("names").keys();
    let files: Vec<Vec<u8>> = names.map(|name| fs::read(folder.join(name)).expect("a picture")).collect();
    let (before, refused) = (worker.rss_kib(), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for part in 0..clients {
            let (files, refused) = (&files, &refused);
            scope.spawn(move || {
                let (client, mut random) = (worker.client(), Random::new(0x9e37_79b9 + part as u64));
                for round in (part..count).step_by(clients) {
                    let image = STANDARD.encode(damaged(&mut random, &files[round % files.len()])).into();
                    let (status, fault) = judge_picture(&client, &image);
                    assert_eq!(status, 422, "round {round}: {fault:?}");
                    refused.fetch_add(usize::from(fault.is_some()), Ordering::Relaxed);
                    // A decoder's own words are for its author.
                    let told = fault.map_or(String::new(), |fault| fault["message"].to_string());
                    assert!(!told.contains('{'), "round {round}: {told}");
                    wire::gives_nothing_away(&told).unwrap_or_else(|e| panic!("round {round}: {e}"));
                    if random.below(4) == 0 {
                        let status = client.post("/v1/png-info", &json!({ "image": image })).status;
                        assert!(status == 200 || status == 422, "round {round}: {status}");
                    }
                }
            });
        }
    });
    let (refused, grown) = (refused.into_inner(), worker.rss_kib().saturating_sub(before));
    assert!(refused > count / 3, "{refused} of {count} were refused");
    assert!(grown < GROWTH_KIB, "{grown} KiB more");
    assert_eq!(worker.client().get("/ready").status, 200);
    assert!(!worker.log_text().contains("panicked"), "{}", worker.log_text());
    format!("{count} damaged pictures, {refused} refused, +{:.1} MiB", grown as f64 / 1024.0)
}

fn damaged(random: &mut Random, file: &[u8]) -> Vec<u8> {
    let mut bytes = file.to_vec();
    for _ in 0..=random.below(6) {
        bytes.extend(bytes.is_empty().then_some(0));
        let at = random.below(bytes.len());
        match random.below(6) {
            0 => bytes[at] = random.byte(),
            1 => bytes[at] ^= 1 << random.below(8),
            2 => drop(bytes.remove(at)),
            3 => bytes.insert(at, random.byte()),
            4 => bytes.truncate(at.max(1)),
            _ => bytes[at] = *random.pick(&[0, 0xFF, 0x7F, 0x80]),
        }
    }
    bytes
}
