//! A run's loads in the results folder, where `analyze` finds them, and what earlier runs left there.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Map, Value};

use crate::record::environment;
use crate::record::result::{Record, result_path, write_records};

/// How the files of both kinds of load end, and whether they hold cold ones. No number of loads, which differs from run
/// to run.
const MODES: [(&str, bool); 2] = [("qualify-cold", true), ("qualify-warm", false)];

/// Writes a run's records, then removes all that earlier runs of `qualify` left: their model or loads may be others, and
/// one run's warm loads beside another's cold ones would read as one run. In this order, so that no failure leaves none.
pub fn write(results: &Path, model: &str, cold: &[Record], warm: &[Record]) -> Result<()> {
    let new = files(results, model, cold, warm);
    for (path, records) in &new {
        write_records(path, records)?;
    }
    let runs = environment::read(results)?;
    for path in others(results, &new)?.into_iter().filter(|path| is_ours(path, &runs)) {
        fs::remove_file(&path).with_context(|| format!("remove the earlier {}", path.display()))?;
    }
    Ok(())
}

/// What [`write`] will leave although its name is that of a run's records: a note for each.
pub fn left(results: &Path, model: &str, cold: &[Record], warm: &[Record]) -> Result<Vec<String>> {
    let runs = environment::read(results)?;
    let mut left = others(results, &files(results, model, cold, warm))?;
    left.retain(|path| !is_ours(path, &runs));
    let note = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        format!("{name} is left as it is: {} knows no run of qualify that wrote it", environment::FILE)
    };
    Ok(left.iter().map(note).collect())
}

/// The files of this run.
fn files<'a>(
    results: &Path,
    model: &str,
    cold: &'a [Record],
    warm: &'a [Record],
) -> Vec<(PathBuf, &'a [Record])> {
    let path = |mode: &str| result_path(results, model, "sllm", 1, mode);
    let of_modes = MODES.iter().zip([cold, warm]).filter(|(_, records)| !records.is_empty());
    of_modes.map(|((mode, _), records)| (path(mode), records)).collect()
}

/// The files that are named as a run's records are, without those of this run.
fn others(results: &Path, new: &[(PathBuf, &[Record])]) -> Result<Vec<PathBuf>> {
    let at = || format!("list {}", results.display());
    let mut others = Vec::new();
    for entry in fs::read_dir(results).with_context(at)? {
        let path = entry.with_context(at)?.path();
        if is_cold(&path).is_some() && path.is_file() && !new.iter().any(|(new, _)| *new == path) {
            others.push(path);
        }
    }
    others.sort();
    Ok(others)
}

/// Whether a file is for cold loads, by its name; `None` of one that is not named as records of `qualify` are.
fn is_cold(path: &Path) -> Option<bool> {
    let name = path.file_name()?.to_str()?;
    let (_, is_cold) = MODES.iter().find(|(mode, _)| name.ends_with(&format!("_sllm_1_{mode}.json")))?;
    Some(*is_cold)
}

/// Whether a run that wrote to this folder wrote this file: a name alone may be a user's. `runs` are its environments.
fn is_ours(path: &Path, runs: &Map<String, Value>) -> bool {
    let records = fs::read(path).ok().and_then(|text| serde_json::from_slice::<Vec<Record>>(&text).ok());
    let is_known = |r: &Record| runs.contains_key(&r.run_id) && Some(r.meant_cold) == is_cold(path);
    records.is_some_and(|records| !records.is_empty() && records.iter().all(is_known))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// One load of a run.
    fn load(run_id: &str, meant_cold: bool) -> [Record; 1] {
        [Record { run_id: run_id.into(), meant_cold, ..Record::default() }]
    }

    fn names(dir: &Path) -> Vec<String> {
        let name = |entry: fs::DirEntry| entry.file_name().into_string().unwrap();
        let mut names: Vec<String> = fs::read_dir(dir).unwrap().map(|entry| name(entry.unwrap())).collect();
        names.sort();
        names
    }

    #[test]
    fn no_record_of_an_earlier_run_stays_and_every_other_file_does() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let others = [
            "environment.json",
            "m_sllm_1_cached.json",
            "m_sllm_3_random_cold.json",
            "my_qualify-warm.json",
            "qualify-warm.json",
        ];
        for name in others {
            fs::write(dir.join(name), "mine").unwrap();
        }
        fs::write(dir.join("environment.json"), json!({ "1": {}, "2": {} }).to_string()).unwrap();
        write(dir, "org/old", &load("1", true), &load("1", false)).unwrap();
        assert_eq!(names(dir).len(), others.len() + 2);
        // The second run, of another model, was interrupted before its warm loads.
        write(dir, "org/new", &load("2", true), &[]).unwrap();
        let mut expected = others.map(str::to_string).to_vec();
        expected.push("org_new_sllm_1_qualify-cold.json".into());
        expected.sort();
        assert_eq!(names(dir), expected);
        assert_eq!(left(dir, "", &[], &[]).unwrap(), Vec::<String>::new());
        write(dir, "", &[], &[]).unwrap();
        assert_eq!(names(dir), others);
    }

    #[test]
    fn a_file_that_no_run_wrote_is_left_and_noted_whatever_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        fs::write(dir.join("environment.json"), json!({ "1": {} }).to_string()).unwrap();
        let at = |model: &str, mode: &str| result_path(dir, model, "sllm", 1, mode);
        fs::write(at("a", "qualify-cold"), "my notes").unwrap();
        fs::write(at("b", "qualify-cold"), "[]").unwrap();
        fs::write(at("c", "qualify-warm"), "[{}]").unwrap();
        write_records(&at("d", "qualify-cold"), &load("of another folder", true)).unwrap();
        write_records(&at("e", "qualify-cold"), &load("1", false)).unwrap();
        write_records(&at("f", "qualify-cold"), &load("1", true)).unwrap();
        let notes = left(dir, "m", &load("1", true), &[]).unwrap();
        assert_eq!(notes.len(), 5, "{notes:?}");
        assert!(notes[0].starts_with("a_sllm_1_qualify-cold.json is left as it is"), "{notes:?}");
        write(dir, "m", &load("1", true), &[]).unwrap();
        let stay: Vec<String> = names(dir).iter().map(|name| name[..2].to_string()).collect();
        assert_eq!(stay, ["a_", "b_", "c_", "d_", "e_", "en", "m_"], "an earlier run wrote that of f");
    }

    #[test]
    fn what_can_not_be_written_removes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        fs::write(dir.join("environment.json"), json!({ "1": {} }).to_string()).unwrap();
        write(dir, "old", &load("1", true), &load("1", false)).unwrap();
        // No file can take a directory's place.
        fs::create_dir(result_path(dir, "new", "sllm", 1, "qualify-warm")).unwrap();
        assert!(write(dir, "new", &load("1", true), &load("1", false)).is_err());
        assert_eq!(names(dir).iter().filter(|name| name.starts_with("old_")).count(), 2);
    }
}
