//! How to load: engine, page cache, threads, sizes, cuFile's registration.

use clap::{Args, ValueEnum};

use crate::cli::parse_size;
use crate::load::Placement;
use crate::load::gds::{OnError, Register};

/// The knobs of the loader, the same wherever something is loaded.
#[derive(Debug, Clone, Args)]
pub struct EngineArgs {
    #[arg(long, value_enum, default_value_t = EngineChoice::Auto)]
    pub engine: EngineChoice,
    /// `auto` asks the page cache range by range; the others force one way, to measure what the choice buys
    #[arg(long, value_enum, default_value_t = IoChoice::Auto)]
    pub io: IoChoice,
    /// Bytes of one read [default: 16MB to host memory, 2MB through the pinned ring, 8MB by cuFile]
    #[arg(long, value_parser = parse_size, value_name = "SIZE")]
    pub chunk_size: Option<u64>,
    /// Reader threads of each destination [default: 4 to 16, by cores]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub num_threads: Option<u32>,
    /// Bytes of one copy to a GPU, rounded up to whole chunks: several threads fill it [default: 16MB]
    #[arg(long, value_parser = parse_size, value_name = "SIZE")]
    pub copy_size: Option<u64>,
    /// Pinned memory that the threads of a destination share: as many copies as fit [default: 64MB, or two copies]
    #[arg(long, value_parser = parse_size, value_name = "SIZE")]
    pub ring_size: Option<u64>,
    /// How several GPUs share a checkpoint
    #[arg(long, value_enum, default_value_t = Placement::Balanced)]
    pub placement: Placement,
    /// With --engine gds: take cuFile's compatibility mode where nothing direct is possible
    #[arg(long)]
    pub allow_compat: bool,
    /// With --engine gds: which device memory to register with cuFile [default: auto]
    #[arg(long, value_enum)]
    pub gds_register: Option<Register>,
    /// When a read by cuFile fails half-way [default: fail with --engine gds, retry with auto]
    #[arg(long, value_enum)]
    pub on_gds_error: Option<OnError>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EngineChoice {
    /// The fastest that is proven to work here
    Auto,
    /// Storage straight to the GPU by cuFile, or not at all
    Gds,
    /// Storage, pinned ring, GPU
    Pinned,
    /// Into host memory
    Host,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum IoChoice {
    Auto,
    Direct,
    Buffered,
}
