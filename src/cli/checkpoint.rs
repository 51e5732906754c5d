//! How a command finds a checkpoint.

use std::path::PathBuf;

use anyhow::{Result, anyhow};
use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::cli::{help, stored};
use crate::os::remains;

/// A name under the storage path, or a directory.
#[derive(Debug, Args)]
pub struct CheckpointArg {
    /// A directory, or a name under the storage path: ours, ServerlessLLM's, or safetensors
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub name: String,
    /// Where models live, by their names
    #[arg(long, default_value = "./models", value_name = "DIR", help_heading = help::WHERE)]
    pub storage_path: PathBuf,
}

impl CheckpointArg {
    /// Where it is, or would be.
    pub fn path(&self) -> PathBuf {
        Checkpoint::locate(&self.name, &self.storage_path)
    }

    pub fn find(&self) -> Result<Checkpoint> {
        Checkpoint::find(&self.name, &self.storage_path).map_err(|error| self.explain(error))
    }

    /// Of one that is not there: where it was looked for, and what may be meant.
    pub fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        let Some(CheckpointError::Missing(path)) = error.downcast_ref() else { return error };
        // Of an overwrite that was cut short, the error tells more.
        if remains::set_aside(path).is_some() {
            return error;
        }
        let names = stored::names_below(&self.storage_path);
        let meant = match stored::meant(&self.name, &names) {
            Some(meant) => format!("did you mean {meant}? "),
            None => String::new(),
        };
        let looked = match *path == self.storage_path.join(&self.name) {
            true => format!(", and a directory {} neither", self.name),
            false => String::new(),
        };
        anyhow!(
            "{} does not exist{looked}; {meant}`sllm-gds list --storage-path {}` tells what is there, `sllm-gds save` makes a \
             checkpoint (only `save` and `bench` fetch from the hub)",
            path.display(),
            self.storage_path.display()
        )
    }
}
