//! The page cache before a load: emptied where the load is meant to be cold, filled where it is meant to be warm,
//! and measured in any case.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::checkpoint::Checkpoint;
use crate::os::cancel::Cancel;
use crate::os::residency;
use crate::os::sys;

/// The files that a load of a checkpoint reads, its index and its manifest too, held open: to open the checkpoint again would
/// bring its headers back.
pub struct Files(Vec<(PathBuf, File, u64)>);

impl Files {
    pub fn open(dir: &Path) -> Result<Files> {
        let checkpoint = Checkpoint::read(dir)?;
        let own = checkpoint.own_files().into_iter().map(|name| checkpoint.dir.join(name));
        let mut paths: Vec<PathBuf> =
            checkpoint.files.iter().map(|file| file.path.clone()).chain(own).collect();
        paths.sort_unstable();
        paths.dedup();
        let mut files = Vec::new();
        for path in paths {
            let at = || format!("open {}", path.display());
            match sys::open_regular(&path) {
                // A checkpoint without a manifest, or of one file without an index.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                opened => {
                    let file = opened.with_context(at)?;
                    let bytes = file.metadata().with_context(at)?.len();
                    files.push((path, file, bytes));
                }
            }
        }
        Ok(Files(files))
    }

    /// Drops them from the page cache; dirty pages are written back first.
    pub fn evict(&self) -> Result<()> {
        for (path, file, _) in &self.0 {
            let drop = || file.sync_all().and_then(|()| residency::evict(file));
            drop().with_context(|| format!("evict {} from the page cache", path.display()))?;
        }
        Ok(())
    }

    /// Reads them once from start to end, so that the page cache holds what it has room for; ends early once `cancel` is set.
    pub fn warm(&self, cancel: &Cancel) -> Result<()> {
        let mut buffer = vec![0u8; 1 << 20];
        for (path, file, bytes) in &self.0 {
            if residency::resident_bytes(file, 0, *bytes) == Some(*bytes) {
                continue;
            }
            let mut reader = file;
            let mut read = || -> std::io::Result<()> {
                std::io::Seek::rewind(&mut reader)?;
                while !cancel.is_set() && reader.read(&mut buffer)? > 0 {}
                Ok(())
            };
            read().with_context(|| format!("read {} into the page cache", path.display()))?;
        }
        Ok(())
    }

    /// Bytes of all of them.
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|(_, _, bytes)| bytes).sum()
    }

    /// How many of their bytes the page cache holds, or `None` where the kernel does not tell.
    pub fn resident_bytes(&self) -> Option<u64> {
        self.0.iter().map(|(_, file, bytes)| residency::resident_bytes(file, 0, *bytes)).sum()
    }

    /// The same as a share of all.
    pub fn resident_share(&self) -> Option<f64> {
        let resident_bytes = self.resident_bytes()?;
        Some(if self.bytes() == 0 { 0.0 } else { resident_bytes as f64 / self.bytes() as f64 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::DType;
    use crate::checkpoint::reader::TensorSource;
    use crate::os::progress::Progress;
    use crate::write::export::export;
    use crate::write::input::{Input, InputTensor};
    use crate::write::save::{Layout, save};

    struct Sevens;

    impl TensorSource for Sevens {
        fn fill(&self, _: usize, _: u64, out: &mut [u8]) -> Result<()> {
            out.fill(7);
            Ok(())
        }
    }

    /// A checkpoint in our layout at `ours`, and in two shards with their index at `shards`.
    fn both_layouts(dir: &Path) -> [PathBuf; 2] {
        let tensor = |name: &str| InputTensor {
            name: name.into(),
            dtype: DType::U8,
            shape: vec![300_000],
            stride: vec![1],
            bytes: 300_000,
            tied_to: None,
        };
        let tensors = vec![tensor("a"), tensor("b")];
        let input = Input::made_up("m".into(), "sevens".into(), tensors, Box::new(Sevens));
        let (ours, shards) = (dir.join("ours"), dir.join("shards"));
        let layout = Layout::new(&input, 1, 1 << 30).unwrap();
        save(&input, &layout, &ours, false, &Cancel::new(), &Progress::silent()).unwrap();
        let whole = Checkpoint::read(&ours).unwrap();
        export(whole, &shards, Some(400_000), false, &Cancel::new(), &Progress::silent()).unwrap();
        [ours, shards]
    }

    #[test]
    fn all_that_a_load_reads_goes_and_comes_index_and_manifest_too() {
        let dir = tempfile::tempdir_in(".").unwrap();
        let of_ours = &["sllm_gds.json", "tensor.data_0", "tensor_index.json"][..];
        let of_shards = &[
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
        ][..];
        for (path, names) in both_layouts(dir.path()).iter().zip([of_ours, of_shards]) {
            let files = Files::open(path).unwrap();
            let held: Vec<_> =
                files.0.iter().map(|(path, ..)| path.file_name().unwrap().to_str().unwrap()).collect();
            assert_eq!(held, names);
            let resident = || {
                let of = |name| {
                    let file = File::open(path.join(name)).unwrap();
                    residency::resident_bytes(&file, 0, file.metadata().unwrap().len()).unwrap()
                };
                names.iter().map(of).collect::<Vec<u64>>()
            };
            // Opening it brought its index and its headers in.
            assert!(resident().iter().any(|bytes| *bytes > 0));
            files.evict().unwrap();
            assert_eq!(resident(), vec![0; names.len()], "{names:?}");
            assert_eq!((files.resident_bytes(), files.resident_share()), (Some(0), Some(0.0)));
            files.warm(&Cancel::new()).unwrap();
            assert_eq!(resident().iter().sum::<u64>(), files.bytes());
            assert_eq!(files.resident_share(), Some(1.0));
        }
    }

    #[test]
    fn reading_in_ends_when_it_is_asked_to() {
        let dir = tempfile::tempdir_in(".").unwrap();
        let files = Files::open(&both_layouts(dir.path())[0]).unwrap();
        files.evict().unwrap();
        let cancel = Cancel::new();
        cancel.set();
        files.warm(&cancel).unwrap();
        assert_eq!(files.resident_bytes(), Some(0));
    }
}
