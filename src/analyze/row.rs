//! One record of a load, as far as figures need it, and what is wrong with it.

use std::borrow::Cow;
use std::fmt;

use anyhow::{Result, bail};
use serde::de::{IgnoredAny, Visitor};
use serde::{Deserialize, Deserializer};

use crate::analyze::file_name::FileName;
use crate::analyze::group_key::GroupKey;
use crate::analyze::items::is_mask;

/// No load takes less or more; such a time would make nonsense of every mean.
const TIME_RANGE_S: std::ops::RangeInclusive<f64> = 1e-9..=1e9;

/// The part of a record that figures need; the whole is `record::result::Record`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Row<'a> {
    #[serde(borrow)]
    pub model_name: Cow<'a, str>,
    loading_time: Number,
    error: Option<IgnoredAny>,
    #[serde(borrow)]
    pub format: Cow<'a, str>,
    #[serde(borrow)]
    mode: Cow<'a, str>,
    #[serde(borrow)]
    pub engine: Cow<'a, str>,
    bytes: Number,
    #[serde(borrow)]
    gpus: Vec<Cow<'a, str>>,
    #[serde(borrow)]
    cache_state: Cow<'a, str>,
    meant_cold: bool,
    verified: Option<bool>,
    throughput: Number,
    #[serde(borrow)]
    pub run_id: Cow<'a, str>,
}

/// One load; `key` and `run` are indices into its file's `Loads`.
#[derive(Debug, Clone, Copy)]
pub struct FileLoad {
    pub key: u32,
    pub run: u32,
    /// Absent when the load failed, gave no usable time, or delivered wrong bytes.
    pub time_s: Option<f64>,
    pub bytes: Option<f64>,
    /// It was meant to find the page cache empty, and did not.
    pub warm_by_mistake: bool,
    pub verified: bool,
    /// Inference after the load, which ServerlessLLM's suite measures.
    pub tokens_per_s: Option<f64>,
}

/// What stands where a number should.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
enum Number {
    #[default]
    Missing,
    Null,
    Text,
    NotFinite,
    Is(f64),
}

impl Number {
    fn value(self) -> Option<f64> {
        match self {
            Number::Is(value) => Some(value),
            _ => None,
        }
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Number, D::Error> {
        struct Any;
        impl Visitor<'_> for Any {
            type Value = Number;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a number")
            }
            fn visit_f64<E>(self, value: f64) -> Result<Number, E> {
                Ok(if value.is_finite() { Number::Is(value) } else { Number::NotFinite })
            }
            fn visit_u64<E>(self, value: u64) -> Result<Number, E> {
                Ok(Number::Is(value as f64))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Number, E> {
                Ok(Number::Is(value as f64))
            }
            fn visit_unit<E>(self) -> Result<Number, E> {
                Ok(Number::Null)
            }
            fn visit_str<E>(self, text: &str) -> Result<Number, E> {
                Ok(if is_mask(text) { Number::NotFinite } else { Number::Text })
            }
        }
        deserializer.deserialize_any(Any)
    }
}

impl Row<'_> {
    /// Whether anything in it says that it is a load.
    pub fn is_load(&self) -> bool {
        !self.model_name.is_empty() || self.loading_time != Number::Missing
    }

    fn model(&self) -> &str {
        without_replica(&self.model_name)
    }

    pub fn same_key(&self, other: &Row) -> bool {
        self.model() == other.model()
            && self.format == other.format
            && self.mode == other.mode
            && self.engine == other.engine
            && self.cache_state == other.cache_state
            && self.gpus == other.gpus
    }

    pub fn key(&self, from_name: &FileName) -> Result<GroupKey> {
        if !self.is_load() && self.error.is_none() {
            bail!("neither model_name nor loading_time");
        }
        let model = match self.model() {
            "" => from_name.model.as_str(),
            model => model,
        };
        if model.is_empty() {
            bail!("no model_name, and the file's name is not <model>_<format>_<count>_<mode>.json");
        }
        let or_unknown = |given: &str, named: &str| match (given, named) {
            ("", "") => "unknown".to_string(),
            ("", named) => named.to_string(),
            (given, _) => given.to_string(),
        };
        let mode = or_unknown(&self.mode, &from_name.mode);
        let format = or_unknown(&self.format, &from_name.format);
        let destination = self.gpus.join(",");
        Ok(GroupKey::new([model, &mode, &destination, &self.cache_state], &format, &self.engine))
    }

    pub fn load(&self, key: u32, run: u32) -> FileLoad {
        FileLoad {
            key,
            run,
            time_s: self.time_s(),
            bytes: self.bytes.value().filter(|bytes| *bytes > 0.0),
            warm_by_mistake: self.meant_cold && self.cache_state == "warm",
            verified: self.verified == Some(true),
            tokens_per_s: self.throughput.value(),
        }
    }

    pub fn has_failed(&self) -> bool {
        self.error.is_some() || self.verified == Some(false)
    }

    pub fn time_s(&self) -> Option<f64> {
        self.loading_time.value().filter(|time_s| !self.has_failed() && TIME_RANGE_S.contains(time_s))
    }

    /// Why it has no usable time, though it does not say that it failed.
    pub fn flaw(&self) -> Option<&'static str> {
        if self.has_failed() || self.time_s().is_some() {
            return None;
        }
        Some(match self.loading_time {
            Number::Missing => "missing",
            Number::Null => "null",
            Number::Text => "text",
            Number::NotFinite => "not finite",
            Number::Is(time_s) if time_s <= 0.0 => "not above 0",
            Number::Is(_) => "below 1 ns or above 1e9 s",
        })
    }

    /// Which other figure is none.
    pub fn odd_figure(&self) -> Option<&'static str> {
        let is_odd = |number: Number| match number {
            Number::Missing | Number::Null => false,
            Number::Text | Number::NotFinite => true,
            Number::Is(value) => value < 0.0,
        };
        if is_odd(self.bytes) {
            return Some("bytes");
        }
        is_odd(self.throughput).then_some("throughput")
    }
}

/// `Qwen/Qwen3-32B_0` is replica 0 of `Qwen/Qwen3-32B`.
pub fn without_replica(model_name: &str) -> &str {
    match model_name.rsplit_once('_') {
        Some((model, replica)) if !replica.is_empty() && replica.bytes().all(|b| b.is_ascii_digit()) => model,
        _ => model_name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_number_is_a_replica() {
        assert_eq!(without_replica("m_12"), "m");
        assert_eq!(without_replica("my_model"), "my_model");
        assert_eq!(without_replica("m_"), "m_");
        assert_eq!(without_replica("m_1_2"), "m_1");
        assert_eq!(without_replica(""), "");
    }
}
