//! What loads must have in common to be averaged.

use serde::Serialize;

use crate::os::text::is_harmful;

/// The columns of a section: what formats must share to be compared.
pub const SECTION: [&str; 5] = ["model", "mode", "destination", "cache_state", "host"];
/// The columns of a group.
pub const KEY: [&str; 7] = ["model", "mode", "destination", "cache_state", "host", "format", "engine"];
/// The format that others are compared with.
pub const BASELINE: &str = "safetensors";

/// The key of a group. What a record does not say is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct GroupKey {
    /// Without the replica's suffix.
    pub model: String,
    pub mode: String,
    /// `host`, or GPUs as given: `0,1`.
    pub destination: String,
    /// `warm`, `cold`, `unknown`.
    pub cache_state: String,
    /// The machine; empty where all loads are of one machine, or where machines are taken together.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub host: String,
    pub format: String,
    /// What was asked for.
    pub engine: String,
}

impl GroupKey {
    pub fn is_baseline(&self) -> bool {
        self.format == BASELINE
    }

    pub fn section(&self) -> [&str; 5] {
        [&self.model, &self.mode, &self.destination, &self.cache_state, &self.host]
    }

    /// The section in words: `facebook/opt-125m, cached, to GPU 0, page cache warm, on node-7`.
    pub fn section_title(&self) -> String {
        let mut parts = vec![self.model.clone(), self.mode.clone()];
        match self.destination.as_str() {
            "" => {}
            "host" => parts.push("to host memory".into()),
            gpus => parts.push(format!("to GPU {gpus}")),
        }
        if !matches!(self.cache_state.as_str(), "" | "unknown") {
            parts.push(format!("page cache {}", self.cache_state));
        }
        if !self.host.is_empty() {
            parts.push(format!("on {}", self.host));
        }
        parts.join(", ")
    }

    /// The group in words.
    pub fn title(&self) -> String {
        let engine = if self.engine.is_empty() { String::new() } else { format!(" ({})", self.engine) };
        format!("{}: {}{engine}", self.section_title(), self.format)
    }
}

/// Whose SafeTensors: `safetensors (Rust crate)`.
pub fn baseline_name(engine: &str) -> String {
    match engine {
        "baseline-rust" => "safetensors (Rust crate)".into(),
        "baseline-python" => "safetensors (Python)".into(),
        "" => BASELINE.into(),
        other => format!("{BASELINE} ({other})"),
    }
}

/// What could harm a terminal is replaced, not spelled out: in tables, plots and pages it takes one column.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if is_harmful(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_paint_the_terminal() {
        assert_eq!(printable("a\u{1b}[31mb\nc\u{202e}d"), "a\u{fffd}[31mb\u{fffd}c\u{fffd}d");
    }
}
