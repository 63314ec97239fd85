//! Who is next: priorities, turns between owners, and models that are not swapped back and forth.

use super::AtHand;
use std::{
    collections::{HashMap, HashSet, VecDeque},
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
    /// Tells what it leaves in memory once it has begun.
    fn leave(&self, at_hand: &mut AtHand);
}

/// What has to be remembered between two choices.
#[derive(Debug, Default, Clone)]
pub(super) struct Order {
    /// How many were taken of each owner. Owners who do not wait are forgotten.
    served: HashMap<String, u64>,
    skips: u32,
}

/// Those between whom no choice is to be made: of one priority, owner and model, the oldest first.
struct Group<'w> {
    priority: i8,
    owner: &'w str,
    model: &'w str,
    /// Indices of those who wait.
    members: VecDeque<usize>,
}

/// The group whose oldest member is next.
#[derive(Debug, Clone, Copy)]
struct Next {
    group: usize,
    /// It goes ahead of another one because its model is loaded.
    ahead: bool,
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
        let mut groups = groups(waiting);
        let mut next = self.next(waiting, &groups, loaded, Instant::now())?;
        loop {
            let chosen = *groups[next.group].members.front()?;
            if !leaves(&waiting[chosen]) {
                self.took(&waiting[chosen], next.ahead);
                return Some(chosen);
            }
            groups[next.group].members.pop_front();
            // Whoever comes after one that is left to another device passes nobody over.
            next = Next { group: self.first(&groups)?, ahead: false };
        }
    }

    /// The indices of all who wait, in the order in which they will be chosen if nobody comes or goes. `at_hand`: the
    /// models in memory, and the time from one start to the next.
    pub(super) fn foresee<W: Waits>(&self, waiting: &[W], mut at_hand: AtHand) -> Vec<usize> {
        let mut order = self.clone();
        order.level(waiting);
        let mut groups = groups(waiting);
        let mut now = Instant::now();
        let mut foreseen = Vec::with_capacity(waiting.len());
        while let Some(next) = order.next(waiting, &groups, &|model| at_hand.has(model), now)
            && let Some(chosen) = groups[next.group].members.pop_front()
        {
            order.took(&waiting[chosen], next.ahead);
            waiting[chosen].leave(&mut at_hand);
            foreseen.push(chosen);
            now += at_hand.pace;
        }
        foreseen
    }

    /// The next by the turns, or one ahead of it whose model is loaded.
    fn next<W: Waits>(
        &self,
        waiting: &[W],
        groups: &[Group<'_>],
        loaded: &dyn Fn(&str) -> bool,
        now: Instant,
    ) -> Option<Next> {
        let first = self.first(groups)?;
        let oldest = &waiting[*groups[first].members.front()?];
        if self.skips >= MAX_SKIPS || now.saturating_duration_since(oldest.since()) >= MAX_SKIP_AGE {
            return Some(Next { group: first, ahead: false });
        }
        let ready = self.least(groups, |g| g.priority == groups[first].priority && loaded(g.model));
        let group = ready.unwrap_or(first);
        Some(Next { group, ahead: group != first })
    }

    /// The group whose turn it is.
    fn first(&self, groups: &[Group<'_>]) -> Option<usize> {
        let top = groups.iter().filter(|g| !g.members.is_empty()).map(|g| g.priority).max()?;
        self.least(groups, |g| g.priority == top)
    }

    /// Of some groups the one whose owner was served least, and of these the one with the oldest member.
    fn least(&self, groups: &[Group<'_>], of: impl Fn(&Group<'_>) -> bool) -> Option<usize> {
        let turn = |g: &Group<'_>| Some((self.served.get(g.owner).copied().unwrap_or(0), *g.members.front()?));
        let ready = groups.iter().enumerate().filter(|(_, g)| of(g));
        ready.filter_map(|(at, g)| Some((turn(g)?, at))).min().map(|(_, at)| at)
    }

    fn took<W: Waits>(&mut self, chosen: &W, ahead: bool) {
        self.skips = if ahead { self.skips + 1 } else { 0 };
        *self.served.entry(chosen.owner().to_owned()).or_default() += 1;
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

fn groups<W: Waits>(waiting: &[W]) -> Vec<Group<'_>> {
    let mut known = HashMap::new();
    let mut groups = Vec::<Group<'_>>::new();
    for (index, w) in waiting.iter().enumerate() {
        let (priority, owner, model) = (w.priority(), w.owner(), w.model());
        let at = *known.entry((priority, owner, model)).or_insert_with(|| {
            groups.push(Group { priority, owner, model, members: VecDeque::new() });
            groups.len() - 1
        });
        groups[at].members.push_back(index);
    }
    groups
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
        fn leave(&self, at_hand: &mut AtHand) {
            at_hand.used([self.1]);
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

    /// A device that holds so many models takes them one after the other.
    fn started(order: &mut Order, waiting: &mut Vec<Guest>, mut held: AtHand) -> Vec<Guest> {
        let mut out = Vec::new();
        while let Some(next) = order.choose(waiting, &|model| held.has(model), &mut |_| false) {
            let guest = waiting.remove(next);
            guest.leave(&mut held);
            out.push(guest);
        }
        out
    }

    #[test]
    fn what_is_foreseen_is_what_happens() {
        let mut state = 7_u64;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        let (owners, models) = (["a", "b", "c", "d"], ["m", "n", "o"]);
        let Some(long_ago) = Instant::now().checked_sub(MAX_SKIP_AGE) else { unreachable!("the machine runs longer") };
        let mut passed_over = 0;
        for _ in 0..500 {
            let mut guest = || {
                let (owner, model) = (owners[random(4) as usize], models[random(3) as usize]);
                let priority = [0, 0, 0, 5, -1][random(5) as usize];
                Guest(owner, model, priority, if random(20) == 0 { long_ago } else { Instant::now() })
            };
            let mut waiting: Vec<Guest> = (0..40).map(|_| guest()).collect();
            let mut order = Order::default();
            // Some have been served before, and others have come since.
            take(&mut order, &mut waiting, Some("m"), 11);
            waiting.extend((0..9).map(|_| guest()));
            let room = 1 + random(3) as usize;
            let held = AtHand::new(models.iter().take(room).map(|m| (*m).to_owned()).collect(), room, Duration::ZERO);
            let foreseen = order.foresee(&waiting, held.clone());
            let foreseen: Vec<Guest> = foreseen.into_iter().map(|i| waiting[i].clone()).collect();
            let happened = started(&mut order, &mut waiting, held);
            let told = |all: &[Guest]| all.iter().map(|g| (g.0, g.1, g.2, g.3)).collect::<Vec<_>>();
            assert_eq!(told(&foreseen), told(&happened));
            passed_over += happened.windows(2).filter(|two| two[0].2 == two[1].2 && two[0].3 > two[1].3).count();
        }
        assert!(passed_over > 250, "turns and models did change the order: {passed_over}");
    }

    #[test]
    fn who_will_have_waited_long_is_foreseen_to_go() {
        let mut all = vec![("a", "other", 0)];
        all.extend([("a", "here", 0); 30]);
        let at_hand = |pace| AtHand::new(vec!["here".to_owned()], 1, pace);
        let place = |pace| Order::default().foresee(&guests(&all), at_hand(pace)).iter().position(|i| *i == 0);
        assert_eq!(place(Duration::ZERO), Some(MAX_SKIPS as usize));
        assert_eq!(place(Duration::from_secs(10)), Some(3));
    }
}
