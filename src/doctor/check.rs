//! One finding, and what it came to.

use serde::Serialize;

use crate::doctor::check_id::CheckId;

/// Worst last, so that `max` is the worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Pass,
    /// What it takes to tell was not there, or not for us to read.
    Unknown,
    Warn,
    Fail,
}

/// One finding about one thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    pub id: CheckId,
    /// What it is about: `this machine`, `GPU 0`, `nvme0n1`, `/mnt/models`, …
    pub subject: String,
    pub status: Status,
    /// The raw value, short: `gen 4 x16 of gen 5 x16`.
    pub value: String,
    /// Where it was read: a path, a call.
    pub source: String,
    /// What it means, where that is not plain: one line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// The command or setting that mends it; for `Unknown`, the right that is wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Check {
    pub fn new(
        id: CheckId,
        subject: impl Into<String>,
        status: Status,
        value: impl Into<String>,
        source: impl Into<String>,
    ) -> Check {
        let (subject, value, source) = (subject.into(), value.into(), source.into());
        Check { id, subject, status, value, source, why: None, remedy: None }
    }

    pub fn why(mut self, why: impl Into<String>) -> Check {
        self.why = Some(why.into());
        self
    }

    pub fn remedy(mut self, remedy: impl Into<String>) -> Check {
        self.remedy = Some(remedy.into());
        self
    }
}
