//! What an engine is: something that moves a byte range. The loop that drives it is in `transfer.rs`.

use std::io;

/// A range of a file and the memory where it belongs, of the kind that the engine fills.
pub struct Job<M> {
    pub file: usize,
    pub file_offset: u64,
    /// Bytes that the file must have here.
    pub bytes: u64,
    pub memory: M,
}

/// Opened files, made ready for many threads.
pub trait Engine: Sync {
    /// What it fills.
    type Memory: Send;

    /// A thread's own share of a lane: streams, ring slots. Called on the thread that will use it. Lanes are
    /// the groups of jobs that the loader keeps apart, one for each destination.
    fn worker(&self, lane: usize) -> io::Result<Box<dyn Worker<Self::Memory> + '_>>;

    /// A thread ended early: nobody may go on waiting for what it was to bring. Called with the loop's own stop flag set;
    /// who waits answers `Interrupted`. May be called often.
    fn stop(&self) {}

    /// What this engine did, once every worker has finished.
    fn outcome(&self) -> PathTaken;
}

/// One thread's end of an engine.
pub trait Worker<M> {
    /// Moves bytes from `job.file_offset + done` to `done` bytes into the memory; says how many, at least one,
    /// possibly fewer than are left. 0 means that the file has ended. `Interrupted` means: again.
    fn read(&mut self, job: &mut Job<M>, done: u64) -> io::Result<u64>;

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
