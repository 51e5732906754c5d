//! What `qualify` said of a node: of its record, only the verdict and whose it is.

use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::analyze::key::printable;
use crate::analyze::read::file::bytes_of;

/// Of a reason, in text and pages. JSON and CSV have it whole.
const WHY_CHARS: usize = 160;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Passed,
    Failed,
    #[serde(rename = "not judged")]
    NotJudged,
    Interrupted,
}

/// The verdict on one storage path of a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Qualified {
    pub verdict: Verdict,
    pub why: String,
    #[serde(default)]
    pub path: String,
    pub started_at_s: f64,
}

/// A record, with what tells whose it is.
#[derive(Debug, Deserialize)]
pub struct QualifyRecord {
    #[serde(flatten)]
    pub qualified: Qualified,
    pub host: String,
    #[serde(default)]
    pub run_id: String,
    /// As in `environment.json`, should that not stand beside.
    #[serde(default)]
    pub environment: Value,
}

pub fn read(path: &Path) -> Result<QualifyRecord> {
    let mut record: QualifyRecord = serde_json::from_slice(&bytes_of(path)?)
        .with_context(|| format!("{} is damaged, or no record of `sllm-gds qualify`", path.display()))?;
    let Qualified { why, path, .. } = &mut record.qualified;
    for text in [why, path, &mut record.host] {
        *text = printable(text);
    }
    Ok(record)
}

impl Verdict {
    pub fn word(self) -> &'static str {
        match self {
            Verdict::Passed => "passed",
            Verdict::Failed => "failed",
            Verdict::NotJudged => "not judged",
            Verdict::Interrupted => "interrupted",
        }
    }

    /// Neither passed nor failed.
    pub fn is_open(self) -> bool {
        matches!(self, Verdict::NotJudged | Verdict::Interrupted)
    }
}

impl Qualified {
    /// `qualify of /mnt/nvme failed: 1 of 10 criteria failed, foremost …`
    pub fn in_words(&self) -> String {
        let mut why: String = self.why.chars().take(WHY_CHARS).collect();
        if why.len() < self.why.len() {
            why.push('…');
        }
        let of = if self.path.is_empty() { String::new() } else { format!(" of {}", self.path) };
        let was =
            if self.verdict == Verdict::Passed || self.verdict == Verdict::Failed { "" } else { " was" };
        format!("qualify{of}{was} {}: {why}", self.verdict.word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    use crate::record::names::QUALIFY_FILE;

    fn record(text: &str) -> Result<QualifyRecord> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(QUALIFY_FILE);
        std::fs::write(&path, text).unwrap();
        read(&path)
    }

    fn with(verdict: &str, why: &str) -> String {
        json!({ "verdict": verdict, "why": why, "host": "a\u{1b}", "path": "/mnt", "started_at_s": 1.5, "loads": {} })
            .to_string()
    }

    #[test]
    fn a_record_of_qualify_is_read() {
        let found = record(&with("not judged", "no GPU")).unwrap();
        assert_eq!((found.host.as_str(), found.run_id.as_str()), ("a\u{fffd}", ""));
        assert!(found.qualified.verdict.is_open());
        assert_eq!(found.qualified.in_words(), "qualify of /mnt was not judged: no GPU");
        let long = record(&with("failed", &"ü".repeat(200))).unwrap().qualified;
        assert_eq!(long.in_words(), format!("qualify of /mnt failed: {}…", "ü".repeat(WHY_CHARS)));
        assert_eq!(json!(long)["why"].as_str().unwrap().chars().count(), 200);
    }

    #[test]
    fn what_is_none_says_so() {
        let missing = r#"{"verdict": "passed", "why": "", "started_at_s": 1}"#;
        for (text, why) in
            [("{", "line 1"), ("[]", "line 1"), (missing, "host"), (&with("fine", ""), "`fine`")]
        {
            let error = format!("{:#}", record(text).unwrap_err());
            assert!(error.contains("no record of `sllm-gds qualify`") && error.contains(why), "{error}");
        }
    }
}
