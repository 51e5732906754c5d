//! What a run compares, and how it goes about it.

/// Which checkpoints are loaded, and in which order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// One checkpoint again and again.
    Cached,
    /// Many replicas in random order, each read cold.
    Random,
}

impl Mode {
    pub const ALL: [Mode; 2] = [Mode::Cached, Mode::Random];

    /// As in file names and records.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Cached => "cached",
            Mode::Random => "random",
        }
    }
}

/// Files of a layout, and the loader that loads them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Our loader on the partitioned layout.
    Sllm,
    /// Our loader on packed weights.
    SllmPacked,
    /// The baseline: SafeTensors as its users load.
    Safetensors,
    /// Our loader on the unmodified safetensors files.
    SafetensorsDirect,
    /// A peer in Python: safetensors 0.9 and its prefetch.
    SafetensorsPrefetch,
    /// A peer in Python.
    Fastsafetensors,
    /// A peer in Python: Run:ai Model Streamer.
    RunaiStreamer,
    /// A peer in Python.
    Instanttensor,
}

impl Format {
    pub const ALL: [Format; 8] = [
        Format::Sllm,
        Format::SllmPacked,
        Format::Safetensors,
        Format::SafetensorsDirect,
        Format::SafetensorsPrefetch,
        Format::Fastsafetensors,
        Format::RunaiStreamer,
        Format::Instanttensor,
    ];

    /// As in file names and records.
    pub fn name(self) -> &'static str {
        match self {
            Format::Sllm => "sllm",
            Format::SllmPacked => "sllm-packed",
            Format::Safetensors => "safetensors",
            Format::SafetensorsDirect => "safetensors-direct",
            Format::SafetensorsPrefetch => "safetensors-prefetch",
            Format::Fastsafetensors => "fastsafetensors",
            Format::RunaiStreamer => "runai-streamer",
            Format::Instanttensor => "instanttensor",
        }
    }

    /// Whether it is our own loader.
    pub fn is_ours(self) -> bool {
        matches!(self, Format::Sllm | Format::SllmPacked | Format::SafetensorsDirect)
    }

    /// Whether it loads safetensors files.
    pub fn is_of_safetensors(self) -> bool {
        !matches!(self, Format::Sllm | Format::SllmPacked)
    }

    /// Whether it can't load into host memory.
    pub fn wants_gpu(self) -> bool {
        matches!(self, Format::SafetensorsPrefetch | Format::Instanttensor)
    }
}

/// Whose SafeTensors the baseline is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Baseline {
    /// The crate, in this process.
    Rust,
    /// The Python library, in a process of its own.
    Python,
}

impl Baseline {
    pub const ALL: [Baseline; 2] = [Baseline::Rust, Baseline::Python];

    pub fn name(self) -> &'static str {
        match self {
            Baseline::Rust => "rust",
            Baseline::Python => "python",
        }
    }
}
