//! The models on one device: who uses which, and which may go.
//!
//! Any number of lanes hold a model at a time; one that nobody holds may be taken down. One lane at a time loads. A
//! lane that waits for room keeps others from coming in, so that a stream of jobs for one model cannot shut another out;
//! it holds nothing itself meanwhile, so that two of them cannot wait for each other.

use super::{
    device::{Desc, ModelId, Task},
    tokens::AddedTokens,
    until::Until,
};
use crate::fault::Fault;
use backend_api::{MemReport, ModelSource};
use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// How often a waiting lane looks at its stop flag.
const LOOK: Duration = Duration::from_millis(100);

/// A model on the device.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) id: ModelId,
    /// The catalogue name.
    pub(super) key: String,
    pub(super) task: Task,
    pub(super) desc: Desc,
    /// What it holds.
    pub(super) memory: MemReport,
    /// Bytes that a call needs beside the weights, as the backend estimates.
    pub(super) working: u64,
    /// Tokens that were added to it.
    pub(super) tokens: Arc<AddedTokens>,
    /// Where it came from, to bring it back.
    pub(super) source: Arc<Source>,
}

/// What a model is loaded from.
#[derive(Debug)]
pub(super) struct Source {
    /// For the backend.
    pub(super) files: ModelSource,
    /// Names the weights.
    pub(super) fingerprint: String,
}

#[derive(Debug)]
struct Place {
    entry: Entry,
    users: usize,
    last_used: Instant,
}

#[derive(Debug, Default)]
struct State {
    places: Vec<Place>,
    /// Models that nobody new gets, each with the lanes that still hold it.
    retired: Vec<(ModelId, usize)>,
    loading: bool,
    /// Lanes that wait for room.
    hungry: usize,
}

/// The models of one device.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    state: Mutex<State>,
    changed: Condvar,
}

/// The right to load. Others wait for its end.
#[derive(Debug)]
pub(super) struct Turn<'s>(&'s Shelf);

/// A lane that waits for room, and keeps others out until it got in.
#[derive(Debug)]
pub(super) struct Hungry<'s>(&'s Shelf);

impl Shelf {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'s>(&self, state: MutexGuard<'s, State>, most: Duration) -> MutexGuard<'s, State> {
        self.changed.wait_timeout(state, most).unwrap_or_else(PoisonError::into_inner).0
    }

    /// Whether a model is here.
    pub(super) fn has(&self, key: &str, task: Task) -> bool {
        self.lock().places.iter().any(|p| p.entry.key == key && p.entry.task == task)
    }

    /// Takes a model in use, if it is here. Waits while others wait for room, unless the caller is one of those.
    pub(super) fn hold(&self, key: &str, task: Task, hungry: bool, until: &Until) -> Option<Entry> {
        let mut state = self.lock();
        while !hungry && state.hungry > 0 && until.check().is_ok() {
            state = self.wait(state, LOOK);
        }
        let place = state.places.iter_mut().find(|p| p.entry.key == key && p.entry.task == task)?;
        place.users += 1;
        place.last_used = Instant::now();
        Some(place.entry.clone())
    }

    /// Lets a model go. `true` when it was retired and this was the last one to hold it.
    pub(super) fn release(&self, id: ModelId) -> bool {
        let mut state = self.lock();
        let mut last = false;
        if let Some(place) = state.places.iter_mut().find(|p| p.entry.id == id) {
            place.users = place.users.saturating_sub(1);
            place.last_used = Instant::now();
        } else if let Some(at) = state.retired.iter().position(|(other, _)| *other == id) {
            state.retired[at].1 -= 1;
            last = state.retired[at].1 == 0;
            if last {
                state.retired.remove(at);
            }
        }
        drop(state);
        self.changed.notify_all();
        last
    }

    /// Waits for the right to load.
    pub(super) fn turn(&self, until: &Until) -> Result<Turn<'_>, Fault> {
        let mut state = self.lock();
        while state.loading {
            until.check()?;
            state = self.wait(state, LOOK);
        }
        state.loading = true;
        Ok(Turn(self))
    }

    /// Announces that the caller waits for room.
    pub(super) fn hunger(&self) -> Hungry<'_> {
        self.lock().hungry += 1;
        Hungry(self)
    }

    /// Waits a moment for somebody to let a model go.
    pub(super) fn pause(&self) {
        drop(self.wait(self.lock(), LOOK));
    }

    /// Puts a loaded model up.
    pub(super) fn put(&self, entry: Entry) {
        self.lock().places.push(Place { entry, users: 0, last_used: Instant::now() });
        self.changed.notify_all();
    }

    /// Takes down the model that nobody has held for longest.
    pub(super) fn take_oldest(&self) -> Option<Entry> {
        let mut state = self.lock();
        let unused = state.places.iter().enumerate().filter(|(_, p)| p.users == 0);
        let at = unused.min_by_key(|(_, p)| p.last_used)?.0;
        Some(state.places.remove(at).entry)
    }

    /// Takes down every model that nobody has held for so long.
    pub(super) fn take_idle(&self, limit: Duration) -> Vec<Entry> {
        let old = |p: &mut Place| p.users == 0 && p.last_used.elapsed() > limit;
        self.lock().places.extract_if(.., old).map(|p| p.entry).collect()
    }

    /// Takes down a model by name. The error says that somebody holds it.
    pub(super) fn take(&self, key: &str) -> Result<Vec<Entry>, ()> {
        let mut state = self.lock();
        if state.places.iter().any(|p| p.entry.key == key && p.users > 0) {
            return Err(());
        }
        Ok(state.places.extract_if(.., |p| p.entry.key == key).map(|p| p.entry).collect())
    }

    /// Lets nobody new have these models. Answers all of them, with whether nobody holds them any more.
    pub(super) fn retire(&self, which: impl Fn(&Entry) -> bool) -> Vec<(Entry, bool)> {
        let mut state = self.lock();
        let gone: Vec<Place> = state.places.extract_if(.., |p| which(&p.entry)).collect();
        state.retired.extend(gone.iter().filter(|p| p.users > 0).map(|p| (p.entry.id, p.users)));
        gone.into_iter().map(|p| (p.entry, p.users == 0)).collect()
    }

    /// Whether everything here is held by one caller alone, who holds each of `mine` once.
    pub(super) fn is_all_mine(&self, mine: &[ModelId]) -> bool {
        let state = self.lock();
        state.retired.is_empty() && state.places.iter().all(|p| p.users == 1 && mine.contains(&p.entry.id))
    }

    /// The models, the one used last first.
    pub(super) fn entries(&self) -> Vec<Entry> {
        let state = self.lock();
        let mut all: Vec<&Place> = state.places.iter().collect();
        all.sort_by_key(|p| std::cmp::Reverse(p.last_used));
        all.into_iter().map(|p| p.entry.clone()).collect()
    }

    /// How many times models are held.
    pub(super) fn users(&self) -> usize {
        self.lock().places.iter().map(|p| p.users).sum()
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.lock().loading = false;
        self.0.changed.notify_all();
    }
}

impl Drop for Hungry<'_> {
    fn drop(&mut self) {
        self.0.lock().hungry -= 1;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::fault::FaultCode;
    use backend_api::{UpscalerDesc, abi_stable::std_types::RVec};

    pub(in crate::engine) fn entry(key: &str) -> Entry {
        let desc = UpscalerDesc { factor: 2, tile: 64, overlap: 0, params: RVec::new() };
        let files = ModelSource { name: key.into(), files: RVec::new(), configs: RVec::new(), options: RVec::new() };
        Entry {
            id: ModelId::fresh(),
            key: key.to_owned(),
            task: Task::Upscaling,
            desc: Desc::Upscaling(Arc::new(desc)),
            memory: MemReport::default(),
            working: 0,
            tokens: Arc::default(),
            source: Arc::new(Source { files, fingerprint: String::new() }),
        }
    }

    fn shelf(keys: &[&str]) -> Shelf {
        let shelf = Shelf::default();
        keys.iter().for_each(|k| shelf.put(entry(k)));
        shelf
    }

    fn hold(shelf: &Shelf, key: &str) -> Option<Entry> {
        shelf.hold(key, Task::Upscaling, false, &Until::default())
    }

    #[test]
    fn the_oldest_unused_model_goes_first() {
        let shelf = shelf(&["a", "b", "c"]);
        let a = hold(&shelf, "a").unwrap();
        let b = hold(&shelf, "b").unwrap();
        shelf.release(b.id);
        assert_eq!(shelf.take_oldest().unwrap().key, "c");
        assert_eq!(shelf.take_oldest().unwrap().key, "b");
        assert!(shelf.take_oldest().is_none(), "a is held");
        assert!(shelf.is_all_mine(&[a.id]) && !shelf.is_all_mine(&[]));
        assert!(shelf.take("a").is_err());
        shelf.release(a.id);
        assert_eq!(shelf.take("a").unwrap().len(), 1);
        assert!(shelf.take("a").unwrap().is_empty());
    }

    #[test]
    fn a_retired_model_goes_with_its_last_holder() {
        let shelf = shelf(&["a", "b"]);
        let first = hold(&shelf, "a").unwrap();
        hold(&shelf, "a").unwrap();
        let gone = shelf.retire(|_| true);
        assert_eq!(
            gone.iter().map(|(e, free)| (e.key.as_str(), *free)).collect::<Vec<_>>(),
            [("a", false), ("b", true)]
        );
        assert!(hold(&shelf, "a").is_none());
        assert!(!shelf.is_all_mine(&[]));
        assert!(!shelf.release(first.id));
        assert!(shelf.release(first.id));
        assert!(shelf.is_all_mine(&[]));
    }

    #[test]
    fn who_waits_for_room_keeps_others_out() {
        let shelf = Arc::new(shelf(&["a"]));
        let hungry = shelf.hunger();
        assert!(shelf.hold("a", Task::Upscaling, true, &Until::default()).is_some());
        let other = shelf.clone();
        let waiting = std::thread::spawn(move || hold(&other, "a").is_some());
        std::thread::sleep(Duration::from_millis(50));
        assert!(!waiting.is_finished());
        drop(hungry);
        assert!(waiting.join().unwrap());
        // One who is told to stop does not wait either, nor does one whose time is over.
        let _hungry = shelf.hunger();
        assert!(shelf.hold("b", Task::Upscaling, false, &Until::stopped(true)).is_none());
        assert!(shelf.hold("b", Task::Upscaling, false, &Until::late()).is_none());
    }

    #[test]
    fn one_at_a_time_loads() {
        let shelf = Shelf::default();
        let turn = shelf.turn(&Until::default()).unwrap();
        assert_eq!(shelf.turn(&Until::stopped(true)).unwrap_err().code, FaultCode::Cancelled);
        assert_eq!(shelf.turn(&Until::late()).unwrap_err().code, FaultCode::Timeout);
        drop(turn);
        assert!(shelf.turn(&Until::default()).is_ok());
    }

    #[test]
    fn idle_models_go() {
        let shelf = shelf(&["a", "b"]);
        hold(&shelf, "b").unwrap();
        assert!(shelf.take_idle(Duration::from_secs(60)).is_empty());
        std::thread::sleep(Duration::from_millis(2));
        let gone = shelf.take_idle(Duration::from_millis(1));
        assert_eq!(gone.iter().map(|e| e.key.as_str()).collect::<Vec<_>>(), ["a"]);
        assert_eq!((shelf.entries().len(), shelf.users()), (1, 1));
    }
}
