//! A checkpoint as the server gives it out: files laid end to end, whose ranges clients name. No index is parsed for it.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::checkpoint::error::of_opening;
use crate::checkpoint::listing::Bounds;
use crate::checkpoint::names::partition_name;
use crate::checkpoint::sllm::partitions;
use crate::checkpoint::{Checkpoint, CheckpointError, Chosen, DataFile, Layout};
use crate::os::error::Error;

/// The files of a model, in the order in which ServerlessLLM's offsets count over them.
#[derive(Debug, Clone)]
pub struct Served {
    dir: PathBuf,
    storage_path: Option<PathBuf>,
    /// Each as it was just now.
    pub files: Vec<DataFile>,
}

impl Served {
    /// A checkpoint of these files without tensors: loads of ranges of bytes want no more.
    pub fn checkpoint(self) -> Checkpoint {
        Checkpoint {
            dir: self.dir,
            layout: Layout::Sllm,
            files: self.files,
            tensors: Default::default(),
            manifest: None,
            lost: Vec::new(),
            chosen: Chosen::default(),
            storage_path: self.storage_path,
        }
    }
}

/// Looks at the files of a model: `tensor.data_0`, `tensor.data_1` and so on, up to the first that is not there. Their links may
/// lead anywhere below `storage_path`.
///
/// # Errors
/// [`Error::NotFound`] where there is no such directory, [`Error::Checkpoint`] where it holds no `tensor.data_0`, or what stands
/// there is no file, [`Error::Io`] where the system won't let it be read.
pub fn served(dir: &Path, storage_path: Option<&Path>) -> Result<Served, Error> {
    files(dir, storage_path).map_err(of_opening)
}

fn files(dir: &Path, storage_path: Option<&Path>) -> Result<Served> {
    if !dir.is_dir() {
        return Err(CheckpointError::Missing(dir.to_path_buf()).into());
    }
    let files = partitions(dir, &dir.join(partition_name(0)))?;
    let bounds = Bounds::new(dir, storage_path)?;
    files.iter().try_for_each(|file| bounds.check(&file.path))?;
    Ok(Served { dir: dir.to_path_buf(), storage_path: storage_path.map(Path::to_path_buf), files })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn files_are_taken_up_to_the_first_gap_and_looked_at_anew() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("m");
        assert!(matches!(served(&dir, None), Err(Error::NotFound(_))));
        fs::create_dir(&dir).unwrap();
        let put = |name: &str, bytes: usize| fs::write(dir.join(name), vec![0; bytes]).unwrap();
        put("tensor.data_1", 5);
        let refused = served(&dir, None).unwrap_err();
        assert!(matches!(&refused, Error::Checkpoint(text) if text.contains("tensor.data_0")), "{refused}");
        put("tensor.data_0", 3);
        put("tensor.data_3", 9);
        let sizes = || -> Vec<(u64, u64)> {
            served(&dir, None).unwrap().files.iter().map(|file| (file.base, file.bytes)).collect()
        };
        assert_eq!(sizes(), [(0, 3), (3, 5)]);
        put("tensor.data_0", 4);
        assert_eq!(sizes(), [(0, 4), (4, 5)]);
        assert_eq!(served(&dir, None).unwrap().checkpoint().file_bytes(), 9);
        fs::remove_file(dir.join("tensor.data_1")).unwrap();
        fs::write(root.path().join("elsewhere"), "x").unwrap();
        std::os::unix::fs::symlink(root.path().join("elsewhere"), dir.join("tensor.data_1")).unwrap();
        assert!(matches!(served(&dir, None), Err(Error::Checkpoint(_))), "a link that leads out");
        assert!(served(&dir, Some(root.path())).is_ok());
    }
}
