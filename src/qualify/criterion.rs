//! One criterion, as it was judged.

use serde::Serialize;

use crate::qualify::digits::apart;
use crate::qualify::interval::Comparison;
use crate::qualify::judged::Judged;
use crate::qualify::measure::links_below;

/// What a machine is held to in one respect, and how that came out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Criterion {
    /// `raw-read`, …, `verified`, `drives`, `drive-balance`, `drive-link`, `gpu-link`, `health-smart`, …
    pub id: &'static str,
    pub of: String,
    pub what: &'static str,
    pub measured: String,
    pub limit: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measured_gb_per_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_gb_per_s: Option<f64>,
    /// What the links on its way allow at most, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_gb_per_s: Option<f64>,
    /// How far the figure is from its limit, and how far both may be off, as shares: where the spread is the larger, nobody
    /// can say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub margin: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spread: Option<f64>,
    pub judged: Judged,
    /// Whether the verdict goes by it. Not so where the machine did not tell enough to judge it, and the rule does not
    /// insist on it.
    pub decides: bool,
    /// Why it failed, the likeliest cause first, each with its evidence; or why it could not be judged. Where it passed:
    /// what warned, or was not told.
    pub causes: Vec<String>,
}

impl Criterion {
    pub fn new(id: &'static str, of: &str, what: &'static str, judged: Judged) -> Criterion {
        Criterion {
            id,
            of: of.to_string(),
            what,
            measured: String::new(),
            limit: String::new(),
            measured_gb_per_s: None,
            limit_gb_per_s: None,
            allowed_gb_per_s: None,
            margin: None,
            spread: None,
            judged,
            decides: true,
            causes: Vec::new(),
        }
    }

    /// Whether the limit is above what the links allow, which whoever set it has to know before anything else.
    pub fn is_beyond_links(&self) -> bool {
        self.limit_gb_per_s.and_then(|limit| links_below(limit, self.allowed_gb_per_s)).is_some()
    }

    pub fn saying(mut self, measured: impl Into<String>, limit: impl Into<String>) -> Criterion {
        (self.measured, self.limit) = (measured.into(), limit.into());
        self
    }

    pub fn because(mut self, cause: impl Into<String>) -> Criterion {
        self.causes.push(cause.into());
        self
    }

    pub fn compared(mut self, comparison: Comparison) -> Criterion {
        (self.margin, self.spread) = (Some(comparison.margin), Some(comparison.spread));
        self
    }

    /// Measured over limit.
    pub fn share(&self) -> Option<f64> {
        Some(self.measured_gb_per_s? / self.limit_gb_per_s?)
    }

    /// The same with enough digits that what misses its limit does not read as meeting it. Empty where there is none.
    pub fn share_in_words(&self) -> String {
        self.share().map_or(String::new(), |share| apart(share, 1.0).0)
    }

    /// Whether it was compared, and nobody can say on which side of its limit it is.
    pub fn is_noisy(&self) -> bool {
        self.judged == Judged::Unknown && self.spread.is_some()
    }

    /// How it came out. What could not be judged and decides is told from what is only shown.
    pub fn word(&self) -> &'static str {
        match (self.judged, self.decides) {
            _ if self.is_noisy() => "not judged: too noisy",
            (Judged::Passed, _) => "ok",
            (Judged::Failed, _) => "FAILED",
            (Judged::Unknown, true) => "can't be judged",
            (Judged::Unknown, false) => "not judged",
        }
    }
}
