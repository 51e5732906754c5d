//! What the operating system gives: system calls, host memory, page cache, digests, cancellation.

/// Work that is asked to stop.
pub mod cancel;
/// This program again, as a child with a time limit.
pub mod child;
/// Block digests of bytes in host memory.
pub mod digest;
/// What went wrong, as a program decides on it.
pub mod error;
/// Host buffers.
pub mod memory;
/// Threads and memory near what they serve.
pub mod numa;
/// Numbered work on several threads.
pub mod parallel;
/// How far work has come.
pub mod progress;
/// Hidden directories that killed processes leave, told from those of living ones.
pub mod remains;
/// What the page cache holds of a file.
pub mod residency;
/// System calls that std does not have.
pub mod sys;
/// Text for the terminal: others' names can't paint it.
pub mod text;
/// Threads that the system may refuse.
pub mod threads;
