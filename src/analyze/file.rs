//! One result file to loads: all that can be read of it, and what has to be said of the rest.

use std::fs;
use std::path::Path;

use anyhow::{Context, Error, Result, anyhow, bail};

use crate::analyze::file_name::FileName;
use crate::analyze::loads::{Loads, add};
use crate::analyze::row::Row;
use crate::analyze::salvage::{holds_no_loads, salvage};

/// What a file holds.
#[derive(Debug)]
pub enum Content {
    Loads(Loads),
    /// JSON, but no loads: a verification, a ceiling, another program's.
    Other,
    /// It should hold loads and does not.
    Damaged(Error),
}

pub fn read(path: &Path) -> Content {
    let from_name = FileName::parse(path);
    let bytes = match bytes_of(path) {
        Ok(bytes) => bytes,
        Err(error) => return Content::Damaged(error),
    };
    let content = match serde_json::from_slice::<Vec<Row>>(&bytes) {
        Ok(rows) if from_name.is_none() && !rows.iter().any(Row::is_load) => return Content::Other,
        Ok(rows) => {
            let mut loads = Loads { loads: Vec::with_capacity(rows.len()), ..Loads::default() };
            let rows = rows.into_iter().map(Ok);
            add(&mut loads, rows, &from_name.unwrap_or_default(), |record| format!("record {record}"));
            if loads.loads.is_empty() && !loads.notes.is_empty() {
                Err(anyhow!("{}", loads.notes.join("; ")))
            } else {
                Ok(loads)
            }
        }
        Err(_) if from_name.is_none() && holds_no_loads(&bytes) => return Content::Other,
        Err(error) => salvage(&bytes, from_name.as_ref()).map_err(|why| why.unwrap_or(error.into())),
    };
    match content {
        Ok(loads) => Content::Loads(loads),
        Err(error) => {
            let what = format!("{} is damaged, or not an array of load records", path.display());
            Content::Damaged(error.context(what))
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyze::group_key::GroupKey;

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
        assert_eq!(found.keys, [GroupKey::new(["m", "cached", "", ""], "sllm", "")]);
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
        assert_eq!(*key, GroupKey::new(["a/b", "random", "0,1", "warm"], "safetensors", "baseline-rust"));
        assert_eq!(key.title(), "a/b, random, to GPU 0,1, page cache warm: safetensors (baseline-rust)");
        assert!(first.warm_by_mistake && !second.warm_by_mistake);
        assert_eq!(first.bytes, Some(7.0));
        assert_eq!(found.keys[second.key as usize], GroupKey::new(["a/b", "cached", "", ""], "sllm", ""));
        assert_eq!(
            (found.run_ids[first.run as usize].as_str(), found.run_ids[second.run as usize].as_str()),
            ("r", "")
        );
    }

    #[test]
    fn damage_is_an_error_with_its_place() {
        let deep = "[".repeat(10_000);
        let cases = [
            ("odd.json", "[{\"model_name\": \"m\",", "line 1 column 20"),
            (
                "odd.json",
                "[{\"loading_time\": 1, \"loading_time\": 2}]",
                "duplicate field `loading_time` (record 1, line 1",
            ),
            ("m_sllm_1_cached.json", "{}", "neither model_name nor loading_time (record 1, line 1"),
            ("m_sllm_1_cached.json", "[[1]]", "not an object (record 1, line 1 column 2)"),
            ("odd.json", "", "line 1"),
            ("odd.json", "[\n{\"loading_time\": NaN}]", "no model_name, and the file's name is not"),
            ("odd.json", "[{\"loading_time\": 1}]", "(record 1)"),
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
        for text in [
            "{}",
            "[]",
            "[1, 2]",
            "{\"verified\": true}",
            "[{\"gb_per_s\": 3}]",
            "[{\"bytes\": -1}]",
            "7",
            "{\"a\": NaN}\n{}",
        ] {
            assert!(matches!(content("verify.json", text), Content::Other), "{text}");
        }
        assert!(loads("m_sllm_0_cached.json", "[]").loads.is_empty());
    }
}
