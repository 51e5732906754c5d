//! One result file to loads.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Error, Result, bail};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::key::Key;

/// What a file holds.
#[derive(Debug)]
pub enum Content {
    Loads(Loads),
    /// JSON, but no loads: a verification, a ceiling, another program's.
    Other,
    /// It should hold loads and does not.
    Damaged(Error),
}

/// Names are kept once a file: nearly always one key and one run.
#[derive(Debug, Default)]
pub struct Loads {
    pub keys: Vec<Key>,
    pub run_ids: Vec<String>,
    pub loads: Vec<FileLoad>,
}

/// One load; `key` and `run` are indices into `Loads`.
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

/// The part of a record that figures need; the whole is `bench::record::Record`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Row<'a> {
    #[serde(borrow)]
    model_name: Cow<'a, str>,
    loading_time: Option<f64>,
    error: Option<IgnoredAny>,
    #[serde(borrow)]
    format: Cow<'a, str>,
    #[serde(borrow)]
    mode: Cow<'a, str>,
    #[serde(borrow)]
    engine: Cow<'a, str>,
    bytes: u64,
    #[serde(borrow)]
    gpus: Vec<Cow<'a, str>>,
    #[serde(borrow)]
    cache_state: Cow<'a, str>,
    meant_cold: bool,
    verified: Option<bool>,
    throughput: Option<f64>,
    #[serde(borrow)]
    run_id: Cow<'a, str>,
}

impl Row<'_> {
    /// Whether anything in it says that it is a load.
    fn is_load(&self) -> bool {
        !self.model_name.is_empty() || self.loading_time.is_some()
    }

    fn model(&self) -> &str {
        without_replica(&self.model_name)
    }

    fn same_key(&self, other: &Row) -> bool {
        self.model() == other.model()
            && self.format == other.format
            && self.mode == other.mode
            && self.engine == other.engine
            && self.cache_state == other.cache_state
            && self.gpus == other.gpus
    }

    fn key(&self, from_name: &FileName) -> Result<Key> {
        let model = match self.model() {
            "" => from_name.model.as_str(),
            model => model,
        };
        if model.is_empty() {
            bail!("has no model_name, and the file's name is not <model>_<format>_<count>_<mode>.json");
        }
        let or_unknown = |given: &str, named: &str| match (given, named) {
            ("", "") => "unknown".to_string(),
            ("", named) => named.to_string(),
            (given, _) => given.to_string(),
        };
        let mode = or_unknown(&self.mode, &from_name.mode);
        let format = or_unknown(&self.format, &from_name.format);
        let destination = self.gpus.join(",");
        Ok(Key::new([model, &mode, &destination, &self.cache_state], &format, &self.engine))
    }

    fn load(&self, key: u32, run: u32) -> FileLoad {
        let failed = self.error.is_some() || self.verified == Some(false);
        FileLoad {
            key,
            run,
            time_s: self.loading_time.filter(|time_s| !failed && time_s.is_finite() && *time_s > 0.0),
            bytes: (self.bytes > 0).then_some(self.bytes as f64),
            warm_by_mistake: self.meant_cold && self.cache_state == "warm",
            verified: self.verified == Some(true),
            tokens_per_s: self.throughput,
        }
    }
}

pub fn read(path: &Path) -> Content {
    let from_name = FileName::parse(path);
    let bytes = match bytes_of(path) {
        Ok(bytes) => bytes,
        Err(error) => return Content::Damaged(error),
    };
    let rows: Vec<Row> = match serde_json::from_slice(&bytes) {
        Ok(rows) => rows,
        Err(_) if from_name.is_none() && holds_no_loads(&bytes) => return Content::Other,
        Err(error) => {
            let what = format!("{} is damaged, or not an array of load records", path.display());
            return Content::Damaged(Error::new(error).context(what));
        }
    };
    if from_name.is_none() && !rows.iter().any(Row::is_load) {
        return Content::Other;
    }
    match to_loads(&rows, &from_name.unwrap_or_default()) {
        Ok(loads) => Content::Loads(loads),
        Err(error) => Content::Damaged(error.context(format!("{} is damaged", path.display()))),
    }
}

/// More of one file is no list of loads, and would not fit memory when parsed.
const FILE_BYTES_MAX: u64 = 512 << 20;

/// A file's bytes, if it is one: a pipe would be waited for, a device never ends.
pub fn bytes_of(path: &Path) -> Result<Vec<u8>> {
    let at = || format!("read {}", path.display());
    let facts = fs::metadata(path).with_context(at)?;
    if !facts.is_file() {
        bail!("{} is no regular file", path.display());
    }
    if facts.len() > FILE_BYTES_MAX {
        bail!(
            "{} has {} bytes, more than the {FILE_BYTES_MAX} that are read of one",
            path.display(),
            facts.len()
        );
    }
    fs::read(path).with_context(at)
}

/// Whole JSON of another shape. What breaks off in the middle is taken for damage.
fn holds_no_loads(bytes: &[u8]) -> bool {
    match serde_json::from_slice::<Vec<HashMap<String, IgnoredAny>>>(bytes) {
        Ok(items) => !items.iter().any(|i| i.contains_key("model_name") || i.contains_key("loading_time")),
        Err(_) => serde_json::from_slice::<IgnoredAny>(bytes).is_ok(),
    }
}

fn to_loads(rows: &[Row], from_name: &FileName) -> Result<Loads> {
    let mut found = Loads { loads: Vec::with_capacity(rows.len()), ..Loads::default() };
    let (mut key, mut run) = (0, 0);
    for (index, row) in rows.iter().enumerate() {
        let before = index.checked_sub(1).and_then(|before| rows.get(before));
        if before.is_none_or(|before| !row.same_key(before)) {
            let new = row.key(from_name).with_context(|| format!("record {index}"))?;
            key = index_of(&mut found.keys, new);
        }
        if before.is_none_or(|before| row.run_id != before.run_id) {
            run = index_of(&mut found.run_ids, row.run_id.to_string());
        }
        found.loads.push(row.load(key, run));
    }
    Ok(found)
}

fn index_of<T: PartialEq>(known: &mut Vec<T>, item: T) -> u32 {
    let index = known.iter().position(|other| *other == item).unwrap_or_else(|| {
        known.push(item);
        known.len() - 1
    });
    index as u32
}

/// `Qwen/Qwen3-32B_0` is replica 0 of `Qwen/Qwen3-32B`.
pub fn without_replica(model_name: &str) -> &str {
    match model_name.rsplit_once('_') {
        Some((model, replica)) if !replica.is_empty() && replica.bytes().all(|b| b.is_ascii_digit()) => model,
        _ => model_name,
    }
}

/// What `{model}_{format}_{count}_{mode}.json` says, for records that do not say it themselves.
#[derive(Debug, Default, PartialEq)]
struct FileName {
    model: String,
    format: String,
    mode: String,
}

impl FileName {
    /// From the right, since a model's name may hold underscores and the other parts do not.
    fn parse(path: &Path) -> Option<FileName> {
        let stem = path.file_stem()?.to_string_lossy().into_owned();
        let mut parts = stem.rsplitn(4, '_');
        let (mode, count, format, model) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        count.parse::<u64>().ok()?;
        Some(FileName { model: model.into(), format: format.into(), mode: mode.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(name: &str, text: &str) -> Content {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        read(&path)
    }

    fn loads(name: &str, text: &str) -> Loads {
        match content(name, text) {
            Content::Loads(loads) => loads,
            other => panic!("{other:?}"),
        }
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

    #[test]
    fn only_a_number_is_a_replica() {
        assert_eq!(without_replica("m_12"), "m");
        assert_eq!(without_replica("my_model"), "my_model");
        assert_eq!(without_replica("m_"), "m_");
        assert_eq!(without_replica("m_1_2"), "m_1");
        assert_eq!(without_replica(""), "");
    }

    #[test]
    fn a_record_counts_only_with_a_usable_time() {
        let text = r#"[{"model_name":"m_0","loading_time":2.0},
            {"model_name":"m_0","loading_time":0}, {"model_name":"m_0","loading_time":-1},
            {"model_name":"m_0"}, {"model_name":"m_0","loading_time":null},
            {"model_name":"m_0","loading_time":2.0,"error":"no space"},
            {"model_name":"m_0","loading_time":2.0,"verified":false},
            {"model_name":"m_0","loading_time":2.0,"verified":true,"error":null}]"#;
        let found = loads("m_sllm_8_cached.json", text);
        let times: Vec<Option<f64>> = found.loads.iter().map(|load| load.time_s).collect();
        assert_eq!(times, [Some(2.0), None, None, None, None, None, None, Some(2.0)]);
        assert_eq!(found.loads.iter().filter(|load| load.verified).count(), 1);
        assert_eq!(found.keys, [Key::new(["m", "cached", "", ""], "sllm", "")]);
        assert_eq!(found.run_ids, [""]);
    }

    #[test]
    fn a_record_is_believed_before_the_file_name() {
        let text = r#"[{"model_name":"a/b_3","format":"safetensors","mode":"random","gpus":["0","1"],"run_id":"r",
            "cache_state":"warm","meant_cold":true,"engine":"baseline-rust","loading_time":1,"bytes":7},
            {"model_name":"a/b_4","loading_time":1}]"#;
        let found = loads("x_sllm_1_cached.json", text);
        let (first, second) = (found.loads[0], found.loads[1]);
        let key = &found.keys[first.key as usize];
        assert_eq!(*key, Key::new(["a/b", "random", "0,1", "warm"], "safetensors", "baseline-rust"));
        assert_eq!(key.title(), "a/b, random, to GPU 0,1, page cache warm: safetensors (baseline-rust)");
        assert!(first.warm_by_mistake && !second.warm_by_mistake);
        assert_eq!(first.bytes, Some(7.0));
        assert_eq!(found.keys[second.key as usize], Key::new(["a/b", "cached", "", ""], "sllm", ""));
        assert_eq!(
            (found.run_ids[first.run as usize].as_str(), found.run_ids[second.run as usize].as_str()),
            ("r", "")
        );
    }

    #[test]
    fn damage_is_an_error_with_its_place() {
        let deep = "[".repeat(10_000);
        let cases = [
            ("odd.json", "[{\"model_name\": \"m\",", "line 1"),
            ("odd.json", "[\n{\"loading_time\": NaN}]", "line 2 column 18"),
            ("odd.json", "[{\"loading_time\": 1e999}]", "line 1"),
            ("odd.json", "[{\"loading_time\": \"inf\"}]", "line 1"),
            ("odd.json", "[{\"loading_time\": 1, \"loading_time\": 2}]", "duplicate"),
            ("odd.json", "[{\"model_name\": \"m\", \"bytes\": -1}]", "line 1"),
            ("m_sllm_1_cached.json", "{}", "line 1"),
            ("odd.json", "", "line 1"),
            ("odd.json", "[{\"loading_time\": 1}]", "record 0: has no model_name"),
            ("odd.json", deep.as_str(), "line 1"),
        ];
        for (name, text, expected) in cases {
            let Content::Damaged(error) = content(name, text) else { panic!("{text}") };
            let error = format!("{error:#}");
            assert!(error.contains(expected) && error.contains(name), "{text}: {error}");
        }
    }

    #[test]
    fn other_json_is_no_damage() {
        for text in
            ["{}", "[]", "[1, 2]", "{\"verified\": true}", "[{\"gb_per_s\": 3}]", "[{\"bytes\": -1}]", "7"]
        {
            assert!(matches!(content("verify.json", text), Content::Other), "{text}");
        }
        assert!(loads("m_sllm_0_cached.json", "[]").loads.is_empty());
    }
}
