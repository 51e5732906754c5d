//! How a command finds a checkpoint.

use std::path::PathBuf;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;

/// A name under the storage path, or a directory.
#[derive(Debug, Args)]
pub struct CheckpointArg {
    /// A name under the storage path, or a directory: ours, ServerlessLLM's, or safetensors
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub name: String,
    #[arg(long, default_value = "./models")]
    pub storage_path: PathBuf,
}
