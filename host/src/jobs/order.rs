//! Who is next: priorities, turns between owners, and models that are not swapped back and forth.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

/// How often in a row somebody may be taken ahead of an older one because a model is loaded.
const MAX_SKIPS: u32 = 8;
/// Who has waited this long is not passed over any more.
const MAX_SKIP_AGE: Duration = Duration::from_secs(30);

/// Somebody who waits.
pub(super) trait Waits {
    /// Whose turn it takes.
    fn owner(&self) -> &str;
    /// The model it needs.
    fn model(&self) -> &str;
    /// Higher goes first.
    fn priority(&self) -> i8;
    /// Since when it waits.
    fn since(&self) -> Instant;
}

/// What has to be remembered between two choices.
#[derive(Debug, Default)]
pub(super) struct Order {
    /// How many were taken of each owner. Owners who do not wait are forgotten.
    served: HashMap<String, u64>,
    skips: u32,
}

impl Order {
    /// The index of the next among `waiting`, which are in the order they came. `loaded` says of a model whether it is at
    /// hand; `leaves`, asked in the order of the turns, whether somebody is left to another device.
    pub(super) fn choose<W: Waits>(
        &mut self,
        waiting: &[W],
        loaded: &dyn Fn(&str) -> bool,
        leaves: &mut dyn FnMut(&W) -> bool,
    ) -> Option<usize> {
        self.level(waiting);
        let turn = |w: &W| self.served.get(w.owner()).copied().unwrap_or(0);
        let mut turns: Vec<usize> = (0..waiting.len()).collect();
        turns.sort_by_key(|i| (Reverse(waiting[*i].priority()), turn(&waiting[*i]), *i));
        let (at, first) = turns.first().map(|i| (*i, &waiting[*i]))?;
        let may_skip = self.skips < MAX_SKIPS && first.since().elapsed() < MAX_SKIP_AGE;
        let at_hand = |i: &usize| waiting[*i].priority() == first.priority() && loaded(waiting[*i].model());
        let ahead = turns.iter().copied().find(at_hand).filter(|i| may_skip && *i != at);
        let mut candidates = ahead.into_iter().chain(turns.into_iter().filter(|i| Some(*i) != ahead));
        let chosen = candidates.find(|i| !leaves(&waiting[*i]))?;
        self.skips = if Some(chosen) == ahead { self.skips + 1 } else { 0 };
        *self.served.entry(waiting[chosen].owner().to_owned()).or_default() += 1;
        Some(chosen)
    }

    /// Forgets the owners who do not wait. A newcomer begins level with the one served least, so that nobody has turns to
    /// make up for.
    fn level<W: Waits>(&mut self, waiting: &[W]) {
        let owners: HashSet<&str> = waiting.iter().map(W::owner).collect();
        self.served.retain(|owner, _| owners.contains(owner.as_str()));
        let least = self.served.values().copied().min().unwrap_or(0);
        for owner in owners {
            if !self.served.contains_key(owner) {
                self.served.insert(owner.to_owned(), least);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone)]
    struct Guest(&'static str, &'static str, i8, Instant);

    impl Waits for Guest {
        fn owner(&self) -> &str {
            self.0
        }
        fn model(&self) -> &str {
            self.1
        }
        fn priority(&self) -> i8 {
            self.2
        }
        fn since(&self) -> Instant {
            self.3
        }
    }

    fn guests(all: &[(&'static str, &'static str, i8)]) -> Vec<Guest> {
        all.iter().map(|(owner, model, priority)| Guest(owner, model, *priority, Instant::now())).collect()
    }

    fn take(order: &mut Order, waiting: &mut Vec<Guest>, loaded: Option<&str>, count: usize) -> Vec<Guest> {
        let here = |model: &str| loaded == Some(model);
        (0..count).filter_map(|_| order.choose(waiting, &here, &mut |_| false).map(|i| waiting.remove(i))).collect()
    }

    #[test]
    fn higher_priorities_go_first_and_each_in_order() {
        let mut waiting =
            guests(&[("a", "m", 0), ("a", "n", 0), ("a", "m", 9), ("b", "m", -3), ("a", "m", 2), ("a", "o", 9)]);
        let taken = take(&mut Order::default(), &mut waiting, None, 9);
        let said: Vec<String> = taken.iter().map(|g| format!("{}{}", g.1, g.2)).collect();
        assert_eq!(said, ["m9", "o9", "m2", "m0", "n0", "m-3"]);
    }

    #[test]
    fn owners_take_turns_however_much_one_sends() {
        let mut all = vec![("flood", "m", 0); 50];
        all.extend([("small", "m", 0); 3]);
        let (mut order, mut waiting) = (Order::default(), guests(&all));
        let count = |taken: &[Guest], owner| taken.iter().filter(|g| g.0 == owner).count();
        assert_eq!(count(&take(&mut order, &mut waiting, None, 6), "small"), 3);
        take(&mut order, &mut waiting, None, 20);
        // Somebody who comes late gets every other turn, and not all of them until the counts are level.
        waiting.extend(guests(&[("late", "m", 0); 20]));
        assert_eq!(count(&take(&mut order, &mut waiting, None, 10), "late"), 5);
        // One who sends a job at a time is served beside one who sends many.
        let (mut order, mut waiting) = (Order::default(), guests(&[("flood", "m", 0); 50]));
        for _ in 0..10 {
            waiting.extend(guests(&[("steady", "m", 0)]));
            assert_eq!(count(&take(&mut order, &mut waiting, None, 2), "steady"), 1);
        }
    }

    #[test]
    fn one_model_is_kept_for_a_while_and_nobody_starves() {
        let mut all = vec![("a", "other", 0)];
        all.extend([("a", "here", 0); 30]);
        let taken = take(&mut Order::default(), &mut guests(&all), Some("here"), 31);
        assert_eq!(taken.iter().position(|g| g.1 == "other"), Some(MAX_SKIPS as usize));
        // A higher priority is never passed over for the model's sake, nor is one that has waited long.
        let mut waiting = guests(&[("a", "here", 0), ("a", "other", 1)]);
        assert_eq!(take(&mut Order::default(), &mut waiting, Some("here"), 1)[0].1, "other");
        let Some(long_ago) = Instant::now().checked_sub(MAX_SKIP_AGE) else { unreachable!("the machine runs longer") };
        let mut waiting = vec![Guest("a", "other", 0, long_ago), guests(&[("a", "here", 0)])[0].clone()];
        assert_eq!(take(&mut Order::default(), &mut waiting, Some("here"), 1)[0].1, "other");
    }
}
