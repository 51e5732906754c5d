//! Result files to loads: finds the files, reads the records, says of each load which group it belongs to.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::bench::record::Record;

/// Stand beside result files and are not results: skipped without a word.
const OURS_BUT_NO_RESULTS: [&str; 2] = ["environment.json", "summary.json"];

/// What loads must have in common to be averaged. The derived order is the order of every output, once
/// `format_rank` has put the baseline last.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Key {
    /// Without the replica's suffix.
    pub model: String,
    pub mode: String,
    /// `host`, or GPUs as given: `0,1`; empty when the record does not say.
    pub destination: String,
    /// `warm`, `cold`, `unknown`; empty when the record does not say.
    pub cache_state: String,
    #[serde(skip)]
    format_rank: u8,
    pub format: String,
    /// What was asked for; empty when the record does not say.
    pub engine: String,
}

impl Key {
    pub fn new(section: [&str; 4], format: &str, engine: &str) -> Key {
        let [model, mode, destination, cache_state] = section.map(printable);
        Key {
            model,
            mode,
            destination,
            cache_state,
            format_rank: u8::from(format == "safetensors"),
            format: printable(format),
            engine: printable(engine),
        }
    }

    pub fn is_baseline(&self) -> bool {
        self.format_rank > 0
    }

    /// Model, mode, destination and cache state: what formats must share to be compared.
    pub fn section(&self) -> [&str; 4] {
        [&self.model, &self.mode, &self.destination, &self.cache_state]
    }

    /// The section in words: `facebook/opt-125m, cached, to GPU 0, page cache warm`.
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
        parts.join(", ")
    }

    /// The group in words.
    pub fn title(&self) -> String {
        let engine = if self.engine.is_empty() { String::new() } else { format!(" ({})", self.engine) };
        format!("{}: {}{engine}", self.section_title(), self.format)
    }
}

/// One record, as far as statistics go.
#[derive(Debug, Clone)]
pub struct Load {
    pub key: Key,
    /// Absent when the load failed, gave no usable time, or delivered wrong bytes.
    pub time_s: Option<f64>,
    pub bytes: Option<f64>,
    /// It was meant to find the page cache empty, and did not.
    pub warm_by_mistake: bool,
    /// Names the run; empty when the record does not say.
    pub run_id: String,
}

/// Everything that could be read, and what has to be said about the rest.
#[derive(Debug, Default)]
pub struct Input {
    pub loads: Vec<Load>,
    pub notes: Vec<String>,
}

/// Reads files, and directories with what lies below them. A file that cannot be used is named in the notes.
/// Fails where a path does not exist, or where nothing at all could be read.
pub fn read(paths: &[PathBuf]) -> Result<Input> {
    let mut input = Input::default();
    let mut files = Vec::new();
    for path in paths {
        let about = fs::metadata(path).with_context(|| {
            format!(
                "read results from {}; `sllm-gds bench` writes them, by default to ./results",
                path.display()
            )
        })?;
        if about.is_dir() {
            collect(path, &mut files, &mut input.notes)?;
        } else {
            files.push(path.clone());
        }
    }
    // A file named twice, or named beside its directory, counts once.
    let mut seen = BTreeSet::new();
    files.retain(|file| seen.insert(fs::canonicalize(file).unwrap_or_else(|_| file.clone())));

    for file in &files {
        match read_file(file) {
            Ok(loads) if loads.is_empty() => {
                input.notes.push(format!("{}: holds no records", file.display()))
            }
            Ok(loads) => input.loads.extend(loads),
            Err(error) => input.notes.push(format!("{error:#}; skipped")),
        }
    }
    if input.loads.is_empty() {
        let names: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
        let why = match input.notes.as_slice() {
            [] => "there is no *.json file; `sllm-gds bench --results DIR` writes them".to_string(),
            notes => notes.join("\n  "),
        };
        bail!("no results could be read from {}:\n  {why}", names.join(", "));
    }
    Ok(input)
}

/// Adds the `*.json` files of a directory and of those below it, in order of their names. Links to
/// directories are not followed, so there are no cycles.
fn collect(dir: &Path, files: &mut Vec<PathBuf>, notes: &mut Vec<String>) -> Result<()> {
    let entries = fs::read_dir(dir).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
    let mut entries = entries.with_context(|| format!("list {}", dir.display()))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if name.starts_with('.') || OURS_BUT_NO_RESULTS.contains(&name.as_ref()) {
            continue;
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if let Err(error) = collect(&path, files, notes) {
                notes.push(format!("{error:#}; skipped"));
            }
        } else if name.ends_with(".json") {
            files.push(path);
        }
    }
    Ok(())
}

fn read_file(path: &Path) -> Result<Vec<Load>> {
    let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    let records: Vec<Record> = serde_json::from_slice(&bytes)
        .with_context(|| format!("{} is damaged, or not an array of load records", path.display()))?;
    let from_name = FileName::parse(path).unwrap_or_default();
    let to_load = |(index, record)| {
        load_from(record, &from_name).with_context(|| format!("{}: record {index}", path.display()))
    };
    records.iter().enumerate().map(to_load).collect()
}

fn load_from(record: &Record, from_name: &FileName) -> Result<Load> {
    let model = match without_replica(&record.model_name) {
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
    let mode = or_unknown(&record.mode, &from_name.mode);
    let format = or_unknown(&record.format, &from_name.format);
    let destination = record.gpus.join(",");
    let key = Key::new([model, &mode, &destination, &record.cache_state], &format, &record.engine);
    let failed = record.error.is_some() || record.verified == Some(false);
    Ok(Load {
        key,
        time_s: record.loading_time.filter(|time_s| !failed && time_s.is_finite() && *time_s > 0.0),
        bytes: (record.bytes > 0).then_some(record.bytes as f64),
        warm_by_mistake: record.meant_cold && record.cache_state == "warm",
        run_id: record.run_id.clone(),
    })
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

/// Control characters would let a record repaint the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(name: &str, text: &str) -> Result<Vec<Load>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        read_file(&path)
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
            {"model_name":"m_0","loading_time":2.0,"verified":true}]"#;
        let loads = read_text("m_sllm_8_cached.json", text).unwrap();
        let times: Vec<Option<f64>> = loads.iter().map(|load| load.time_s).collect();
        assert_eq!(times, [Some(2.0), None, None, None, None, None, None, Some(2.0)]);
        assert!(loads.iter().all(|load| load.key == Key::new(["m", "cached", "", ""], "sllm", "")));
    }

    #[test]
    fn a_record_is_believed_before_the_file_name() {
        let text = r#"[{"model_name":"a/b_3","format":"safetensors","mode":"random","gpus":["0","1"],
            "cache_state":"warm","meant_cold":true,"engine":"baseline-rust","loading_time":1,"bytes":7}]"#;
        let load = &read_text("x_sllm_1_cached.json", text).unwrap()[0];
        assert_eq!(load.key, Key::new(["a/b", "random", "0,1", "warm"], "safetensors", "baseline-rust"));
        assert_eq!(load.key.title(), "a/b, random, to GPU 0,1, page cache warm: safetensors (baseline-rust)");
        assert!(load.warm_by_mistake);
        assert_eq!(load.bytes, Some(7.0));
    }

    #[test]
    fn damage_is_an_error_with_its_place() {
        let deep = "[".repeat(10_000);
        let cases = [
            ("[{\"model_name\": \"m\",", "line 1"),
            ("[\n{\"loading_time\": NaN}]", "line 2 column 18"),
            ("[{\"loading_time\": 1e999}]", "line 1"),
            ("[{\"loading_time\": \"inf\"}]", "line 1"),
            ("[{\"loading_time\": 1, \"loading_time\": 2}]", "duplicate"),
            ("[{\"bytes\": -1}]", "line 1"),
            ("{}", "line 1"),
            ("", "line 1"),
            ("[{\"loading_time\": 1}]", "record 0: has no model_name"),
            (deep.as_str(), "line 1"),
        ];
        for (text, expected) in cases {
            let error = format!("{:#}", read_text("odd.json", text).unwrap_err());
            assert!(error.contains(expected) && error.contains("odd.json"), "{text}: {error}");
        }
    }

    #[test]
    fn directories_are_read_through_and_each_file_once() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("host-2026").join("run");
        fs::create_dir_all(&below).unwrap();
        let record = r#"[{"model_name":"m_0","loading_time":1.0}]"#;
        fs::write(dir.path().join("m_sllm_1_cached.json"), record).unwrap();
        fs::write(below.join("m_sllm_1_random.json"), record).unwrap();
        fs::write(below.join("environment.json"), "{}").unwrap();
        fs::write(below.join("other.json"), "{}").unwrap();
        fs::write(below.join("empty_sllm_1_cached.json"), "[]").unwrap();
        fs::write(below.join("notes.txt"), "x").unwrap();
        std::os::unix::fs::symlink(dir.path(), below.join("loop")).unwrap();
        let input = read(&[dir.path().into(), below.clone(), below.join("m_sllm_1_random.json")]).unwrap();
        assert_eq!(input.loads.len(), 2);
        assert_eq!(input.notes.len(), 2, "{:?}", input.notes);
        assert!(input.notes[0].contains("empty_sllm") && input.notes[0].contains("no records"));
        assert!(input.notes[1].contains("other.json") && input.notes[1].contains("line 1 column 0"));
    }

    #[test]
    fn nothing_to_read_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let error = |path: PathBuf| format!("{:#}", read(&[path]).unwrap_err());
        assert!(error(dir.path().into()).contains("no *.json file"));
        assert!(error(dir.path().join("absent")).contains("No such file"));
        fs::write(dir.path().join("m_sllm_0_cached.json"), "[]").unwrap();
        assert!(error(dir.path().into()).contains("holds no records"));
    }

    #[test]
    fn names_cannot_paint_the_terminal() {
        assert_eq!(printable("a\u{1b}[31mb\nc"), "a\u{fffd}[31mb\u{fffd}c");
    }
}
