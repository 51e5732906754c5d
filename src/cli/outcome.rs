//! What a command came to.

/// `main` turns it into the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Exit code 0.
    Yes,
    /// Exit code 1: it ran, and the answer is no (a mismatch, a failed load, a regression).
    No,
    /// Exit code 2: it ran, and the answer can't be told.
    Unknown,
    /// Exit code 130: Ctrl-C; what was done is kept.
    Interrupted,
}
