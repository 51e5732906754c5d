//! What a load did, and how long each part of it took.

use std::time::Instant;

use serde::Serialize;

use crate::checkpoint::Checkpoint;
use crate::load::engine::PathTaken;
use crate::load::options::Options;
use crate::load::phases::Phases;
use crate::load::plan::Plan;

/// What a load did.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct LoadReport {
    /// Bytes of tensors delivered.
    pub bytes: u64,
    /// Bytes that this load read for them; through the pool those that neither it held nor another load brought.
    pub read_bytes: u64,
    /// Bytes that the pool held before; 0 without one.
    pub held_bytes: u64,
    /// Bytes that loads which ran at the same time brought into the pool; 0 without one.
    pub joined_bytes: u64,
    /// From the call to the last byte in place. What [`Request::verify`](crate::Request::verify) does afterwards does not count;
    /// where no digests were recorded, those that are made of the bytes as they are read do.
    pub elapsed_s: f64,
    /// `bytes` over `elapsed_s`, in 10^9 bytes a second.
    pub gb_per_s: f64,
    /// Where the time went.
    pub phases: Phases,
    /// The path that the bytes took, such as `pinned-direct`; `pool` where none was read, `pool-part-direct` where some were,
    /// `pool-fill-direct` where all were read into the pool.
    pub path: String,
    /// Why that one, in words.
    pub path_reason: String,
    /// Bytes that were read past the page cache.
    pub direct_bytes: u64,
    /// Bytes that were read through it.
    pub buffered_bytes: u64,
    /// Bytes of one read.
    pub chunk_bytes: u64,
    /// Bytes of one copy through the ring; 0 for other loads.
    pub copy_bytes: u64,
    /// Reader threads that a destination really had: no more than there was to read, nor than the system gave; 0 where nothing
    /// was read.
    pub threads: usize,
    /// Pinned host memory that the ring took; 0 for host loads.
    pub staging_bytes: u64,
    /// What each link to a GPU carried. Empty for host loads, by cuFile, and from the pool over each GPU's own link.
    pub links: Vec<LinkReport>,
}

/// What one link carried, or the links of GPUs that each got the same over their own.
#[derive(Debug, Clone, PartialEq, Serialize, serde::Deserialize)]
#[non_exhaustive]
pub struct LinkReport {
    /// The GPUs whose links these are.
    pub gpus: Vec<String>,
    /// Bytes from host memory; padding between tensors counts.
    pub bytes: u64,
    /// Those of them that were for other GPUs, and were passed on.
    pub passed_on_bytes: u64,
    /// `bytes` over the time of the transfer, in 10^9 bytes a second.
    pub gb_per_s: f64,
}

impl LinkReport {
    pub(super) fn new(
        gpus: Vec<String>,
        (bytes, passed_on_bytes): (u64, u64),
        transfer_s: f64,
    ) -> LinkReport {
        LinkReport { gpus, bytes, passed_on_bytes, gb_per_s: bytes as f64 / transfer_s / 1e9 }
    }
}

impl LoadReport {
    pub(super) fn new(
        checkpoint: &Checkpoint,
        plan: &Plan,
        options: &Options,
        phases: Phases,
        elapsed_s: f64,
        taken: PathTaken,
    ) -> LoadReport {
        let bytes = checkpoint.tensor_bytes();
        LoadReport {
            bytes,
            read_bytes: plan.bytes(),
            held_bytes: 0,
            joined_bytes: 0,
            elapsed_s,
            gb_per_s: bytes as f64 / elapsed_s / 1e9,
            phases,
            path: taken.path,
            path_reason: taken.reason,
            direct_bytes: taken.direct_bytes,
            buffered_bytes: taken.buffered_bytes,
            chunk_bytes: options.chunk_bytes,
            copy_bytes: 0,
            threads: options.threads,
            staging_bytes: 0,
            links: Vec::new(),
        }
    }

    /// Counts the time that went to an engine which did not take the load: it belongs to opening.
    pub(super) fn add_lost(&mut self, lost_s: f64) {
        self.phases.open_s += lost_s;
        self.elapsed_s += lost_s;
        self.gb_per_s = self.bytes as f64 / self.elapsed_s / 1e9;
    }
}

impl LoadReport {
    /// Counts a plan that was made before the load began, and what it delivers.
    pub(super) fn count_plan(&mut self, plan_s: f64, bytes: u64) {
        self.phases.plan_s += plan_s;
        self.elapsed_s += plan_s;
        self.bytes = bytes;
        self.gb_per_s = bytes as f64 / self.elapsed_s / 1e9;
    }
}

/// A stopwatch that counts laps.
pub struct Clock {
    started: Instant,
    lap: Instant,
}

impl Clock {
    /// Starts it.
    pub fn start() -> Clock {
        let now = Instant::now();
        Clock { started: now, lap: now }
    }

    /// Seconds since the last lap.
    pub fn lap(&mut self) -> f64 {
        // One look at the clock: between two the time would belong to no lap.
        let now = Instant::now();
        let lap_s = now.duration_since(self.lap).as_secs_f64();
        self.lap = now;
        lap_s
    }

    /// Seconds since the last lap, which goes on.
    pub fn peek(&self) -> f64 {
        self.lap.elapsed().as_secs_f64()
    }

    /// Leaves the time since the last lap out of everything.
    pub fn skip(&mut self) {
        let skipped = self.lap.elapsed();
        self.started += skipped;
        self.lap += skipped;
    }

    /// Seconds since the start, up to the last lap.
    pub fn total(&self) -> f64 {
        self.lap.duration_since(self.started).as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_that_was_lost_counts_and_the_rate_is_over_all_of_it() {
        let mut report = LoadReport {
            bytes: 6_000_000_000,
            read_bytes: 6_000_000_000,
            held_bytes: 0,
            joined_bytes: 0,
            elapsed_s: 1.0,
            gb_per_s: 6.0,
            phases: Phases { open_s: 0.25, transfer_s: 0.75, ..Phases::default() },
            path: "pinned-direct".into(),
            path_reason: String::new(),
            direct_bytes: 6_000_000_000,
            buffered_bytes: 0,
            chunk_bytes: 2 << 20,
            copy_bytes: 16 << 20,
            threads: 4,
            staging_bytes: 64 << 20,
            links: Vec::new(),
        };
        report.add_lost(0.5);
        assert_eq!((report.elapsed_s, report.gb_per_s), (1.5, 4.0));
        assert_eq!((report.phases.open_s, report.phases.transfer_s), (0.75, 0.75));
    }
}
