//! The files of a checkpoint as ServerlessLLM's offsets count over them, for whoever loads byte ranges and not tensors.
//! Nothing is kept from one call to the next: what a file is now is asked of the file system each time.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};

use crate::checkpoint::error::of_opening;
use crate::checkpoint::indexed::{self, Indexed};
use crate::checkpoint::listing::{self, Bounds};
use crate::checkpoint::names::{INDEX_FILE, PACKED_INDEX_FILE, is_partition, partition_name};
use crate::checkpoint::open::{missing, unknown_advice};
use crate::checkpoint::packed::Packed;
use crate::checkpoint::{
    Checkpoint, CheckpointError, Chosen, DataFile, Layout, MAX_TOTAL_BYTES, Stamp, json, malformed,
    manifest_check, safetensors, sllm,
};
use crate::os::digest;
use crate::os::error::{Doing, Error};
use crate::os::sys;

/// What a server hands out of one directory.
#[derive(Debug, Clone)]
pub struct Served {
    /// The directory.
    pub dir: PathBuf,
    /// Its files, laid end to end in the order in which offsets count over them.
    pub files: Vec<DataFile>,
    /// Bytes of all of them: where offsets end. Of packed ones, of what they unpack to.
    pub total_bytes: u64,
    packed: Option<Arc<Packed>>,
    storage_path: Option<PathBuf>,
}

impl Served {
    /// These files as a checkpoint without tensors, for loads of byte ranges.
    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint {
            dir: self.dir.clone(),
            layout: if self.packed.is_some() { Layout::Packed } else { Layout::Sllm },
            files: self.files.clone(),
            tensors: Arc::default(),
            manifest: None,
            packed: self.packed.clone(),
            lost: Vec::new(),
            chosen: Chosen::default(),
            storage_path: self.storage_path.clone(),
        }
    }
}

/// The files in a directory that offsets count over: partitions, packed ones, or the safetensors files that an index was written
/// over. Of partitions no index is read, and of what a save recorded only how long they were; of safetensors files their headers are,
/// to tell that they are the same still. Links inside may lead anywhere below
/// `storage_path`, where that is known.
///
/// # Errors
/// - [`Error::NotFound`]: there is nothing at this path.
/// - [`Error::Checkpoint`]: there are no such files, or the first is missing, one is not as long as it was saved, an index is stale,
///   or a link leads too far.
/// - [`Error::Io`]: the system won't let a file or a directory be looked at.
pub fn served(dir: &Path, storage_path: Option<&Path>) -> Result<Served, Error> {
    let doing = || Doing::new(format!("look for what can be served of {}", dir.display()), dir);
    find(dir, storage_path).with_context(doing).map_err(of_opening)
}

fn find(dir: &Path, storage_path: Option<&Path>) -> Result<Served> {
    match dir.metadata() {
        Ok(about) if about.is_dir() => {}
        Ok(_) => {
            let what = "not a directory, and only directories are served: name the one that holds it";
            return Err(malformed(dir, what));
        }
        Err(e) if e.kind() == ErrorKind::NotFound && !dir.is_symlink() => return Err(missing(dir)),
        Err(e) => return Err(e).with_context(|| format!("stat {}", dir.display())),
    }
    let bounds = Bounds::new(dir, storage_path)?;
    let mut files = sllm::partitions(dir, &bounds)?;
    match indexed::read(dir, &bounds)? {
        Some(_) if !files.is_empty() => return Err(indexed::two_in_one(dir)),
        Some(indexed) => files = indexed_files(&indexed, dir, &bounds)?,
        None if files.is_empty() => {}
        None => manifest_check::check_lengths_in(dir, &bounds, &files)?,
    }
    let mut packed = None;
    if files.is_empty() && dir.join(PACKED_INDEX_FILE).is_file() {
        // Of packed files the index alone tells where chunks lie.
        let found = Checkpoint::open_below(dir, storage_path)?.whole()?;
        (files, packed) = (found.files, found.packed);
    }
    let Some(last) = files.last() else { return Err(nothing_served(dir)?) };
    let total_bytes = last.end();
    if total_bytes > MAX_TOTAL_BYTES {
        let what = format!("its files claim {total_bytes} bytes, more than any file system holds");
        return Err(malformed(dir, what));
    }
    let storage_path = storage_path.map(Path::to_path_buf);
    Ok(Served { dir: dir.to_path_buf(), files, total_bytes, packed, storage_path })
}

/// The safetensors files that an index counts over. Refuses them where they are not what they were, for then its offsets
/// mean something else.
fn indexed_files(indexed: &Indexed, dir: &Path, bounds: &Bounds) -> Result<Vec<DataFile>> {
    let stale = |what: String| {
        anyhow::Error::from(CheckpointError::Stale {
            path: dir.to_path_buf(),
            what,
            again: indexed.again(dir),
        })
    };
    let mut files: Vec<DataFile> = Vec::new();
    for shard in &indexed.shards {
        let path = dir.join(&shard.file);
        let about = match path.metadata() {
            Ok(about) => about,
            Err(e) if e.kind() == ErrorKind::NotFound => {
                return Err(stale(format!("{} is gone", shard.file)));
            }
            Err(e) => return Err(sys::at(&path)(e)).with_context(|| format!("stat {}", path.display())),
        };
        bounds.check(&path)?;
        let bytes = about.len();
        if bytes != shard.bytes {
            return Err(stale(format!("{} has {bytes} bytes, and had {}", shard.file, shard.bytes)));
        }
        let (_, header) = safetensors::read_header(&path)?;
        if digest::digest(header.as_bytes()) != shard.header_digest {
            return Err(stale(format!("the header of {} is another", shard.file)));
        }
        let base = files.last().map_or(0, DataFile::end);
        if base.checked_add(bytes).is_none() {
            return Err(malformed(&path, "the shards exceed 2^64 bytes"));
        }
        files.push(DataFile { path, base, bytes, header_bytes: 0, stamp: Stamp::of(&about) });
    }
    let root = indexed.root(dir);
    let chosen = bounds
        .check_model(&root)
        .and_then(|()| safetensors::chosen_files(&root, bounds))
        .with_context(|| stale(format!("what files are the model in {} changed", root.display())))?;
    let is_recorded = |name: &&String| indexed.shards.iter().any(|shard| shard.file == **name);
    if let Some(name) = chosen.iter().find(|name| !is_recorded(name)) {
        return Err(stale(format!("{name} was added")));
    }
    if let Some(shard) = indexed.shards.iter().find(|shard| !chosen.contains(&shard.file)) {
        return Err(stale(format!("{} is no longer a part of the model", shard.file)));
    }
    if indexed.shards.iter().map(|shard| &shard.file).ne(&chosen) {
        return Err(stale("its files are not laid end to end as they were".into()));
    }
    check_index(indexed, dir, bounds).map_err(stale)?;
    Ok(files)
}

/// Holds `tensor_index.json`, which clients read by themselves, against what was written.
fn check_index(indexed: &Indexed, dir: &Path, bounds: &Bounds) -> Result<(), String> {
    let path = dir.join(INDEX_FILE);
    let read = bounds.check(&path).and_then(|()| json::read_bytes(&path));
    let text = read.map_err(|error| format!("{INDEX_FILE} is gone, or can't be read ({error:#})"))?;
    match indexed.wrote.get(INDEX_FILE) == Some(&digest::digest(&text)) {
        true => Ok(()),
        false => Err(format!("{INDEX_FILE} is not the one that was written")),
    }
}

/// Why there is nothing to serve in a directory, and what to do.
fn nothing_served(dir: &Path) -> Result<anyhow::Error> {
    let first = partition_name(0);
    if let Some(other) = listing::top(dir)?.into_iter().find(|name| is_partition(name)) {
        let what =
            format!("holds {other} and no {first}: copy all of the checkpoint anew, or save the model again");
        return Ok(malformed(dir, what));
    }
    if safetensors::is_in(dir)? {
        let what = format!(
            "holds safetensors files and nothing that offsets count over: `sllm-gds index {}` writes that",
            dir.display()
        );
        return Ok(malformed(dir, what));
    }
    let advice = unknown_advice(dir)?;
    Ok(malformed(dir, format!("holds no {first}, so there is nothing to serve; {advice}")))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn text(result: Result<Served, Error>) -> String {
        match result {
            Err(Error::Checkpoint(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn damaged_packed_weights_are_named_as_such() {
        let dir = tempfile::tempdir().unwrap();
        for name in [PACKED_INDEX_FILE, "packed.data_0"] {
            fs::write(dir.path().join(name), "{}").unwrap();
        }
        assert!(text(served(dir.path(), None)).contains("packed_index.json"));
    }

    #[test]
    fn partitions_are_laid_end_to_end_up_to_the_first_gap_and_looked_at_anew() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, bytes: usize| fs::write(dir.path().join(name), vec![7; bytes]).unwrap();
        // An index is not even looked at.
        put("tensor_index.json", 3);
        for (name, bytes) in
            [("tensor.data_0", 5), ("tensor.data_1", 0), ("tensor.data_2", 9), ("tensor.data_4", 1)]
        {
            put(name, bytes);
        }
        let found = served(dir.path(), None).unwrap();
        let ranges: Vec<(u64, u64)> = found.files.iter().map(|file| (file.base, file.bytes)).collect();
        assert_eq!((ranges, found.total_bytes), (vec![(0, 5), (5, 0), (5, 9)], 14));
        let checkpoint = found.checkpoint();
        assert_eq!(
            (checkpoint.files, checkpoint.tensors.len(), checkpoint.layout),
            (found.files.clone(), 0, Layout::Sllm)
        );
        put("tensor.data_2", 11);
        let anew = served(dir.path(), None).unwrap();
        assert_eq!(anew.total_bytes, 16);
        assert_ne!(anew.files[2].stamp, found.files[2].stamp);
    }

    #[test]
    fn what_can_not_be_served_says_why_and_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        assert!(
            matches!(served(&at("none"), None), Err(Error::NotFound(text)) if text.contains("sllm-gds save"))
        );
        fs::create_dir_all(at("below/deeper")).unwrap();
        assert!(text(served(&at("below"), None)).contains("nothing to serve"));
        fs::write(at("below/deeper/tensor_index.json"), "{}").unwrap();
        assert!(text(served(&at("below"), None)).contains("weights lie below it, in deeper"));
        fs::write(at("below/tensor.data_1"), "x").unwrap();
        assert!(text(served(&at("below"), None)).contains("tensor.data_1 and no tensor.data_0"));
        fs::create_dir(at("hf")).unwrap();
        fs::write(at("hf/model.safetensors"), "x").unwrap();
        assert!(text(served(&at("hf"), None)).contains("sllm-gds index"));
        assert!(text(served(&at("hf/model.safetensors"), None)).contains("not a directory"));
        fs::create_dir(at("below/tensor.data_0")).unwrap();
        assert!(text(served(&at("below"), None)).contains("not a regular file"));
    }

    #[test]
    fn partitions_of_another_length_than_was_saved_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let recorded = |requires: &str, bytes: &[u64]| {
            let partition = |(i, bytes): (usize, &u64)| {
                format!(r#"{{"file":"tensor.data_{i}","bytes":{bytes},"digests":[]}}"#)
            };
            let partitions: Vec<_> = bytes.iter().enumerate().map(partition).collect();
            let (digest, partitions) = (digest::NAME, partitions.join(","));
            let text = format!(
                r#"{{"version":1,"requires":[{requires}],"digest":"{digest}","partitions":[{partitions}]}}"#
            );
            fs::write(at("sllm_gds.json"), text).unwrap();
        };
        fs::write(at("tensor.data_0"), "12345").unwrap();
        fs::write(at("tensor.data_1"), "123").unwrap();
        recorded("", &[5, 3]);
        assert_eq!(served(dir.path(), None).unwrap().total_bytes, 8);
        for (requires, bytes, words) in [
            ("", &[6, 3][..], ["tensor.data_0", "cut short", "save the model again"]),
            ("", &[5, 2], ["tensor.data_1", "grew", "copy it anew"]),
            ("", &[5, 3, 1], ["records 3 partitions", "2 are there", "tensor.data_2 is missing"]),
            ("", &[5], ["records 1 partitions", "tensor.data_1", "remove it"]),
            (r#""wings""#, &[5, 3], ["requires wings", "newer sllm-gds", "sllm_gds.json"]),
        ] {
            recorded(requires, bytes);
            let said = text(served(dir.path(), None));
            assert!(words.iter().all(|word| said.contains(word)), "{words:?}: {said}");
        }
    }

    /// A mark that names these files.
    fn mark(dir: &Path, over: Option<&str>, shards: &[&str], header: &str) {
        let digest_of = |text: &str| digest::digest(text.as_bytes());
        let shard = |file: &&str| {
            let bytes = 8 + header.len() as u64;
            indexed::Shard { file: file.to_string(), bytes, header_digest: digest_of(header) }
        };
        let mark = Indexed {
            aliases: Default::default(),
            digest: digest::NAME.into(),
            links: Vec::new(),
            over: over.map(str::to_string),
            shards: shards.iter().map(shard).collect(),
            tensors: Default::default(),
            wrote: [(INDEX_FILE.to_string(), digest_of("{}"))].into(),
        };
        fs::write(dir.join("sllm_gds.json"), mark.to_text().unwrap()).unwrap();
        fs::write(dir.join(INDEX_FILE), "{}").unwrap();
    }

    #[test]
    fn a_mark_leads_to_no_file_that_is_not_of_the_model() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        let header = r#"{"__metadata__":{}}"#;
        let empty = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
        for dir in ["models/m", "models/other", "outside"] {
            fs::create_dir_all(at(dir)).unwrap();
            fs::write(at(dir).join("model.safetensors"), &empty).unwrap();
        }
        let (model, storage) = (at("models/m"), at("models"));
        let look = || served(&model, Some(&storage));
        mark(&model, None, &["model.safetensors"], header);
        assert_eq!(look().unwrap().total_bytes, empty.len() as u64);
        let outside = at("outside/model.safetensors");
        for file in
            ["../other/model.safetensors", "../../outside/model.safetensors", outside.to_str().unwrap()]
        {
            mark(&model, None, &[file], header);
            assert!(look().is_err(), "{file}");
        }
        mark(&model, None, &["model.safetensors", "model.safetensors"], header);
        assert!(look().is_err(), "one file twice");
        for over in ["../../outside", at("outside").to_str().unwrap()] {
            mark(&model, Some(over), &["model.safetensors"], header);
            assert!(text(look()).contains("is not looked into"), "{over}");
        }
        mark(&model, None, &["model.safetensors"], header);
        let whole = fs::read_to_string(model.join("sllm_gds.json")).unwrap();
        for (from, to) in [
            ("\"version\":1", "\"version\":2"),
            ("}}", "}"),
            ("\"version\"", "\"requires\":[\"x\"],\"version\""),
        ] {
            let other = whole.replacen(from, to, 1);
            assert_ne!(other, whole);
            fs::write(model.join("sllm_gds.json"), other).unwrap();
            assert!(text(look()).contains("sllm_gds.json"), "{to}");
        }
    }

    #[test]
    fn links_lead_no_further_than_the_storage_path() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        fs::create_dir_all(at("storage/a/m")).unwrap();
        fs::create_dir_all(at("storage/b/c")).unwrap();
        fs::create_dir(at("outside")).unwrap();
        for name in ["storage/b/c/x", "outside/x"] {
            fs::write(at(name), "xyz").unwrap();
        }
        let (link, storage) = (at("storage/a/m/tensor.data_0"), at("storage"));
        symlink("../../b/c/x", &link).unwrap();
        assert_eq!(served(&at("storage/a/m"), Some(&storage)).unwrap().total_bytes, 3);
        assert!(text(served(&at("storage/a/m"), None)).contains("outside the storage path"));
        fs::remove_file(&link).unwrap();
        symlink(at("outside/x"), &link).unwrap();
        assert!(text(served(&at("storage/a/m"), Some(&storage))).contains("outside the storage path"));
        fs::remove_file(&link).unwrap();
        symlink(at("nowhere"), &link).unwrap();
        assert!(
            served(&at("storage/a/m"), Some(&storage)).is_err(),
            "a link that leads nowhere is no end of the files"
        );
    }
}
