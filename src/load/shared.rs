//! Work that several links share: each takes its own first, then that of the lane that has most left.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};

/// What is left of each lane of a plan.
pub struct Shared<J>(Mutex<Vec<VecDeque<J>>>);

impl<J> Shared<J> {
    /// By lane, each in the order in which it is to be taken.
    pub fn new(lanes: Vec<Vec<J>>) -> Shared<J> {
        Shared(Mutex::new(lanes.into_iter().map(VecDeque::from).collect()))
    }

    /// The next piece of work for a link: of its own lanes, else of those that it helps.
    pub fn take(&self, own: &[usize], helps: &[usize]) -> Option<J> {
        let mut lanes = self.lock();
        let fullest =
            |of: &[usize]| of.iter().copied().max_by_key(|lane| lanes.get(*lane).map_or(0, VecDeque::len));
        let some_left = |lane: &usize| lanes.get(*lane).is_some_and(|left| !left.is_empty());
        let from = [own, helps].into_iter().filter_map(fullest).find(some_left)?;
        lanes.get_mut(from)?.pop_front()
    }

    /// How many there are for it.
    pub fn left(&self, own: &[usize], helps: &[usize]) -> usize {
        let lanes = self.lock();
        own.iter().chain(helps).filter_map(|lane| lanes.get(*lane)).map(VecDeque::len).sum()
    }

    /// Gives out no more. What is left goes.
    pub fn clear(&self) {
        let rest = std::mem::take(&mut *self.lock());
        drop(rest);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<VecDeque<J>>> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One link of a made-up machine.
    struct Link {
        /// Seconds that a copy takes over it.
        copy_s: f64,
        own: Vec<usize>,
        helps: Vec<usize>,
        /// When it takes its next copy.
        free_at_s: f64,
        taken: usize,
    }

    fn link(gb_per_s: f64, own: &[usize], helps: &[usize]) -> Link {
        let copy_s = 0.016 / gb_per_s;
        Link { copy_s, own: own.to_vec(), helps: helps.to_vec(), free_at_s: 0.0, taken: 0 }
    }

    /// Runs all copies; the link that has room first takes the next. Says when the last has arrived.
    fn run(lanes: &[usize], links: &mut [Link]) -> f64 {
        let shared = Shared::new(lanes.iter().map(|copies| vec![(); *copies]).collect());
        loop {
            let has_work = |link: &&mut Link| shared.left(&link.own, &link.helps) > 0;
            let by_time = |a: &&mut Link, b: &&mut Link| a.free_at_s.total_cmp(&b.free_at_s);
            let Some(next) = links.iter_mut().filter(has_work).min_by(by_time) else { break };
            shared.take(&next.own, &next.helps).unwrap();
            next.free_at_s += next.copy_s;
            next.taken += 1;
        }
        assert!(lanes.iter().enumerate().all(|(lane, _)| shared.left(&[lane], &[]) == 0));
        links.iter().map(|link| link.free_at_s).fold(0.0, f64::max)
    }

    /// No link is idle while there is work: all end within one copy of the slowest.
    fn assert_balanced(lanes: &[usize], mut links: Vec<Link>) {
        let end_s = run(lanes, &mut links);
        let copies_per_s: f64 = links.iter().map(|link| 1.0 / link.copy_s).sum();
        let best_s = lanes.iter().sum::<usize>() as f64 / copies_per_s;
        let slowest_s = links.iter().map(|link| link.copy_s).fold(0.0, f64::max);
        assert!(end_s < best_s + slowest_s + 1e-9, "{end_s} s, {best_s} s at best");
        assert!(links.iter().all(|link| link.taken > 0), "a link starves");
    }

    #[test]
    fn links_of_any_rates_feed_one_gpu_together() {
        for count in [1, 2, 4, 8] {
            let equal = (0..count).map(|i| link(55.0, if i == 0 { &[0] } else { &[] }, &[0])).collect();
            assert_balanced(&[1000], equal);
            let slow_last =
                (0..count).map(|i| link(if i + 1 == count { 6.0 } else { 55.0 }, &[0], &[])).collect();
            assert_balanced(&[1000], slow_last);
        }
    }

    #[test]
    fn several_gpus_are_filled_at_once_whoever_is_slow() {
        for count in [2usize, 4, 8] {
            let others = |i: usize| (0..count).filter(|lane| *lane != i).collect::<Vec<_>>();
            let links = |slow: usize| {
                (0..count)
                    .map(|i| link(if i == slow { 11.0 } else { 55.0 }, &[i], &others(i)))
                    .collect::<Vec<_>>()
            };
            assert_balanced(&vec![300; count], links(0));
            // Shares of very different sizes.
            assert_balanced(&(0..count).map(|i| 10 + 400 * i).collect::<Vec<_>>(), links(count - 1));
        }
    }

    #[test]
    fn own_work_comes_first_and_strangers_work_never() {
        let shared = Shared::new(vec![vec!["a"], vec!["b", "b"], vec!["c", "c", "c"]]);
        assert_eq!(shared.take(&[0], &[1]), Some("a"));
        assert_eq!(shared.take(&[0], &[1]), Some("b"), "it helps");
        assert_eq!(shared.take(&[0], &[1]), Some("b"));
        assert_eq!(shared.take(&[0], &[1]), None, "lane 2 is not for it");
        assert_eq!(shared.left(&[], &[2]), 3);
        shared.clear();
        assert_eq!((shared.take(&[2], &[0, 1]), shared.left(&[0, 1, 2], &[])), (None, 0));
    }
}
