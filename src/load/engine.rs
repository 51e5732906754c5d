//! What an engine is: something that moves a byte range. The loop that drives it is in `load.rs`.

use std::io;

/// A range of a file and the memory where it belongs.
pub struct Job<'a> {
    pub file: usize,
    pub file_offset: u64,
    /// Bytes that the file must have here.
    pub bytes: u64,
    /// Room for them: as long as `bytes`, rounded up to 4 KiB.
    pub target: &'a mut [u8],
}

/// Opened files, made ready for many threads.
pub trait Engine: Sync {
    /// A thread's own share: streams, ring slots. Called on the thread that will use it.
    fn worker(&self) -> io::Result<Box<dyn Worker + '_>>;

    /// What this engine did, once every worker has finished.
    fn outcome(&self) -> PathTaken;
}

/// One thread's end of an engine.
pub trait Worker {
    /// Moves bytes from `job.file_offset + done` to `job.target[done..]`; says how many, at least one, possibly
    /// fewer than are left. 0 means that the file has ended. `Interrupted` means: again.
    fn read(&mut self, job: &mut Job<'_>, done: u64) -> io::Result<u64>;

    /// Waits until all that was read has arrived.
    fn finish(&mut self) -> io::Result<()>;
}

/// The path that the bytes really took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathTaken {
    /// `host-direct`, `host-buffered`, `host-mixed`, …
    pub path: String,
    pub reason: String,
    pub direct_bytes: u64,
    pub buffered_bytes: u64,
}
