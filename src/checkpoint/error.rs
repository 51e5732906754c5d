//! What can be wrong with a checkpoint.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::os::error::{Error, found};

/// What is wrong with a checkpoint. Code decides on these; everything else is an `anyhow` with context.
#[derive(Debug, thiserror::Error)]
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
    /// The safetensors files that an index counts over are not what they were.
    #[error("the index in {path} is stale: {what}; write it anew by `{again}`")]
    Stale {
        /// The directory of the index.
        path: PathBuf,
        /// Which file changed, and how.
        what: String,
        /// The command that writes it anew.
        again: String,
    },
    /// A file is not what it should be.
    #[error("{path}: {what}")]
    Malformed {
        /// Which.
        path: PathBuf,
        /// In what way, and what to do.
        what: String,
    },
}

impl CheckpointError {
    /// What an error of this type in the chain means to a program.
    pub(crate) fn kind(error: &anyhow::Error, message: &str) -> Option<Error> {
        Some(match found::<CheckpointError>(error)? {
            CheckpointError::Missing(_) => Error::NotFound(message.into()),
            _ => Error::Checkpoint(message.into()),
        })
    }
}

/// An error of opening a checkpoint, as a program decides on it: what is there and can't be understood, or lacks some of its
/// files, is no good checkpoint.
pub(super) fn of_opening(error: anyhow::Error) -> Error {
    let message = format!("{error:#}");
    match CheckpointError::kind(&error, &message).or_else(|| Error::of_system(&error, &message)) {
        Some(Error::NotFound(message)) if found::<CheckpointError>(&error).is_none() => {
            Error::Checkpoint(message)
        }
        Some(kind) => kind,
        None => Error::Checkpoint(message),
    }
}

/// A `Malformed` error about this file.
pub fn malformed(path: &Path, what: impl fmt::Display) -> anyhow::Error {
    CheckpointError::Malformed { path: path.to_path_buf(), what: what.to_string() }.into()
}
