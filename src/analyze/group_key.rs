//! What loads must have in common to be averaged.

use serde::Serialize;

use crate::os::text::is_harmful;

/// The derived order is the order of every output, once `format_rank` has put the baseline last.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct GroupKey {
    /// Without the replica's suffix.
    pub model: String,
    pub mode: String,
    /// `host`, or GPUs as given: `0,1`; empty when the record does not say.
    pub destination: String,
    /// `warm`, `cold`, `unknown`; empty when the record does not say.
    pub cache_state: String,
    /// The machine; empty where all loads are of one machine, or where machines are taken together.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub host: String,
    #[serde(skip)]
    format_rank: u8,
    pub format: String,
    /// What was asked for; empty when the record does not say.
    pub engine: String,
}

impl GroupKey {
    /// `section` is model, mode, destination and cache state.
    pub fn new(section: [&str; 4], format: &str, engine: &str) -> GroupKey {
        let [model, mode, destination, cache_state] = section.map(printable);
        GroupKey {
            model,
            mode,
            destination,
            cache_state,
            host: String::new(),
            format_rank: u8::from(format == "safetensors"),
            format: printable(format),
            engine: printable(engine),
        }
    }

    pub fn with_host(&self, host: &str) -> GroupKey {
        GroupKey { host: host.to_string(), ..self.clone() }
    }

    pub fn is_baseline(&self) -> bool {
        self.format_rank > 0
    }

    /// Model, mode, destination, cache state and host: what formats must share to be compared.
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

    #[test]
    fn hosts_stand_apart_within_a_model_and_the_baseline_comes_last() {
        let key =
            |host: &str, format: &str| GroupKey::new(["m", "cached", "", ""], format, "").with_host(host);
        let mut keys = [key("b", "sllm"), key("a", "safetensors"), key("a", "sllm"), key("a", "z")];
        keys.sort();
        let order: Vec<String> = keys.iter().map(GroupKey::title).collect();
        let expected = ["on a: sllm", "on a: z", "on a: safetensors", "on b: sllm"];
        assert_eq!(order, expected.map(|end| format!("m, cached, {end}")));
    }
}
