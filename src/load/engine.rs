//! What an engine is: something that moves a byte range. The loop that drives it is in `transfer.rs`.

use std::io;

use crate::gpu::memory::DeviceSlice;
use crate::load::group::Part;
use crate::load::pinned::Copying;

/// A range of a file and the memory where it belongs.
pub struct Job<'a> {
    pub file: usize,
    pub file_offset: u64,
    /// Bytes that the file must have here.
    pub bytes: u64,
    pub target: Target<'a>,
}

/// Room for a job's bytes: as long as they are, rounded up to 4 KiB.
pub enum Target<'a> {
    Host(&'a mut [u8]),
    /// The same bytes to each of these: one, or one a GPU when a load is replicated.
    Devices(Vec<DeviceSlice<'a>>),
    /// A part of what goes to devices in one copy.
    Part(Part<Copying<'a>>),
    /// Into pinned memory that stays, and from there to devices: how the pool is filled.
    Staged(&'a mut [u8], Vec<DeviceSlice<'a>>),
}

impl<'a> Target<'a> {
    /// Splits in two; the first has `bytes` bytes of each memory.
    pub fn split_at(self, bytes: u64) -> (Target<'a>, Target<'a>) {
        match self {
            Target::Host(room) => {
                let (first, second) = room.split_at_mut(bytes as usize);
                (Target::Host(first), Target::Host(second))
            }
            Target::Devices(slices) => {
                let (first, second) = slices.into_iter().map(|s| s.split_at(bytes)).unzip();
                (Target::Devices(first), Target::Devices(second))
            }
            // It is split already: all of it is first.
            part @ Target::Part(_) => (part, Target::Devices(Vec::new())),
            Target::Staged(room, slices) => {
                let (room_first, room_second) = room.split_at_mut(bytes as usize);
                let (first, second) = slices.into_iter().map(|s| s.split_at(bytes)).unzip();
                (Target::Staged(room_first, first), Target::Staged(room_second, second))
            }
        }
    }
}

/// Opened files, made ready for many threads.
pub trait Engine: Sync {
    /// A thread's own share of a lane: streams, ring slots. Called on the thread that will use it. Lanes are
    /// the groups of jobs that the loader keeps apart, one for each destination.
    fn worker(&self, lane: usize) -> io::Result<Box<dyn Worker + '_>>;

    /// A thread ended early: nobody may go on waiting for what it was to bring. Called with the loop's own stop flag set;
    /// who waits answers `Interrupted`. May be called often.
    fn stop(&self) {}

    /// What this engine did, once every worker has finished.
    fn outcome(&self) -> PathTaken;
}

/// One thread's end of an engine.
pub trait Worker {
    /// Moves bytes from `job.file_offset + done` to `done` bytes into the target; says how many, at least one,
    /// possibly fewer than are left. 0 means that the file has ended. `Interrupted` means: again.
    fn read(&mut self, job: &mut Job<'_>, done: u64) -> io::Result<u64>;

    /// Waits until all that was read has arrived.
    fn finish(&mut self) -> io::Result<()>;
}

/// The path that the bytes really took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathTaken {
    /// `host-direct`, `pinned-buffered`, `pinned-mixed`, …
    pub path: String,
    pub reason: String,
    pub direct_bytes: u64,
    pub buffered_bytes: u64,
}

/// An engine was given memory of the wrong kind: a mistake in this program.
pub(super) fn wrong_target(engine: &str) -> io::Error {
    io::Error::other(format!("the engine '{engine}' was given memory that it can't fill; please report this"))
}
