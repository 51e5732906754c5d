//! What a load was asked for.

use std::path::PathBuf;
use std::sync::Arc;

use crate::load::faults::Faults;

/// How to load. What is `None` has a default that fits the destination.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Who moves the bytes.
    pub engine: EngineChoice,
    /// Through the page cache or past it.
    pub io: IoChoice,
    /// Over which links bytes come to GPUs.
    pub links: Links,
    /// Bytes of one read.
    pub chunk_bytes: Option<u64>,
    /// Reader threads of each link; to host memory, in all.
    pub threads: Option<usize>,
    /// Bytes of one copy to a GPU, rounded up to whole chunks.
    pub copy_bytes: Option<u64>,
    /// Pinned memory of each link: as many copies as fit.
    pub ring_bytes: Option<u64>,
    /// With [`EngineChoice::Gds`]: take cuFile's compatibility mode where nothing direct is possible.
    pub allow_compat: bool,
    /// With [`EngineChoice::Gds`]: which device memory to register with cuFile.
    pub register: Option<Register>,
    /// When a read by cuFile fails half-way: fails where cuFile was demanded, else reads that chunk another way.
    pub on_gds_error: Option<OnError>,
    /// The program that proves which way reads by cuFile go, `sllm-gds`: cuFile's counters can crash the process that
    /// stops them. Without one no way is proven.
    pub helper: Option<PathBuf>,
    /// For tests: storage that fails.
    pub faults: Option<Arc<Faults>>,
}

/// Who moves the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum EngineChoice {
    /// The fastest that is proven to work here.
    #[default]
    Auto,
    /// Storage straight to the GPU by cuFile, or not at all; where no way is proven, as the report says, by an open one.
    Gds,
    /// Storage, pinned ring, GPU.
    Pinned,
    /// Into host memory.
    Host,
}

impl EngineChoice {
    /// As the command line and records name it.
    pub fn name(self) -> &'static str {
        match self {
            EngineChoice::Auto => "auto",
            EngineChoice::Gds => "gds",
            EngineChoice::Pinned => "pinned",
            EngineChoice::Host => "host",
        }
    }
}

/// Through the page cache or past it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum IoChoice {
    /// Asks the page cache range by range.
    #[default]
    Auto,
    /// Always past it (`O_DIRECT`), where the file system allows that.
    Direct,
    /// Always through it.
    Buffered,
}

/// Which device memory to register with cuFile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Register {
    /// Where drives write to it: all of it, or slabs where it can't all be mapped. In compatibility mode none.
    #[default]
    Auto,
    /// All of it at once.
    Whole,
    /// Piece by piece, the next while one is read.
    Slabs,
    /// None: cuFile has buffers of its own.
    None,
}

/// What to do when a read by cuFile fails half-way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnError {
    /// Fail the load.
    Fail,
    /// Read that chunk through host memory.
    Retry,
}

/// Over which PCIe links the bytes of a load to GPUs come. Bytes that come over another GPU's link than their destination's
/// are passed on by NVLink; where GPUs do not have that, each is fed over its own link, and the report says why.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Links {
    /// For one GPU its own; for several those of all of them, so that each byte comes over one link once, by whichever has room.
    #[default]
    Auto,
    /// Each GPU over its own link alone: no byte crosses NVLink, and no GPU's memory is opened to another. What goes to several
    /// GPUs comes over each one's link.
    Own,
    /// Those of all GPUs that this process sees. One that is no destination helps with its link: it takes a context there (some
    /// 500 MB) and up to 64 MiB of its memory, and what else it does may become slower.
    All,
    /// Those of these GPUs, named as in [`To`](crate::To).
    Gpus(Vec<String>),
}
