//! Memory that a load is given bit by bit: groups of tensors or ranges, which come in the order in which they were given. Reading
//! goes on from one group to the next, while those that have come are in use.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

use crate::gpu::link::Mark;
use crate::load::request::Request;
use crate::os::cancel::{Cancel, Interrupted};

/// How often those who wait look whether they still should.
const POLL: Duration = Duration::from_millis(50);

/// Between one who gives memory and waits for what comes, and a load ([`Loader::load_fed`](crate::Loader::load_fed)).
#[derive(Default)]
pub struct Feed {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Not begun, each with its number.
    given: VecDeque<(usize, Request)>,
    /// No more will be given.
    ended: bool,
    /// All copies are queued; the mark stands for their end.
    queued: VecDeque<(usize, Mark)>,
    /// No more will be queued.
    all_queued: bool,
    /// By number: whether all of it is there.
    there: Vec<bool>,
    /// The load has ended, well or not.
    over: bool,
}

/// What became of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// All of it is there.
    There,
    NotYet,
    /// It will not come: the load has ended, and its result says why.
    Never,
}

/// What there is to begin.
pub(super) enum Taken {
    Group(usize, Request),
    NotYet,
    /// There will be no more.
    End,
}

impl Feed {
    pub fn new() -> Feed {
        Feed::default()
    }

    /// Gives a group: a request into the caller's memory. Says its number, and returns at once.
    pub fn give(&self, request: Request) -> usize {
        let mut state = self.lock();
        let number = state.there.len();
        state.there.push(false);
        state.given.push_back((number, request));
        drop(state);
        self.changed.notify_all();
        number
    }

    /// No more will be given.
    pub fn end(&self) {
        self.lock().ended = true;
        self.changed.notify_all();
    }

    /// Waits so long for a group at most.
    pub fn wait(&self, number: usize, timeout: Duration) -> Arrival {
        let is_known = |state: &State| state.there.get(number) == Some(&true) || state.over;
        let state = self.lock();
        let waited = self.changed.wait_timeout_while(state, timeout, |state| !is_known(state));
        let (state, _) = waited.unwrap_or_else(|e| e.into_inner());
        match (state.there.get(number), state.over) {
            (Some(true), _) => Arrival::There,
            (_, true) => Arrival::Never,
            (_, false) => Arrival::NotYet,
        }
    }

    /// What was given first, which stays where it is; `None` where nothing is given.
    pub(super) fn first(&self, cancel: &Cancel) -> Result<Option<Request>, Interrupted> {
        let mut state = self.lock();
        loop {
            cancel.check()?;
            match state.given.front() {
                Some((_, request)) => return Ok(Some(request.clone())),
                None if state.ended => return Ok(None),
                None => state = self.pause(state),
            }
        }
    }

    /// Takes the next group, and waits a moment for it.
    pub(super) fn take(&self) -> Taken {
        let mut state = self.lock();
        if state.given.is_empty() && !state.ended {
            state = self.pause(state);
        }
        match state.given.pop_front() {
            Some((number, request)) => Taken::Group(number, request),
            None if state.ended => Taken::End,
            None => Taken::NotYet,
        }
    }

    /// All of a group is there.
    pub(super) fn is_there(&self, number: usize) {
        if let Some(there) = self.lock().there.get_mut(number) {
            *there = true;
        }
        self.changed.notify_all();
    }

    /// All copies of a group are queued.
    pub(super) fn is_queued(&self, number: usize, mark: Mark) {
        self.lock().queued.push_back((number, mark));
        self.changed.notify_all();
    }

    /// The next group whose copies are all queued; `None` where there will be none.
    pub(super) fn next_queued(&self) -> Option<(usize, Mark)> {
        let mut state = self.lock();
        loop {
            match state.queued.pop_front() {
                Some(queued) => return Some(queued),
                None if state.all_queued => return None,
                None => state = self.pause(state),
            }
        }
    }

    /// Tells whoever asks for the next that is queued, when it drops, that there will be none.
    pub(super) fn all_queued_on_drop(&self) -> OnDrop<'_> {
        OnDrop(self, |state| state.all_queued = true)
    }

    /// Tells all who wait, when it drops, that the load has ended.
    pub(super) fn over_on_drop(&self) -> OnDrop<'_> {
        OnDrop(self, |state| state.over = true)
    }

    fn pause<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait_timeout(state, POLL).unwrap_or_else(|e| e.into_inner()).0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// Says something of a feed when it drops, also in a panic.
pub(super) struct OnDrop<'f>(&'f Feed, fn(&mut State));

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        (self.1)(&mut self.0.lock());
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::request::To;

    #[test]
    fn groups_are_taken_in_their_order_and_are_there_one_by_one() {
        let feed = Feed::new();
        let numbers: Vec<usize> = (0..3).map(|_| feed.give(Request::to(To::Host))).collect();
        assert_eq!(numbers, [0, 1, 2]);
        assert!(feed.first(&Cancel::new()).unwrap().is_some());
        for number in numbers {
            assert!(matches!(feed.take(), Taken::Group(taken, _) if taken == number));
        }
        assert!(matches!(feed.take(), Taken::NotYet));
        feed.is_there(1);
        let moment = Duration::from_millis(1);
        assert_eq!(feed.wait(1, moment), Arrival::There);
        assert_eq!(feed.wait(0, moment), Arrival::NotYet);
        feed.end();
        assert!(matches!(feed.take(), Taken::End));
        drop(feed.over_on_drop());
        assert_eq!((feed.wait(0, moment), feed.wait(1, moment)), (Arrival::Never, Arrival::There));
    }

    #[test]
    fn who_waits_is_woken_by_what_comes_by_the_end_and_by_a_cancel() {
        let feed = Feed::new();
        std::thread::scope(|scope| {
            let taken = scope.spawn(|| {
                loop {
                    match feed.take() {
                        Taken::NotYet => {}
                        Taken::Group(number, _) => feed.is_there(number),
                        Taken::End => return,
                    }
                }
            });
            let number = feed.give(Request::to(To::Host));
            while feed.wait(number, POLL) != Arrival::There {}
            feed.end();
            taken.join().unwrap();
        });
        assert!(feed.first(&Cancel::new()).unwrap().is_none());
        let (empty, cancel) = (Feed::new(), Cancel::new());
        cancel.set();
        assert!(empty.first(&cancel).is_err());
        drop(empty.all_queued_on_drop());
        assert!(empty.next_queued().is_none());
    }
}
