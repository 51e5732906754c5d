//! How something was judged.

use serde::Serialize;

/// The worst last, so that `max` is the worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Judged {
    Passed,
    /// What it takes to judge was not there.
    Unknown,
    Failed,
}
