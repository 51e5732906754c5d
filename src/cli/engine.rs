//! How to load: engine, page cache, threads, sizes, cuFile's registration.

use anyhow::{Result, bail};
use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};

use crate::cli::help;
use crate::cli::parse_size;
use crate::cli::words::parse_links;
pub use crate::load::{EngineChoice, IoChoice};
use crate::load::{Links, OnError, Placement, Register, Settings};

/// The knobs of the loader, the same wherever something is loaded.
#[derive(Debug, Clone, Args)]
pub struct EngineArgs {
    /// Which way bytes take
    #[arg(long, value_enum, default_value_t = EngineChoice::Auto, help_heading = help::TUNING)]
    pub engine: EngineChoice,
    /// Past the page cache or through it
    ///
    /// `auto` asks the page cache range by range; the others force one way, to measure what the choice buys.
    #[arg(long, value_enum, default_value_t = IoChoice::Auto, help_heading = help::TUNING, hide_short_help = true)]
    pub io: IoChoice,
    /// Over which GPUs' links bytes come: auto, own, all, or a list (0,1 or UUIDs)
    ///
    /// `own`: each GPU's own link. `all`: those of every GPU that is there, passed on by NVLink. A list: those of these GPUs.
    /// `auto`: its own for one GPU, and for several those of all of them together.
    #[arg(long, value_parser = parse_links, default_value = "auto", value_name = "LINKS", help_heading = help::TUNING)]
    pub links: Links,
    /// Bytes of one read [default: 2MB; 1MB with several links, 8MB by cuFile]
    #[arg(long, value_parser = parse_size, value_name = "SIZE", help_heading = help::TUNING, hide_short_help = true)]
    pub chunk_size: Option<u64>,
    /// Reader threads of each link to a GPU, or in all to host memory [default: 4 to 16, by cores]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024), value_name = "N", help_heading = help::TUNING, hide_short_help = true)]
    pub num_threads: Option<u32>,
    /// Bytes of one copy to a GPU [default: 16MB, 4MB with several links]
    ///
    /// Rounded up to whole chunks: several threads fill one copy.
    #[arg(long, value_parser = parse_size, value_name = "SIZE", help_heading = help::TUNING, hide_short_help = true)]
    pub copy_size: Option<u64>,
    /// Pinned memory that reads go into [default: 64MB over all links, or two copies]
    ///
    /// The threads of a link share it: as many copies as fit.
    #[arg(long, value_parser = parse_size, value_name = "SIZE", help_heading = help::TUNING, hide_short_help = true)]
    pub ring_size: Option<u64>,
    /// How several GPUs share a checkpoint
    #[arg(long, value_enum, default_value_t = Placement::Balanced, help_heading = help::TUNING)]
    pub placement: Placement,
    /// With --engine gds: allow cuFile's compatibility mode, which is not direct
    #[arg(long, help_heading = help::GPUDIRECT, hide_short_help = true)]
    pub allow_compat: bool,
    /// With --engine gds: which device memory cuFile registers [default: auto]
    #[arg(long, value_enum, value_name = "WHICH", help_heading = help::GPUDIRECT, hide_short_help = true)]
    pub gds_register: Option<Register>,
    /// When a read by cuFile fails half-way [default: fail with --engine gds, retry with auto]
    #[arg(long, value_enum, value_name = "WHAT", help_heading = help::GPUDIRECT, hide_short_help = true)]
    pub on_gds_error: Option<OnError>,
}

impl EngineArgs {
    /// The same without the command line.
    pub fn settings(&self) -> Settings {
        Settings {
            engine: self.engine,
            io: self.io,
            links: self.links.clone(),
            chunk_bytes: self.chunk_size,
            threads: self.num_threads.map(|threads| threads as usize),
            copy_bytes: self.copy_size,
            ring_bytes: self.ring_size,
            allow_compat: self.allow_compat,
            register: self.gds_register,
            on_gds_error: self.on_gds_error,
            helper: std::env::current_exe().ok(),
            faults: None,
        }
    }

    /// Refuses options that would do nothing.
    pub fn check(&self) -> Result<()> {
        if self.engine != EngineChoice::Gds && (self.allow_compat || self.gds_register.is_some()) {
            bail!("--allow-compat and --gds-register are for --engine gds");
        }
        if !matches!(self.engine, EngineChoice::Gds | EngineChoice::Auto) && self.on_gds_error.is_some() {
            bail!("--on-gds-error is for --engine gds and auto");
        }
        Ok(())
    }
}

/// The words of the loader's own choices on the command line.
macro_rules! words {
    ($choice:ty { $($variant:ident = $word:literal $(: $help:literal)?,)* }) => {
        impl ValueEnum for $choice {
            fn value_variants<'a>() -> &'a [Self] {
                &[$(<$choice>::$variant),*]
            }

            fn to_possible_value(&self) -> Option<PossibleValue> {
                Some(match self {
                    $(<$choice>::$variant => PossibleValue::new($word)$(.help($help))?,)*
                })
            }
        }
    };
}

words!(EngineChoice {
    Auto = "auto": "The fastest that is proven to work here",
    Gds = "gds": "Storage straight to the GPU by cuFile, or not at all",
    Pinned = "pinned": "Storage, pinned ring, GPU",
    Host = "host": "Into host memory",
});

words!(IoChoice {
    Auto = "auto",
    Direct = "direct",
    Buffered = "buffered",
});

words!(Placement {
    Balanced = "balanced": "Group by group where it was saved with as many, else cut by bytes at module boundaries",
    Replicate = "replicate": "Everything to each: read once, copied to all",
});

words!(Register {
    Auto = "auto": "Where drives write to it: all of it, or slabs where it can't all be mapped. In compatibility mode none",
    Whole = "whole",
    Slabs = "slabs": "Piece by piece, the next while one is read",
    None = "none",
});

words!(OnError {
    Fail = "fail": "Fail the load",
    Retry = "retry": "Read that chunk through host memory",
});
