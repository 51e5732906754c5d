//! Tensors' bytes, one range at a time: from a checkpoint's files by plain reads.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, bail};

use crate::checkpoint::{Checkpoint, DataFile, malformed, packed};
use crate::os::sys;

/// Where tensors' bytes come from; asked by many threads at once.
pub trait TensorSource: Sync {
    /// Fills `out` with the tensor's bytes from `offset` on.
    fn fill(&self, tensor: usize, offset: u64, out: &mut [u8]) -> Result<()>;

    /// Refuses where what was read may be half old, half new; asked when all is read.
    fn check_unchanged(&self) -> Result<()> {
        Ok(())
    }
}

/// Reads tensors of a checkpoint through plain file reads: no engine, no cleverness, so that it can also
/// serve as the judge of loads.
pub struct TensorReader {
    pub checkpoint: Checkpoint,
    files: Vec<File>,
}

impl TensorReader {
    pub fn new(checkpoint: Checkpoint) -> Result<TensorReader> {
        let open =
            |f: &DataFile| sys::open_regular(&f.path).with_context(|| format!("open {}", f.path.display()));
        let files = checkpoint.files.iter().map(open).collect::<Result<Vec<_>>>()?;
        Ok(TensorReader { checkpoint, files })
    }
}

impl TensorSource for TensorReader {
    fn fill(&self, tensor: usize, offset: u64, out: &mut [u8]) -> Result<()> {
        if out.is_empty() {
            // A tensor without bytes may lie at the very end, in no file.
            return Ok(());
        }
        let tensor = &self.checkpoint.tensors[tensor];
        let Some(index) = self.checkpoint.file_at(tensor.offset) else {
            bail!("tensor '{}' lies past the end of the files", tensor.name)
        };
        let file = &self.checkpoint.files[index];
        let at = tensor.offset - file.base + offset;
        if let Some(packed) = self.checkpoint.packed_file(index) {
            return packed::read(packed, &file.path, &self.files[index], at, out)
                .with_context(|| format!("tensor '{}'", tensor.name));
        }
        let read = self.files[index].read_exact_at(out, at);
        if read.as_ref().is_err_and(|e| e.kind() == ErrorKind::UnexpectedEof) {
            return Err(malformed(
                &file.path,
                format!(
                    "ends before byte {} by now: it was cut short while it was read; wait until nobody writes it, or fetch it \
                     anew, and try again",
                    at + out.len() as u64
                ),
            ));
        }
        read.with_context(|| {
            format!("read {} bytes at {at} of {} (tensor '{}')", out.len(), file.path.display(), tensor.name)
        })
    }

    fn check_unchanged(&self) -> Result<()> {
        self.checkpoint
            .files
            .iter()
            .zip(&self.files)
            .try_for_each(|(file, handle)| file.check_unchanged(handle))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_cut_short_while_it_is_read_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        let header = br#"{"w":{"dtype":"U8","shape":[9],"data_offsets":[0,9]}}"#;
        std::fs::write(&path, [&(header.len() as u64).to_le_bytes()[..], header, &[7; 9]].concat()).unwrap();
        let reader = TensorReader::new(Checkpoint::read(dir.path()).unwrap()).unwrap();
        let mut bytes = [0; 9];
        reader.fill(0, 0, &mut bytes).unwrap();
        File::options().write(true).open(&path).unwrap().set_len(62).unwrap();
        let error = reader.fill(0, 0, &mut bytes).unwrap_err().to_string();
        assert!(
            error.contains("model.safetensors: ends before byte 70") && error.contains("try again"),
            "{error}"
        );
    }
}
