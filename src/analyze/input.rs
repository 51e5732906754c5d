//! Result files to the frame of loads, the machines that they are of, and what has to be said about the rest.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Result, bail};
use polars::prelude::*;

use crate::analyze::frame::{Columns, distinct, rows};
use crate::analyze::key::{SECTION, printable};
use crate::analyze::read::file;
use crate::analyze::read::file::Content;
use crate::analyze::read::find;
use crate::analyze::read::find::File;
use crate::analyze::read::hosts;
use crate::analyze::read::hosts::{Hosts, UNNAMED};
use crate::analyze::read::identity::unnamed_note;
use crate::analyze::read::qualified;
use crate::os::parallel;
use crate::os::text;

/// Files that one thread turns into rows before it takes others.
const FILES_AT_ONCE: usize = 256;

/// Everything that could be read, and what has to be said about the rest.
#[derive(Debug)]
pub struct Input {
    /// See [`Columns`]. Texts that a record does not have are empty.
    pub loads: DataFrame,
    /// Every machine that loaded, or that is described beside.
    pub hosts: Hosts,
    pub notes: Vec<String>,
}

impl Input {
    /// Hosts with at least one load, or a verdict of `qualify`.
    pub fn host_count(&self) -> Result<usize> {
        let mut names = distinct(&self.loads, "host")?;
        let qualified = self.hosts.hosts.iter().filter(|host| !host.verdicts.is_empty());
        names.extend(qualified.map(|host| host.name.clone()));
        Ok(names.len())
    }

    /// Whether nothing names a host for any of its loads.
    pub fn names_no_host(&self) -> Result<bool> {
        Ok(distinct(&self.loads, "host")?.iter().all(|host| host == UNNAMED))
    }

    /// For loads of one host, whose name then says nothing.
    pub fn forget_host(&mut self) -> Result<()> {
        let empty = StringChunked::full("host".into(), "", self.loads.height());
        self.loads.with_column(empty.into_column())?;
        Ok(())
    }
}

/// Reads files, and directories with what lies below them. A file that cannot be used is named in the notes.
/// Fails where a path does not exist, or where nothing at all could be read.
pub fn read(paths: &[PathBuf]) -> Result<Input> {
    let found = find::find(paths)?;
    let mut notes = found.notes;
    let records = read_verdicts(&found.verdicts, &mut notes);
    let mut hosts = hosts::read(&found.folders, &records);
    let verdicts = records.len();
    for (folder, record) in records {
        hosts.qualify(folder, &record.run_id, record.qualified);
    }

    let folder = |file: &File| found.folders.get(file.folder).map_or("", |folder| folder.name.as_str());
    let chunks: Vec<&[File]> = found.files.chunks(FILES_AT_ONCE).collect();
    let parts = parallel::map(&chunks, |files| {
        let mut columns = Columns::empty();
        let see = |file: &File| {
            let (at, folder) = (file.folder, folder(file));
            file::read(&file.path, |row, name| columns.add(row, name, hosts.of_run(at, &row.run_id), folder))
        };
        let contents: Vec<Content> = files.iter().map(see).collect();
        Ok((columns.frame()?, contents))
    });
    let parts = parts.into_iter().collect::<Result<Vec<(DataFrame, Vec<Content>)>>>()?;
    let mut loads = Columns::empty().frame()?;
    let mut others = Vec::new();
    let contents = parts.into_iter().map(|(frame, contents)| {
        loads.vstack_mut(&frame)?;
        Ok(contents)
    });
    let contents = contents.collect::<Result<Vec<_>>>()?.into_iter().flatten();
    for (file, content) in found.files.iter().zip(contents) {
        let path = file.path.display();
        match content {
            Content::Loads(0, _) => notes.push(format!("{path}: holds no records")),
            Content::Loads(_, flaws) => notes.extend(flaws.iter().map(|note| format!("{path}: {note}"))),
            Content::Other => others.push(path.to_string()),
            Content::Damaged(error) => notes.push(format!("{error:#}; skipped")),
        }
    }
    if let Some(first) = others.first() {
        notes.push(format!("{} other JSON files hold no loads: skipped ({first}, …)", others.len()));
    }
    if loads.height() == 0 && verdicts == 0 {
        let names: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
        let why = match notes.as_slice() {
            [] => "there is no *.json file; `sllm-gds bench` writes them".to_string(),
            notes => text::in_short(notes),
        };
        bail!("no results could be read from {}: {why}", names.join(", "));
    }
    loads.rechunk_mut_par();
    hosts.mark(&distinct(&loads, "host")?);
    notes.append(&mut hosts.notes);
    notes.extend(unnamed_folders(&loads)?);
    // They hold names of files and what parsers cite.
    let notes = notes.iter().map(|note| printable(note)).collect();
    Ok(Input { loads, hosts, notes })
}

/// By their folder. One that can't be read is named in the notes.
fn read_verdicts(files: &[File], notes: &mut Vec<String>) -> BTreeMap<usize, qualified::QualifyRecord> {
    let contents = parallel::map(files, |file| qualified::read(&file.path));
    let mut records = BTreeMap::new();
    for (file, content) in files.iter().zip(contents) {
        match content {
            Ok(record) => drop(records.insert(file.folder, record)),
            Err(error) => notes.push(format!("{error:#}; skipped")),
        }
    }
    records
}

/// Folders whose loads are taken together though nothing names a host for them.
fn unnamed_folders(loads: &DataFrame) -> Result<Option<String>> {
    let several = loads
        .clone()
        .lazy()
        .filter(col("host").eq(lit(UNNAMED)))
        .group_by(SECTION.map(col))
        .agg([col("folder").unique(), col("folder").n_unique().alias("folders")])
        .filter(col("folders").gt(lit(1)))
        .collect()?;
    let lists = rows(&several).iter().map(|row| row.texts("folder")).collect::<Result<Vec<_>>>()?;
    let mut folders = lists.concat();
    folders.sort();
    folders.dedup();
    Ok(unnamed_note(&folders.iter().map(String::as_str).collect::<Vec<_>>()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyze::frame::TEXTS;
    use std::fs;
    use std::path::Path;

    fn write(path: PathBuf, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn hosts(input: &Input) -> Vec<&str> {
        input.loads.column("host").unwrap().str().unwrap().iter().flatten().collect()
    }

    #[test]
    fn loads_know_their_host_in_folders_and_in_one_flat_one() {
        let record = |run: &str| format!(r#"{{"model_name":"m_0","loading_time":1.0,"run_id":"{run}"}}"#);
        let environment = r#"{"r1":{"host":"one"},"r2":{"host":"two"}}"#;
        let flat = tempfile::tempdir().unwrap();
        write(flat.path().join("environment.json"), environment);
        write(
            flat.path().join("m_sllm_3_cached.json"),
            &format!("[{},{},{}]", record("r1"), record("r2"), record("r1")),
        );
        let input = read(&[flat.path().into()]).unwrap();
        assert_eq!(hosts(&input), ["one", "two", "one"]);
        assert_eq!(input.host_count().unwrap(), 2);

        let deep = tempfile::tempdir().unwrap();
        for (folder, run) in [("b", "r1"), ("a", "r2"), ("c/cold", "r1"), ("c/warm", "")] {
            if folder != "c/warm" {
                write(deep.path().join(folder).join("environment.json"), environment);
            }
            write(deep.path().join(folder).join("m_sllm_1_cached.json"), &format!("[{}]", record(run)));
        }
        let input = read(&[deep.path().into()]).unwrap();
        assert_eq!(hosts(&input), ["two", "one", "one", UNNAMED]);
    }

    #[test]
    fn a_record_is_believed_before_the_file_name() {
        let dir = tempfile::tempdir().unwrap();
        let text = r#"[{"model_name":"a/b_3","format":"safetensors","mode":"random","gpus":["0","1"],"run_id":"r",
            "cache_state":"warm","meant_cold":true,"engine":"baseline-rust","loading_time":1,"bytes":7,"iteration":2,
            "phases":{"transfer_s":0.5}}, {"model_name":"a/b_4","loading_time":1}]"#;
        write(dir.path().join("x_sllm_1_cached.json"), text);
        let loads = read(&[dir.path().into()]).unwrap().loads;
        let texts = |row: usize| -> Vec<String> {
            let value =
                |name: &&str| loads.column(name).unwrap().str().unwrap().get(row).unwrap().to_string();
            TEXTS[..9].iter().map(value).collect()
        };
        let first = ["a/b", "random", "0,1", "warm", UNNAMED, "safetensors", "baseline-rust", "r", "a/b_3"];
        assert_eq!(texts(0), first);
        assert_eq!(texts(1), ["a/b", "cached", "", "", UNNAMED, "sllm", "", "", "a/b_4"]);
        let number = |name: &str| loads.column(name).unwrap().f64().unwrap().get(0);
        assert_eq!([number("bytes"), number("transfer_s")], [Some(7.0), Some(0.5)]);
        assert_eq!(loads.column("iteration").unwrap().u64().unwrap().get(0), Some(2));
    }

    #[test]
    fn what_cannot_be_used_is_told_and_the_rest_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let record = r#"[{"model_name":"m_0","loading_time":1.0}]"#;
        write(dir.path().join("m_sllm_1_cached.json"), record);
        for name in ["verify.json", "ceiling.json"] {
            write(dir.path().join("below").join(name), "{}");
        }
        write(dir.path().join("below/empty_sllm_1_cached.json"), "[]");
        write(dir.path().join("below/m_sllm_1_cached.json"), "[{");
        let input = read(&[dir.path().into()]).unwrap();
        assert_eq!(input.loads.height(), 1);
        let [empty, damaged, others] = input.notes.as_slice() else { panic!("{:?}", input.notes) };
        assert!(empty.contains("empty_sllm") && empty.contains("no records"), "{empty}");
        assert!(damaged.contains("m_sllm") && damaged.contains("line 1"), "{damaged}");
        assert!(others.contains("2 other JSON files") && others.contains("ceiling.json"), "{others}");
    }

    #[test]
    fn nothing_to_read_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let error = |path: &Path| format!("{:#}", read(&[path.into()]).unwrap_err());
        assert!(error(dir.path()).contains("no *.json file"));
        assert!(error(&dir.path().join("absent")).contains("No such file"));
        write(dir.path().join("m_sllm_0_cached.json"), "[]");
        assert!(error(dir.path()).contains("holds no records"));
    }
}
