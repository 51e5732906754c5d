//! A checkpoint in the pool: its files' ranges, and who wants them.

use std::path::PathBuf;
use std::sync::Arc;

use crate::checkpoint::Stamp;

/// What there is of a range.
pub enum Range<C> {
    /// Nothing, and no memory for it.
    Absent,
    /// A load is making memory for it, or about to put it here.
    Promised,
    /// Memory, and nothing in it yet: whoever wants the range may claim it.
    Empty(C),
    /// A load has its memory, and fills it.
    Claimed,
    /// Its bytes. Whoever copies them shares it.
    Full(Arc<C>),
}

/// A checkpoint's ranges. Counted where they are wanted, so that no load's memory is given up under it.
pub struct Entry<C> {
    stamps: Vec<Stamp>,
    ranges: Vec<Range<C>>,
    /// By range: loads that want it, and have not ended.
    wanted: Vec<u32>,
    /// Loads that have it.
    pub users: usize,
    pub last_used: u64,
    /// It stays, whatever else wants memory.
    pub is_pinned: bool,
    /// A file that changed while it was read: what is here may be half old, half new, and goes to nobody any more.
    pub changed: Option<PathBuf>,
}

impl<C> Entry<C> {
    pub fn new(stamps: Vec<Stamp>, ranges: usize) -> Entry<C> {
        Entry {
            stamps,
            ranges: (0..ranges).map(|_| Range::Absent).collect(),
            wanted: vec![0; ranges],
            users: 0,
            last_used: 0,
            is_pinned: false,
            changed: None,
        }
    }

    pub fn stamps(&self) -> &[Stamp] {
        &self.stamps
    }

    pub fn range(&mut self, range: usize) -> Option<&mut Range<C>> {
        self.ranges.get_mut(range)
    }

    pub fn set(&mut self, range: usize, to: Range<C>) {
        if let Some(found) = self.ranges.get_mut(range) {
            *found = to;
        }
    }

    /// A load begins to want these.
    pub fn join(&mut self, ranges: &[usize]) {
        self.users += 1;
        for range in ranges {
            if let Some(wanted) = self.wanted.get_mut(*range) {
                *wanted += 1;
            }
        }
    }

    /// A load is done with these. Memory that nobody fills any more comes back.
    pub fn leave(&mut self, ranges: &[usize]) -> Vec<C> {
        self.users = self.users.saturating_sub(1);
        let mut back = Vec::new();
        for range in ranges {
            let (Some(wanted), Some(found)) = (self.wanted.get_mut(*range), self.ranges.get_mut(*range))
            else {
                continue;
            };
            *wanted = wanted.saturating_sub(1);
            if *wanted == 0
                && let Range::Empty(_) = found
                && let Range::Empty(chunk) = std::mem::replace(found, Range::Absent)
            {
                back.push(chunk);
            }
        }
        back
    }

    pub fn any(&self, ranges: &[usize], is: impl Fn(&Range<C>) -> bool) -> bool {
        ranges.iter().filter_map(|range| self.ranges.get(*range)).any(is)
    }

    /// Those of these for which there is no memory.
    pub fn absent(&self, ranges: &[usize]) -> Vec<usize> {
        let absent = |range: &usize| matches!(self.ranges.get(*range), Some(Range::Absent));
        ranges.iter().copied().filter(absent).collect()
    }

    /// Chunks with bytes in them.
    pub fn full(&self) -> usize {
        self.ranges.iter().filter(|range| matches!(range, Range::Full(_))).count()
    }

    /// How many ranges it has, there or not.
    pub fn count(&self) -> usize {
        self.ranges.len()
    }

    /// Full ranges that no load wants.
    pub fn spare(&self) -> impl Iterator<Item = usize> + '_ {
        let ranges = self.ranges.iter().zip(&self.wanted).enumerate();
        ranges.filter(|(_, (range, wanted))| **wanted == 0 && matches!(range, Range::Full(_))).map(|(i, _)| i)
    }

    pub fn into_ranges(self) -> Vec<Range<C>> {
        self.ranges
    }
}
