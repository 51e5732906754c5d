//! What the operating system gives: system calls, host memory, page cache, digests, cancellation.

/// Work that is asked to stop.
pub mod cancel;
/// This program again, as a child with a time limit.
#[doc(hidden)]
pub mod child;
/// Block digests of bytes in host memory.
#[doc(hidden)]
pub mod digest;
/// What went wrong, as a program decides on it.
pub mod error;
/// Host buffers.
#[doc(hidden)]
pub mod memory;
/// Threads and memory near what they serve.
#[doc(hidden)]
pub mod numa;
/// Numbered work on several threads.
#[doc(hidden)]
pub mod parallel;
/// How far work has come.
#[doc(hidden)]
pub mod progress;
/// Hidden directories that killed processes leave, told from those of living ones.
#[doc(hidden)]
pub mod remains;
/// What the page cache holds of a file.
#[doc(hidden)]
pub mod residency;
/// System calls that std does not have.
#[doc(hidden)]
pub mod sys;
/// Text for the terminal: others' names can't paint it.
#[doc(hidden)]
pub mod text;
/// Threads that the system may refuse.
#[doc(hidden)]
pub mod threads;
