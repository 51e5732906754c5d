//! How a command finds a checkpoint.

use std::path::PathBuf;

use clap::Args;

/// A name under the storage path, or a directory.
#[derive(Debug, Args)]
pub struct CheckpointArg {
    /// A name under the storage path, or a directory: ours, ServerlessLLM's, or safetensors
    pub name: String,
    #[arg(long, default_value = "./models")]
    pub storage_path: PathBuf,
}
