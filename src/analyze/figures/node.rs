//! What is found about one node of a fleet, and how bad that is.

use serde::Serialize;

use crate::analyze::figures::difference::Difference;
use crate::analyze::read::qualified::Qualified;

/// A node that something was found about.
#[derive(Debug)]
pub struct Node {
    pub name: String,
    /// The highest score of its slow groups, in robust standard deviations; 0 where none is slow.
    pub score: f64,
    /// The worst first.
    pub findings: Vec<Finding>,
    /// The most telling first.
    pub differences: Vec<Difference>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    /// An index into `Fleet::groups`; absent for what is of the node as a whole.
    pub group: Option<usize>,
    pub what: What,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "what", rename_all = "lowercase")]
pub enum What {
    Missing,
    Failing {
        #[serde(rename = "failed_loads")]
        failed: usize,
        loads: usize,
    },
    Slow {
        median_s: f64,
        usual_s: f64,
        score: f64,
    },
    /// `qualify` failed it, or could not judge it.
    #[serde(untagged)]
    Qualify(Qualified),
}

impl Finding {
    /// The greater the worse: failed by `qualify`, then no loads, failed loads, slow ones; last what is not judged.
    fn rank(&self) -> (u8, f64) {
        match &self.what {
            What::Qualify(qualified) if qualified.verdict.is_open() => (0, 0.0),
            What::Slow { score, .. } => (1, *score),
            What::Failing { failed, loads } => (2, *failed as f64 / *loads as f64),
            What::Missing => (3, 0.0),
            What::Qualify(_) => (4, 0.0),
        }
    }

    /// `qualify` could not judge it.
    pub fn is_open(&self) -> bool {
        matches!(&self.what, What::Qualify(qualified) if qualified.verdict.is_open())
    }
}

impl Node {
    pub fn new(name: &str, mut findings: Vec<Finding>, differences: Vec<Difference>) -> Node {
        findings.sort_by(|a, b| b.rank().partial_cmp(&a.rank()).unwrap_or(std::cmp::Ordering::Equal));
        let scores = findings.iter().map(|finding| match finding.what {
            What::Slow { score, .. } => score,
            _ => 0.0,
        });
        let score = scores.fold(0.0, f64::max);
        Node { name: name.to_string(), score, findings, differences }
    }

    /// The greater the worse.
    pub fn rank(&self) -> (u8, f64, f64) {
        let (kind, degree) = self.findings.first().map_or((0, 0.0), Finding::rank);
        (kind, degree, self.score)
    }
}
