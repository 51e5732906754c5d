//! One record of a load, as far as figures and tables need it, what its file's name adds, and what is wrong with it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use anyhow::{Result, bail};
use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::analyze::read::split::is_mask;

/// No load takes less or more; such a time would make nonsense of every mean.
const TIME_RANGE_S: std::ops::RangeInclusive<f64> = 1e-9..=1e9;
/// More causes than these are counted.
const MAX_CAUSES: usize = 5;

/// The part of a record that is used here; the whole is `record::result::Record`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Row<'a> {
    #[serde(borrow)]
    pub model_name: Cow<'a, str>,
    #[serde(borrow)]
    loading_time: Loose<'a>,
    #[serde(borrow)]
    error: Loose<'a>,
    #[serde(borrow)]
    format: Cow<'a, str>,
    #[serde(borrow)]
    mode: Cow<'a, str>,
    #[serde(borrow)]
    pub engine: Cow<'a, str>,
    #[serde(borrow)]
    bytes: Loose<'a>,
    #[serde(borrow)]
    pub gpus: Vec<Cow<'a, str>>,
    #[serde(borrow)]
    pub cache_state: Cow<'a, str>,
    meant_cold: bool,
    /// Whether its bytes were right; absent where they were not checked.
    pub verified: Option<bool>,
    /// Tokens a second of inference after the load, which ServerlessLLM's suite measures.
    #[serde(borrow)]
    pub throughput: Loose<'a>,
    #[serde(borrow)]
    pub run_id: Cow<'a, str>,
    #[serde(borrow)]
    iteration: Loose<'a>,
    /// The way that the bytes took.
    #[serde(borrow)]
    pub path: Loose<'a>,
    #[serde(borrow)]
    pub phases: Loose<'a>,
    #[serde(borrow)]
    pub resident_before: Loose<'a>,
    #[serde(borrow)]
    started_at_s: Loose<'a>,
}

/// What stands where a number or a text should: anything, since one odd figure takes no load with it.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Loose<'a> {
    #[default]
    Missing,
    Null,
    Text(Cow<'a, str>),
    NotFinite,
    Number(f64),
    /// An object, with its `transfer_s`: of an object only phases are used.
    Phases(Option<f64>),
    Other,
}

impl Loose<'_> {
    pub fn number(&self) -> Option<f64> {
        match self {
            Loose::Number(value) => Some(*value),
            _ => None,
        }
    }

    /// Empty where it is none.
    pub fn text(&self) -> &str {
        match self {
            Loose::Text(text) => text,
            _ => "",
        }
    }

    pub fn transfer_s(&self) -> Option<f64> {
        match self {
            Loose::Phases(transfer_s) => *transfer_s,
            _ => None,
        }
    }

    fn is_odd(&self) -> bool {
        match self {
            Loose::Missing | Loose::Null => false,
            Loose::Number(value) => *value < 0.0,
            _ => true,
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Loose<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Loose<'a>, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Loose<'de>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("anything")
            }
            fn visit_bool<E>(self, _: bool) -> Result<Loose<'de>, E> {
                Ok(Loose::Other)
            }
            fn visit_f64<E>(self, value: f64) -> Result<Loose<'de>, E> {
                Ok(if value.is_finite() { Loose::Number(value) } else { Loose::NotFinite })
            }
            fn visit_u64<E>(self, value: u64) -> Result<Loose<'de>, E> {
                Ok(Loose::Number(value as f64))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Loose<'de>, E> {
                Ok(Loose::Number(value as f64))
            }
            fn visit_unit<E>(self) -> Result<Loose<'de>, E> {
                Ok(Loose::Null)
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Loose<'de>, E> {
                Ok(if is_mask(text) { Loose::NotFinite } else { Loose::Text(text.into()) })
            }
            fn visit_str<E>(self, text: &str) -> Result<Loose<'de>, E> {
                Ok(if is_mask(text) { Loose::NotFinite } else { Loose::Text(text.to_string().into()) })
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Loose<'de>, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Loose::Other)
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Loose<'de>, A::Error> {
                let mut transfer_s = None;
                while let Some(key) = map.next_key::<Cow<str>>()? {
                    if key == "transfer_s" {
                        transfer_s = map.next_value::<Loose>()?.number();
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(Loose::Phases(transfer_s))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

impl<'a> Row<'a> {
    /// Whether anything in it says that it is a load.
    pub fn is_load(&self) -> bool {
        !self.model_name.is_empty() || self.loading_time != Loose::Missing
    }

    /// Fails where it is no load, or nothing names its model.
    pub fn check(&self, from_name: &FileName) -> Result<()> {
        if !self.is_load() && matches!(self.error, Loose::Missing | Loose::Null) {
            bail!("neither model_name nor loading_time");
        }
        if self.model(from_name).is_empty() {
            bail!("no model_name, and the file's name is not <model>_<format>_<count>_<mode>.json");
        }
        Ok(())
    }

    pub fn model<'b>(&'b self, from_name: &'b FileName) -> &'b str {
        first_of([without_replica(&self.model_name), &from_name.model, ""])
    }

    pub fn mode<'b>(&'b self, from_name: &'b FileName) -> &'b str {
        first_of([&self.mode, &from_name.mode, "unknown"])
    }

    pub fn format<'b>(&'b self, from_name: &'b FileName) -> &'b str {
        first_of([&self.format, &from_name.format, "unknown"])
    }

    pub fn bytes(&self) -> Option<f64> {
        self.bytes.number().filter(|bytes| *bytes > 0.0)
    }

    /// A whole number from 0.
    pub fn iteration(&self) -> Option<u64> {
        self.iteration.number().filter(|n| n.fract() == 0.0 && (0.0..9e15).contains(n)).map(|n| n as u64)
    }

    /// It was meant to find the page cache empty, and did not.
    pub fn warm_by_mistake(&self) -> bool {
        self.meant_cold && self.cache_state == "warm"
    }

    pub fn started_at_s(&self) -> Option<f64> {
        self.started_at_s.number().filter(|at_s| *at_s > 0.0)
    }

    fn has_failed(&self) -> bool {
        !matches!(self.error, Loose::Missing | Loose::Null) || self.verified == Some(false)
    }

    /// Absent when the load failed, gave no usable time, or delivered wrong bytes.
    pub fn time_s(&self) -> Option<f64> {
        self.loading_time.number().filter(|time_s| !self.has_failed() && TIME_RANGE_S.contains(time_s))
    }

    /// Why it has no time, in words; empty where it has one.
    pub fn why_none(&self) -> String {
        match (self.error.text(), self.flaw()) {
            ("", Some(flaw)) => format!("loading_time is {flaw}"),
            ("", None) if self.time_s().is_some() => String::new(),
            ("", None) => "failed".into(),
            (error, _) => error.to_string(),
        }
    }

    /// Why it has no usable time, though it does not say that it failed.
    pub fn flaw(&self) -> Option<&'static str> {
        if self.has_failed() || self.time_s().is_some() {
            return None;
        }
        Some(match self.loading_time {
            Loose::Missing => "missing",
            Loose::Null => "null",
            Loose::Text(_) => "text",
            Loose::NotFinite => "not finite",
            Loose::Number(time_s) if time_s <= 0.0 => "not above 0",
            Loose::Number(_) => "below 1 ns or above 1e9 s",
            Loose::Phases(_) | Loose::Other => "no number",
        })
    }

    /// Which other figure is none.
    fn odd_figure(&self) -> Option<&'static str> {
        if self.bytes.is_odd() {
            return Some("bytes");
        }
        self.throughput.is_odd().then_some("throughput")
    }
}

fn first_of(texts: [&str; 3]) -> &str {
    texts.into_iter().find(|text| !text.is_empty()).unwrap_or_default()
}

/// `Qwen/Qwen3-32B_0` is replica 0 of `Qwen/Qwen3-32B`.
fn without_replica(model_name: &str) -> &str {
    match model_name.rsplit_once('_') {
        Some((model, replica)) if !replica.is_empty() && replica.bytes().all(|b| b.is_ascii_digit()) => model,
        _ => model_name,
    }
}

/// What `{model}_{format}_{count}_{mode}.json` says, for records that do not say it themselves.
#[derive(Debug, Default, PartialEq)]
pub struct FileName {
    pub model: String,
    pub format: String,
    pub mode: String,
}

impl FileName {
    /// From the right, since a model's name may hold underscores and the other parts do not.
    pub fn parse(path: &Path) -> Option<FileName> {
        let stem = path.file_stem()?.to_string_lossy().into_owned();
        let mut parts = stem.rsplitn(4, '_');
        let (mode, count, format, model) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        count.parse::<u64>().ok()?;
        Some(FileName { model: model.into(), format: format.into(), mode: mode.into() })
    }
}

/// What is wrong with the records of one file, counted by its cause.
#[derive(Debug, Default)]
pub struct Flaws {
    /// Records of any kind.
    pub records: usize,
    /// Cause to the numbers of records that are no loads.
    left_out: BTreeMap<String, Vec<usize>>,
    /// Cause to how many loads have no usable time.
    no_time: BTreeMap<&'static str, usize>,
    /// Figure to how many loads have none that is a number.
    no_figure: BTreeMap<&'static str, usize>,
}

impl Flaws {
    /// The record that was counted last is no load.
    pub fn leave_out(&mut self, why: String) {
        self.left_out.entry(why).or_default().push(self.records);
    }

    /// It is one.
    pub fn look_at(&mut self, row: &Row) {
        if let Some(cause) = row.flaw() {
            *self.no_time.entry(cause).or_default() += 1;
        }
        if let Some(figure) = row.odd_figure() {
            *self.no_figure.entry(figure).or_default() += 1;
        }
    }

    /// A line for each kind. `place` says where a record stands, by its number from 1.
    pub fn notes(&self, place: impl Fn(usize) -> String) -> Vec<String> {
        let mut notes = Vec::new();
        if !self.left_out.is_empty() {
            let cause = |(why, records): (&String, &Vec<usize>)| {
                let first = records.first().map(|record| place(*record)).unwrap_or_default();
                let more = records.len().saturating_sub(1);
                let more = if more > 0 { format!(", and {more} more") } else { String::new() };
                format!("{why} ({first}{more})")
            };
            let mut causes: Vec<String> = self.left_out.iter().take(MAX_CAUSES).map(cause).collect();
            if self.left_out.len() > MAX_CAUSES {
                causes.push(format!("and {} other causes", self.left_out.len() - MAX_CAUSES));
            }
            let bad: usize = self.left_out.values().map(Vec::len).sum();
            notes.push(format!("{bad} of {} records are left out: {}", self.records, causes.join("; ")));
        }
        if !self.no_time.is_empty() {
            notes.push(format!(
                "{} of {} records have no usable loading_time and count as failed: {}",
                self.no_time.values().sum::<usize>(),
                self.records,
                each(&self.no_time)
            ));
        }
        if !self.no_figure.is_empty() {
            let figures = each(&self.no_figure);
            notes.push(format!("figures that are no numbers are left out, their loads are kept: {figures}"));
        }
        notes
    }
}

fn each(counts: &BTreeMap<&str, usize>) -> String {
    counts.iter().map(|(what, count)| format!("{count} {what}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_number_is_a_replica() {
        let pairs = [("m_12", "m"), ("my_model", "my_model"), ("m_", "m_"), ("m_1_2", "m_1"), ("", "")];
        pairs.iter().for_each(|(name, model)| assert_eq!(without_replica(name), *model));
    }

    #[test]
    fn file_names_are_parsed_from_the_right() {
        let parsed = FileName::parse(Path::new("a_b_5_c_safetensors-direct_30_random.json")).unwrap();
        let expected =
            FileName { model: "a_b_5_c".into(), format: "safetensors-direct".into(), mode: "random".into() };
        assert_eq!(parsed, expected);
        for bad in ["x.json", "a_sllm_five_cached.json", "sllm_5_cached.json", ""] {
            assert_eq!(FileName::parse(Path::new(bad)), None, "{bad}");
        }
    }
}
