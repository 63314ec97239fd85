//! The events of one job: a bounded ring that any number of readers follow with a cursor each.
//!
//! A slow reader costs a number, not memory. Events carry consecutive ids from 1, so that a reader which comes back
//! with the last id it saw neither misses nor repeats one.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::watch;

/// Most events kept. A job of 150 steps and 8 pictures in single file stays below.
const MAX_EVENTS: usize = 2048;
/// Most previews kept: readers want the newest, and each is tens of kilobytes.
const MAX_PREVIEWS: usize = 4;

/// One event, already in its wire form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Consecutive number within the job, from 1.
    pub id: u64,
    /// The value of the JSON's `event` field.
    pub name: &'static str,
    /// One line of JSON.
    pub json: Arc<str>,
    /// Whether this is the last one.
    pub terminal: bool,
}

#[derive(Debug, Default)]
struct Ring {
    events: VecDeque<Event>,
    last_id: u64,
    closed: bool,
}

/// The ring. Publishing never blocks on readers.
#[derive(Debug)]
pub struct EventRing {
    ring: Mutex<Ring>,
    newest: watch::Sender<u64>,
}

impl Default for EventRing {
    fn default() -> Self {
        EventRing { ring: Mutex::default(), newest: watch::Sender::new(0) }
    }
}

impl EventRing {
    /// A ring whose first event has the number after `last`: one that goes on where a former program ended.
    pub fn after_id(last: u64) -> Self {
        EventRing { ring: Mutex::new(Ring { last_id: last, ..Ring::default() }), newest: watch::Sender::new(last) }
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends an event. After a terminal one nothing is taken any more, and the answer is `false`.
    pub fn publish(&self, name: &'static str, json: String, terminal: bool) -> bool {
        let id = {
            let mut ring = self.lock();
            if ring.closed {
                return false;
            }
            ring.closed = terminal;
            ring.last_id += 1;
            let id = ring.last_id;
            ring.events.push_back(Event { id, name, json: json.into(), terminal });
            ring.shrink();
            id
        };
        // Nobody listening is no fault.
        self.newest.send_replace(id);
        true
    }

    /// Events after `cursor`, oldest first, at most `limit`.
    pub fn after(&self, cursor: u64, limit: usize) -> Vec<Event> {
        self.lock().events.iter().filter(|e| e.id > cursor).take(limit).cloned().collect()
    }

    /// A watch on the newest id, to wait for more.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    /// The number of the newest event.
    pub fn last_id(&self) -> u64 {
        self.lock().last_id
    }

    /// The last event if the job has ended.
    pub fn terminal(&self) -> Option<Event> {
        self.lock().events.back().filter(|e| e.terminal).cloned()
    }
}

impl Ring {
    /// Drops the oldest previews first, then the oldest events.
    fn shrink(&mut self) {
        let previews = self.events.iter().filter(|e| e.name == "preview").count();
        if previews > MAX_PREVIEWS
            && let Some(oldest) = self.events.iter().position(|e| e.name == "preview")
        {
            self.events.remove(oldest);
        }
        while self.events.len() > MAX_EVENTS {
            self.events.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_consecutive_and_nothing_follows_the_end() {
        let ring = EventRing::default();
        assert!(ring.publish("queued", "{}".into(), false));
        assert!(ring.publish("complete", "{}".into(), true));
        assert!(!ring.publish("progress", "{}".into(), false));
        assert!(!ring.publish("error", "{}".into(), true));
        let ids: Vec<u64> = ring.after(0, 100).iter().map(|e| e.id).collect();
        assert_eq!(ids, [1, 2]);
        assert_eq!(ring.after(1, 100).len(), 1);
        assert!(ring.terminal().is_some());
    }

    #[test]
    fn the_ring_is_bounded_and_keeps_the_newest() {
        let ring = EventRing::default();
        for _ in 0..5000 {
            ring.publish("progress", "{}".into(), false);
        }
        let kept = ring.after(0, usize::MAX);
        assert_eq!(kept.len(), MAX_EVENTS);
        assert_eq!(kept.last().map(|e| e.id), Some(5000));
    }

    #[test]
    fn old_previews_go_first() {
        let ring = EventRing::default();
        for _ in 0..20 {
            ring.publish("preview", "{}".into(), false);
            ring.publish("progress", "{}".into(), false);
        }
        let kept = ring.after(0, usize::MAX);
        assert_eq!(kept.iter().filter(|e| e.name == "preview").count(), MAX_PREVIEWS);
        assert_eq!(kept.iter().filter(|e| e.name == "progress").count(), 20);
    }
}
