//! The store through crashes, damage, time and numbers.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;
use tempfile::{TempDir, tempdir};

use super::db::Db;
use super::*;

const START: i64 = 1_800_000_000_000;

/// A store whose clock stands still until it is moved. Dropping it without closing is what `kill -9` leaves behind: nothing is flushed on purpose.
struct Bench {
    folder: TempDir,
    clock: Arc<AtomicI64>,
    options: StoreOptions,
}

impl Bench {
    fn new() -> Self {
        let clock = Arc::new(AtomicI64::new(START));
        let hand = clock.clone();
        let options = StoreOptions {
            time_to_live: Duration::from_secs(100),
            remember_expired: Duration::from_secs(1000),
            clock: Arc::new(move || hand.load(Ordering::SeqCst)),
            ..StoreOptions::default()
        };
        Self { folder: tempdir().unwrap(), clock, options }
    }

    fn open(&self) -> (Db, Recovery) {
        Db::open(self.folder.path(), self.options.clone()).unwrap()
    }

    fn pass(&self, seconds: i64) {
        self.clock.fetch_add(seconds * 1000, Ordering::SeqCst);
    }

    fn pictures(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.folder.path().join("pictures"))
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

fn job(id: &str) -> NewJob {
    NewJob {
        id: id.into(),
        request: format!(r#"{{"prompt":"{id}"}}"#),
        owner: "hive".into(),
        priority: 0,
        idempotency_key: None,
        fingerprint: None,
        webhook: None,
    }
}

fn png(bytes: &'static [u8]) -> NewImage {
    NewImage { media_type: "image/png", extension: "png", bytes: Bytes::from_static(bytes) }
}

fn ids(jobs: &[JobRecord]) -> Vec<&str> {
    jobs.iter().map(|j| &*j.id).collect()
}

fn state(db: &Db, id: &str) -> Option<JobState> {
    db.get(id).unwrap().found().map(|j| j.state)
}

#[test]
fn a_job_lives_from_queue_to_result() {
    let bench = Bench::new();
    let (mut db, _) = bench.open();
    let new = db.insert(&job("a")).unwrap().unwrap();
    assert_eq!((new.state, new.created_ms, new.attempts), (JobState::Queued, START, 0));
    bench.pass(1);
    db.start("a").unwrap();
    bench.pass(1);
    db.finish("a", JobState::Complete, r#"{"seed":7}"#, &[png(b"one"), png(b"three")]).unwrap();
    let job = db.get("a").unwrap().found().unwrap();
    assert_eq!((job.state, job.result.as_deref(), job.attempts), (JobState::Complete, Some(r#"{"seed":7}"#), 1));
    assert_eq!(
        (job.started_ms, job.finished_ms, job.expires_ms),
        (Some(START + 1000), Some(START + 2000), Some(START + 102_000))
    );
    assert_eq!(job.images.iter().map(|i| (i.index, i.bytes)).collect::<Vec<_>>(), [(0, 3), (1, 5)]);
    let (image, bytes) = db.image("a", 1).unwrap().unwrap();
    assert_eq!((&*image.media_type, &*bytes), ("image/png", &b"three"[..]));
    assert_eq!(db.image("a", 2).unwrap(), None);
    assert_eq!(db.image("b", 0).unwrap(), None);
}

#[test]
fn states_change_only_forward() {
    let bench = Bench::new();
    let (mut db, _) = bench.open();
    let conflict = |state| Err(StoreError::Conflict { state });
    db.insert(&job("a")).unwrap().unwrap();
    assert_eq!(db.requeue("a", false), conflict("queued"));
    assert_eq!(db.finish("a", JobState::Running, "", &[]), conflict("queued"));
    db.start("a").unwrap();
    assert_eq!(db.start("a"), conflict("running"));
    db.finish("a", JobState::Cancelled, "{}", &[]).unwrap();
    assert_eq!(db.finish("a", JobState::Complete, "{}", &[png(b"late")]), conflict("cancelled"));
    assert_eq!((db.start("a"), db.requeue("a", false)), (conflict("cancelled"), conflict("cancelled")));
    assert_eq!(
        (db.start("x"), db.finish("x", JobState::Error, "", &[])),
        (Err(StoreError::Unknown), Err(StoreError::Unknown))
    );
    assert!(bench.pictures().is_empty(), "a refused end leaves no picture");
    for bad in ["", "../x", "a/b", "a.b", "a b", "é", &"x".repeat(65)] {
        assert_eq!(db.insert(&job(bad)).unwrap_err(), StoreError::BadId, "{bad}");
    }
    assert_eq!(db.insert(&job("a")).unwrap_err(), StoreError::BadId, "taken");
}

#[test]
fn a_killed_program_comes_back_to_everything_it_had() {
    let bench = Bench::new();
    let (mut db, recovery) = bench.open();
    assert!(recovery.queued.is_empty() && recovery.interrupted.is_empty() && !recovery.damaged);
    for (id, priority) in [("done", 0), ("running", 0), ("late", 0), ("urgent", 5)] {
        db.insert(&NewJob { priority, ..job(id) }).unwrap().unwrap();
    }
    db.start("done").unwrap();
    db.finish("done", JobState::Complete, "{}", &[png(b"picture")]).unwrap();
    db.start("running").unwrap();
    // What a kill in the middle of a write leaves: half a file, and a whole one that was never entered.
    let folder = bench.folder.path().join("pictures");
    fs::write(folder.join("running-0.png.part"), b"hal").unwrap();
    fs::write(folder.join("running-0.png"), b"never entered").unwrap();
    // A copy of the folder as it is now, with the write-ahead log not yet folded in: nothing has been closed.
    let copy = tempdir().unwrap();
    copy_all(bench.folder.path(), copy.path());
    assert!(fs::metadata(copy.path().join("jobs.db-wal")).unwrap().len() > 0, "the log is what is being tested");

    let (mut db2, recovery) = Db::open(copy.path(), bench.options.clone()).unwrap();
    assert_eq!(ids(&recovery.queued), ["urgent", "late"]);
    assert_eq!(ids(&recovery.interrupted), ["running"]);
    assert_eq!((recovery.files_removed, recovery.interrupted[0].attempts), (2, 1));
    assert_eq!(&*db2.image("done", 0).unwrap().unwrap().1, b"picture");
    assert_eq!(db2.image("running", 0).unwrap(), None);
    db2.requeue("running", false).unwrap();
    db2.start("running").unwrap();
    db2.finish("running", JobState::Complete, "{}", &[png(b"second try")]).unwrap();
    let job = db2.get("running").unwrap().found().unwrap();
    assert_eq!((job.attempts, job.images.len()), (2, 1));
}

fn copy_all(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir(&target).unwrap();
            copy_all(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn a_picture_that_was_cut_short_is_not_shown() {
    let bench = Bench::new();
    let (mut db, _) = bench.open();
    db.insert(&job("a")).unwrap().unwrap();
    db.finish("a", JobState::Complete, "{}", &[png(b"picture")]).unwrap();
    for damage in [&b"pict"[..], b"picture and more"] {
        fs::write(bench.folder.path().join("pictures/a-0.png"), damage).unwrap();
        assert_eq!(db.image("a", 0).unwrap(), None);
    }
    fs::remove_file(bench.folder.path().join("pictures/a-0.png")).unwrap();
    assert_eq!(db.image("a", 0).unwrap(), None);
}

#[test]
fn a_damaged_database_is_set_aside() {
    for damage in [b"this is not a database at all, but it is long enough".repeat(200), vec![0xff; 100]] {
        let bench = Bench::new();
        fs::write(bench.folder.path().join("jobs.db"), &damage).unwrap();
        let (mut db, recovery) = bench.open();
        assert!(recovery.damaged);
        db.insert(&job("a")).unwrap().unwrap();
        assert_eq!(fs::read(bench.folder.path().join("jobs.db.damaged")).unwrap(), damage);
    }
}

#[test]
fn a_newer_or_busy_folder_is_refused() {
    let bench = Bench::new();
    let (db, _) = bench.open();
    assert_eq!(Db::open(bench.folder.path(), bench.options.clone()).err(), Some(StoreError::InUse));
    drop(db);
    let raw = rusqlite::Connection::open(bench.folder.path().join("jobs.db")).unwrap();
    raw.pragma_update(None, "user_version", 99).unwrap();
    drop(raw);
    let error = Db::open(bench.folder.path(), bench.options.clone()).err();
    assert_eq!(error, Some(StoreError::Newer { found: 99, known: 2 }));
    let file = bench.folder.path().join("a file");
    fs::write(&file, b"").unwrap();
    let error = Db::open(&file, bench.options.clone()).err().unwrap();
    assert!(!error.to_string().contains(bench.folder.path().to_str().unwrap()), "{error}");
}

#[test]
fn a_folder_of_the_first_version_is_taken_over() {
    let bench = Bench::new();
    let (mut db, _) = bench.open();
    db.insert(&NewJob { idempotency_key: Some("k".into()), ..job("old") }).unwrap().unwrap();
    drop(db);
    let raw = rusqlite::Connection::open(bench.folder.path().join("jobs.db")).unwrap();
    raw.execute_batch("ALTER TABLE jobs DROP COLUMN fingerprint; PRAGMA user_version = 1").unwrap();
    drop(raw);
    let (mut db, recovery) = bench.open();
    assert_eq!(recovery.queued.len(), 1);
    let known = db.by_key("hive", "k").unwrap().unwrap();
    assert_eq!((known.id.as_str(), known.fingerprint), ("old", None));
    let new = NewJob { idempotency_key: Some("l".into()), fingerprint: Some([7; 32]), ..job("new") };
    assert_eq!(db.insert(&new).unwrap().unwrap().fingerprint, Some([7; 32]));
}

#[test]
fn jobs_expire_then_are_forgotten() {
    let bench = Bench::new();
    let (mut db, _) = bench.open();
    for id in ["old", "new", "waiting"] {
        db.insert(&NewJob { idempotency_key: Some(id.into()), ..job(id) }).unwrap().unwrap();
    }
    db.finish("old", JobState::Complete, "{}", &[png(b"x")]).unwrap();
    bench.pass(60);
    db.finish("new", JobState::Complete, "{}", &[png(b"y")]).unwrap();
    bench.pass(50);
    assert_eq!(db.expire().unwrap(), 1);
    assert_eq!(db.get("old").unwrap(), Lookup::Expired);
    assert_eq!((db.image("old", 0).unwrap(), bench.pictures()), (None, vec!["new-0.png".to_owned()]));
    assert_eq!(db.finish("old", JobState::Error, "", &[]), Err(StoreError::Unknown));
    assert_eq!(db.list(&ListFilter { limit: 10, ..ListFilter::default() }).unwrap().jobs.len(), 2);
    let held = |prompt: &str| {
        ["jobs.db", "jobs.db-wal"].iter().any(|file| {
            let raw = fs::read(bench.folder.path().join(file)).unwrap();
            raw.windows(prompt.len()).any(|w| w == prompt.as_bytes())
        })
    };
    // What has ended needs its request no more; what waits does, which shows that the search would find one.
    assert!(!held(r#"{"prompt":"old"}"#) && held(r#"{"prompt":"waiting"}"#), "an expired prompt is gone from the disk");
    db.insert(&NewJob { idempotency_key: Some("old".into()), ..job("again") }).unwrap().unwrap();
    bench.pass(2000);
    assert_eq!(db.expire().unwrap(), 1);
    assert_eq!((db.get("old").unwrap(), db.get("new").unwrap()), (Lookup::Unknown, Lookup::Expired));
    assert_eq!(state(&db, "waiting"), Some(JobState::Queued), "a job that has not ended does not expire");
    assert!(bench.pictures().is_empty());
}

#[test]
fn pictures_are_bounded_and_the_oldest_go_first() {
    let mut bench = Bench::new();
    bench.options.max_picture_bytes = 10;
    let (mut db, _) = bench.open();
    for id in ["a", "b", "c"] {
        db.insert(&job(id)).unwrap().unwrap();
        db.finish(id, JobState::Complete, "{}", &[png(b"four")]).unwrap();
        bench.pass(1);
    }
    assert_eq!(db.get("a").unwrap(), Lookup::Expired);
    assert_eq!(bench.pictures(), ["b-0.png", "c-0.png"]);
    db.insert(&job("big")).unwrap().unwrap();
    db.finish("big", JobState::Complete, "{}", &[png(b"much more than ten")]).unwrap();
    assert_eq!(bench.pictures(), ["big-0.png"], "what was just made stays");
    drop(db);
    let (mut db, _) = bench.open();
    db.insert(&job("d")).unwrap().unwrap();
    db.finish("d", JobState::Complete, "{}", &[png(b"four")]).unwrap();
    assert_eq!(bench.pictures(), ["d-0.png"], "the sum is known again after a restart");
}

#[test]
fn the_same_key_gives_the_same_job() {
    let bench = Bench::new();
    let (mut db, _) = bench.open();
    let keyed = |id: &str, owner: &str| NewJob {
        owner: owner.into(),
        idempotency_key: Some("k".into()),
        fingerprint: Some([id.len() as u8; 32]),
        ..job(id)
    };
    let first = db.insert(&keyed("a", "hive")).unwrap().unwrap();
    assert_eq!(first.fingerprint, Some([1; 32]));
    assert_eq!(db.insert(&keyed("bb", "hive")).unwrap(), Err(first));
    assert_eq!(db.get("bb").unwrap(), Lookup::Unknown);
    db.insert(&keyed("c", "other")).unwrap().unwrap();
    db.insert(&job("d")).unwrap().unwrap();
    db.insert(&job("e")).unwrap().unwrap();
    // A key goes with its job's time, also before anybody sweeps.
    db.finish("a", JobState::Complete, "{}", &[]).unwrap();
    assert!(db.by_key("hive", "k").unwrap().is_some());
    bench.pass(101);
    assert_eq!(db.by_key("hive", "k").unwrap(), None);
    assert_eq!(db.insert(&keyed("f", "hive")).unwrap().unwrap().id, "f");
    assert_eq!((db.get("a").unwrap(), db.expire().unwrap()), (Lookup::Expired, 0));
}

#[test]
fn requests_are_read_only_for_those_who_come_back() {
    let bench = Bench::new();
    let (mut db, _) = bench.open();
    for id in ["waits", "runs"] {
        db.insert(&NewJob { idempotency_key: Some(id.into()), ..job(id) }).unwrap().unwrap();
    }
    db.start("runs").unwrap();
    let filter = ListFilter { state: None, owner: None, before: None, limit: 9 };
    let listed = db.list(&filter).unwrap().jobs;
    let one = db.by_key("hive", "waits").unwrap();
    assert!(listed.len() == 2 && listed.iter().chain(&one).all(|job| job.request.is_empty()), "{listed:?}");
    drop(db);
    let (_, recovery) = bench.open();
    let requests = recovery.queued.iter().chain(&recovery.interrupted).map(|job| &*job.request);
    assert_eq!(requests.collect::<Vec<_>>(), [r#"{"prompt":"waits"}"#, r#"{"prompt":"runs"}"#]);
}

#[test]
fn a_full_store_says_so_and_keeps_what_it_has() {
    let mut bench = Bench::new();
    bench.options.max_database_bytes = 256 * 1024;
    let (mut db, _) = bench.open();
    let big = |n: u32| NewJob { request: "x".repeat(20_000), ..job(&format!("job-{n}")) };
    let full = (0..100).find_map(|n| db.insert(&big(n)).err().map(|e| (n, e)));
    let (count, error) = full.unwrap();
    assert!(error == StoreError::Full && count > 3, "{count} {error}");
    assert_eq!(state(&db, "job-0"), Some(JobState::Queued), "what was there is still there");
    assert_eq!(db.get(&format!("job-{count}")).unwrap(), Lookup::Unknown);
}

#[test]
fn ten_thousand_jobs_are_listed_page_by_page() {
    let bench = Bench::new();
    let (mut db, _) = bench.open();
    for n in 0..10_000 {
        db.insert(&NewJob { owner: if n % 2 == 0 { "even" } else { "odd" }.into(), ..job(&format!("j-{n}")) })
            .unwrap()
            .unwrap();
    }
    let all = |filter: ListFilter| {
        let (mut seen, mut before) = (Vec::new(), None);
        loop {
            let page = db.list(&ListFilter { before, ..filter.clone() }).unwrap();
            seen.extend(page.jobs.into_iter().map(|j| j.id));
            before = page.next;
            if before.is_none() {
                return seen;
            }
        }
    };
    let expected: Vec<String> = (0..10_000).rev().map(|n| format!("j-{n}")).collect();
    assert_eq!(all(ListFilter { limit: 999, ..ListFilter::default() }), expected);
    let odd = all(ListFilter { owner: Some("odd".into()), limit: 1000, ..ListFilter::default() });
    assert!(odd.len() == 5000 && odd[0] == "j-9999" && odd[4999] == "j-1");
    assert!(all(ListFilter { state: Some(JobState::Running), limit: 10, ..ListFilter::default() }).is_empty());
    drop(db);
    let (_, recovery) = bench.open();
    assert_eq!((recovery.queued.len(), &*recovery.queued[0].id), (10_000, "j-0"));
}

#[tokio::test]
async fn many_tasks_share_the_thread() {
    let bench = Bench::new();
    let options = StoreOptions { queue: 2, ..bench.options.clone() };
    let (store, handle, _) = Store::open(bench.folder.path(), options).unwrap();
    let tasks: Vec<_> = (0..50)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move {
                let id = format!("t-{n}");
                store.insert(job(&id)).await.unwrap().unwrap();
                let (lane, job) = (store.clone(), id.clone());
                let ends = move || {
                    lane.start(&job).unwrap();
                    lane.finish(&job, JobState::Complete, "{}".into(), vec![png(b"p")]).unwrap();
                };
                tokio::task::spawn_blocking(ends).await.unwrap();
                store.image(&id, 0).await.unwrap().unwrap().1
            })
        })
        .collect();
    for task in tasks {
        assert_eq!(&*task.await.unwrap(), b"p");
    }
    store.check().await.unwrap();
    let page = store.list(ListFilter { limit: 100, ..ListFilter::default() }).await.unwrap();
    assert_eq!(page.jobs.len(), 50);
    bench.pass(1000);
    assert_eq!(store.expire().await.unwrap(), 50);
    store.insert(job("last")).await.unwrap().unwrap();
    store.finish_soon("last", JobState::Cancelled, "{}".into(), Arc::default());
    let closed = tokio::task::spawn_blocking(|| handle.close(Duration::from_secs(20))).await.unwrap();
    assert!(closed, "the thread ends though a handle to it is still there");
    assert_eq!(store.check().await, Err(StoreError::Closed));
    let (db, recovery) = bench.open();
    assert!(recovery.queued.is_empty(), "what was sent before the end was done");
    assert_eq!(state(&db, "last"), Some(JobState::Cancelled));
}

#[test]
fn jobs_that_ended_are_counted_and_the_oldest_go_first() {
    let mut bench = Bench::new();
    (bench.options.max_finished, bench.options.max_expired) = (2, 3);
    let (mut db, _) = bench.open();
    for n in 0..6 {
        let id = format!("job-{n}");
        db.insert(&job(&id)).unwrap().unwrap();
        db.finish(&id, JobState::Cancelled, "{}", &[]).unwrap();
        bench.pass(1);
    }
    let found = |db: &Db| -> Vec<Lookup> { (0..6).map(|n| db.get(&format!("job-{n}")).unwrap()).collect() };
    assert!(found(&db)[..4].iter().all(|l| *l == Lookup::Expired) && state(&db, "job-4").is_some());
    db.expire().unwrap();
    assert_eq!(found(&db)[0], Lookup::Unknown, "of the expired ones the newest are remembered");
    assert!(found(&db)[1..4].iter().all(|l| *l == Lookup::Expired));
    db.forget("job-5").unwrap();
    assert_eq!(db.get("job-5").unwrap(), Lookup::Expired);
    db.insert(&job("waits")).unwrap().unwrap();
    assert_eq!(db.forget("waits"), Err(StoreError::Conflict { state: "queued" }));
    db.withdraw("waits").unwrap();
    assert_eq!(db.get("waits").unwrap(), Lookup::Unknown);
    db.check().unwrap();
    assert!(bench.pictures().is_empty(), "a probe leaves nothing");
}

#[test]
fn a_webhook_is_due_from_the_end_until_it_is_told() {
    let bench = Bench::new();
    let (mut db, _) = bench.open();
    for id in ["told", "untold", "waits"] {
        db.insert(&NewJob { webhook: Some("http://h/".into()), ..job(id) }).unwrap().unwrap();
    }
    db.insert(&job("without")).unwrap().unwrap();
    for id in ["told", "untold", "without"] {
        db.finish(id, JobState::Complete, "{}", &[]).unwrap();
    }
    db.notified("told").unwrap();
    drop(db);
    let (mut db, recovery) = bench.open();
    assert_eq!(ids(&recovery.untold), ["untold"]);
    assert_eq!(recovery.untold[0].webhook.as_deref(), Some("http://h/"));
    db.forget("untold").unwrap();
    drop(db);
    assert!(bench.open().1.untold.is_empty(), "with the job goes its webhook");
}

#[test]
fn a_clock_that_jumps_ends_nothing_that_waits() {
    let bench = Bench::new();
    let (mut db, _) = bench.open();
    for id in ["done", "waits"] {
        db.insert(&job(id)).unwrap().unwrap();
    }
    bench.pass(-3600);
    db.start("done").unwrap();
    db.finish("done", JobState::Complete, "{}", &[png(b"x")]).unwrap();
    assert_eq!((db.expire().unwrap(), state(&db, "done")), (0, Some(JobState::Complete)));
    bench.pass(3600);
    assert_eq!(db.expire().unwrap(), 1, "its time passed while the clock was wrong");
    bench.pass(-7200);
    assert_eq!(db.get("done").unwrap(), Lookup::Expired, "and it does not come back");
    assert_eq!(state(&db, "waits"), Some(JobState::Queued));
}

#[test]
fn restores_and_attempts_are_counted() {
    let bench = Bench::new();
    for round in 1..=3 {
        let (mut db, recovery) = bench.open();
        if round == 1 {
            db.insert(&job("a")).unwrap().unwrap();
            db.start("a").unwrap();
            db.requeue("a", true).unwrap();
        } else {
            assert_eq!((recovery.queued[0].restores, recovery.queued[0].attempts), (round - 1, 0));
        }
    }
    let (mut db, _) = bench.open();
    db.start("a").unwrap();
    db.requeue("a", false).unwrap();
    assert_eq!(db.get("a").unwrap().found().unwrap().attempts, 1);
}
