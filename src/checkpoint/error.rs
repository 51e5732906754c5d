//! What can be wrong with a checkpoint.

use std::fmt;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// What is wrong with a checkpoint. Code decides on these; everything else is an `anyhow` with context.
#[derive(Debug, Error)]
pub enum CheckpointError {
    /// There is nothing at this path.
    #[error(
        "{0} does not exist; `sllm-gds save` makes a checkpoint (only `save` and `bench` fetch from the hub), and \
         those that are named lie below the storage path"
    )]
    Missing(PathBuf),
    /// There is something else.
    #[error(
        "{path} holds neither tensor_index.json (ServerlessLLM's layout) nor *.safetensors files; {advice}"
    )]
    Unknown {
        /// Where.
        path: PathBuf,
        /// What that may be, and what to do.
        advice: String,
    },
    /// There are only formats that run code when they are read.
    #[error(
        "{0} holds only PyTorch pickles (*.bin, *.pt): unpickling runs code, so they are not read; convert them \
         once with transformers: AutoModelForCausalLM.from_pretrained(dir).save_pretrained(new_dir)"
    )]
    OnlyPickles(PathBuf),
    /// A file is not what it should be.
    #[error("{path}: {what}")]
    Malformed {
        /// Which.
        path: PathBuf,
        /// In what way, and what to do.
        what: String,
    },
}

/// A `Malformed` error about this file.
pub fn malformed(path: &Path, what: impl fmt::Display) -> anyhow::Error {
    CheckpointError::Malformed { path: path.to_path_buf(), what: what.to_string() }.into()
}
