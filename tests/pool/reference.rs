//! What a pool should do with whole models, as plain arithmetic: the tests hold the real one against it, step by step.

/// A model in the pool: its number, in which version, of how many chunks.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Held {
    m: usize,
    version: u64,
    chunks: usize,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Answer {
    Held,
    Missing,
    Past,
    /// Making chunks went wrong.
    NotMade,
}

#[derive(Debug)]
pub struct Reference {
    capacity: usize,
    made: usize,
    free: usize,
    /// Least recently used first.
    held: Vec<Held>,
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    pub m: usize,
    pub version: u64,
    pub chunks: usize,
}

impl Reference {
    pub fn new(capacity: usize) -> Reference {
        Reference { capacity, made: 0, free: 0, held: Vec::new() }
    }

    /// Made, free, held.
    pub fn counts(&self) -> (usize, usize, usize) {
        (self.made, self.free, self.held.iter().map(|h| h.chunks).sum())
    }

    pub fn prefault(&mut self, works: bool) {
        if works {
            self.free += self.capacity - self.made;
            self.made = self.capacity;
        }
    }

    /// `in_use` tells which models somebody holds; `makes` whether chunks can be made.
    pub fn look_up(&mut self, wanted: Wanted, in_use: impl Fn(usize) -> bool, makes: bool) -> Answer {
        if wanted.chunks > self.capacity {
            return Answer::Past;
        }
        if let Some(at) = self.held.iter().position(|h| h.m == wanted.m) {
            let found = self.held[at];
            if found.version == wanted.version {
                self.held.remove(at);
                self.held.push(found);
                return Answer::Held;
            }
            if in_use(wanted.m) {
                return Answer::Past;
            }
            self.free += self.held.remove(at).chunks;
        }
        let idle: usize = self.held.iter().filter(|h| !in_use(h.m)).map(|h| h.chunks).sum();
        if wanted.chunks > self.free + (self.capacity - self.made) + idle {
            return Answer::Past;
        }
        while wanted.chunks > self.free + (self.capacity - self.made) {
            let oldest = self.held.iter().position(|h| !in_use(h.m)).unwrap();
            self.free += self.held.remove(oldest).chunks;
        }
        let lacking = wanted.chunks.saturating_sub(self.free);
        if lacking > 0 && !makes {
            return Answer::NotMade;
        }
        self.made += lacking;
        self.free = self.free + lacking - wanted.chunks;
        Answer::Missing
    }

    /// How a `Missing` ended.
    pub fn filled(&mut self, wanted: Wanted, kept: bool) {
        let Wanted { m, version, chunks } = wanted;
        match kept {
            true => self.held.push(Held { m, version, chunks }),
            false => self.free += chunks,
        }
    }
}
