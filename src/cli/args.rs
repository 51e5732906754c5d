//! Arguments of `doctor`, whose run stands elsewhere still.

use std::path::PathBuf;

use clap::Args;

use crate::cli::words::{Gpus, parse_gpus};

#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Directories or files whose file systems to examine [default: the current directory]
    pub paths: Vec<PathBuf>,
    /// `none`, `all`, or a list: 0,1 or UUIDs
    #[arg(long, value_parser = parse_gpus, default_value = "all")]
    pub gpus: Gpus,
    /// Print one JSON object instead of text
    #[arg(long)]
    pub json: bool,
    /// List every check, also those that pass
    #[arg(long)]
    pub all: bool,
    /// Examine a machine that was recorded, not this one
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Write all that is read to a new directory, for --root
    #[arg(long, value_name = "DIR", conflicts_with = "root")]
    pub record: Option<PathBuf>,
    /// Open cuFile's driver and say what came of it: doctor runs this in a child process
    #[arg(long, hide = true)]
    pub probe_cufile: bool,
}
