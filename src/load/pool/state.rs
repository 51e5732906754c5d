//! What the pool's lock guards, as plain arithmetic: no step of it waits, reads, allocates memory for bytes, or looks at a file.
//!
//! A chunk is owned by exactly one of: the free list, a range of a checkpoint, a load that fills it. It moves between them
//! by value, so that none can be lost or handed out twice.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::load::pool::entry::{Entry, Range};
use crate::load::pool::files::{Files, Ranges};

/// A checkpoint's files: what it is found by.
pub type Key = Arc<[PathBuf]>;

pub struct State<C> {
    pub free: Vec<C>,
    /// Chunks that exist or are being made, wherever they are.
    pub made: usize,
    /// Those of them that are being made for no load in particular.
    pub making: usize,
    /// The most that there may be.
    pub capacity: usize,
    /// Checkpoints that were turned out, and ranges of those that others of their own took the place of.
    pub evictions: u64,
    entries: HashMap<Key, Entry<C>>,
    clock: u64,
}

impl<C> State<C> {
    pub fn new(capacity: usize) -> State<C> {
        State {
            free: Vec::new(),
            made: 0,
            making: 0,
            capacity,
            evictions: 0,
            entries: HashMap::new(),
            clock: 0,
        }
    }

    pub fn entry(&mut self, key: &Key) -> Option<&mut Entry<C>> {
        self.entries.get_mut(key)
    }

    /// A load comes to a checkpoint, whether there is something of it or not. Why it can't, in words.
    pub fn join(&mut self, files: &Files, ranges: &Ranges, wanted: &[usize]) -> Result<(), String> {
        let key = files.paths();
        if let Some(entry) = self.entries.get(key)
            && (entry.changed.is_some() || !files.is_as(entry.stamps()))
        {
            if entry.users > 0 {
                return Err("the pool holds its files in another state, and that is in use".into());
            }
            self.evict(&key.clone());
        }
        self.clock += 1;
        let new = || Entry::new(files.stamps(), ranges.count());
        let entry = self.entries.entry(key.clone()).or_insert_with(new);
        entry.last_used = self.clock;
        entry.join(wanted);
        Ok(())
    }

    /// A load is done with a checkpoint.
    pub fn leave(&mut self, key: &Key, wanted: &[usize]) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        self.free.extend(entry.leave(wanted));
        if entry.users == 0 && (entry.changed.is_some() || entry.full() == 0) {
            self.evict(key);
        }
    }

    /// Finds `needed` chunks for ranges of `key`: free ones, and promises to make the rest, which `made` counts from now
    /// on. Turns out what was used least recently, but only if that is enough; else `None`, and all is as it was.
    pub fn secure(&mut self, needed: usize, key: &Key) -> Option<(Vec<C>, usize)> {
        if self.lacking(needed) > self.idle_chunks() + self.spare(key).len() {
            return None;
        }
        while self.lacking(needed) > 0 && self.evict_oldest() {}
        let spare = self.spare(key).into_iter().rev().take(self.lacking(needed)).collect::<Vec<_>>();
        spare.into_iter().for_each(|range| self.give_up(key, range));
        let from_free = needed.min(self.free.len());
        let chunks = self.free.split_off(self.free.len() - from_free);
        self.made += needed - from_free;
        Some((chunks, needed - from_free))
    }

    fn lacking(&self, needed: usize) -> usize {
        needed.saturating_sub(self.free.len() + self.capacity.saturating_sub(self.made))
    }

    /// Turns out a checkpoint, unless it is used: how many chunks came free.
    pub fn evict_idle(&mut self, key: &Key) -> Option<usize> {
        let Some(entry) = self.entries.get(key) else { return Some(0) };
        if entry.users > 0 {
            return None;
        }
        let before = self.free.len();
        self.evict(key);
        Some(self.free.len() - before)
    }

    /// The keys of all that is there.
    pub fn entries(&self) -> impl Iterator<Item = (&Key, &Entry<C>)> {
        self.entries.iter()
    }

    /// Turns out a checkpoint that nobody uses.
    fn evict(&mut self, key: &Key) {
        self.evictions += u64::from(self.entries.get(key).is_some_and(|entry| entry.full() > 0));
        for range in self.entries.remove(key).into_iter().flat_map(Entry::into_ranges) {
            self.take_back(range);
        }
    }

    fn evict_oldest(&mut self) -> bool {
        let oldest = self.idle().min_by_key(|(_, entry)| entry.last_used);
        let key = oldest.map(|(key, _)| key.clone());
        key.inspect(|key| self.evict(key)).is_some()
    }

    /// Ranges that a load's own checkpoint has beside those it wants, if nobody else uses that.
    fn spare(&self, key: &Key) -> Vec<usize> {
        let alone = self.entries.get(key).filter(|entry| entry.users == 1 && !entry.is_pinned);
        alone.map(|entry| entry.spare().collect()).unwrap_or_default()
    }

    fn give_up(&mut self, key: &Key, range: usize) {
        self.evictions += 1;
        let found = self.entries.get_mut(key).and_then(|entry| entry.range(range));
        if let Some(found) = found.map(|range| std::mem::replace(range, Range::Absent)) {
            self.take_back(found);
        }
    }

    fn take_back(&mut self, range: Range<C>) {
        match range {
            Range::Full(chunk) => match Arc::try_unwrap(chunk) {
                Ok(chunk) => self.free.push(chunk),
                // Somebody leaked a share of it. The memory is theirs now.
                Err(_) => self.made = self.made.saturating_sub(1),
            },
            Range::Empty(chunk) => self.free.push(chunk),
            Range::Absent | Range::Promised | Range::Claimed => {}
        }
    }

    /// Chunks of checkpoints that may be turned out.
    fn idle_chunks(&self) -> usize {
        self.idle().map(|(_, entry)| entry.full()).sum()
    }

    fn idle(&self) -> impl Iterator<Item = (&Key, &Entry<C>)> {
        self.entries.iter().filter(|(_, entry)| entry.users == 0 && !entry.is_pinned)
    }

    /// Chunks with bytes of checkpoints in them.
    pub fn held(&self) -> usize {
        self.entries.values().map(Entry::full).sum()
    }
}
