//! cli

/// `sllm-gds analyze`.
#[cfg(feature = "analyze")]
pub mod analyze;
/// `bench`: loads measured in turns.
#[cfg(feature = "cli")]
mod bench;
/// How a command finds a checkpoint.
mod checkpoint;
/// What can be asked, and who answers.
#[cfg(feature = "cli")]
mod command;
/// Shell completions and man pages, from the command line's own types.
#[cfg(feature = "cli")]
mod complete;
/// `doctor`: whether GPUDirect Storage works here.
#[cfg(feature = "cli")]
pub mod doctor;
/// How to load.
mod engine;
/// `export`: back to safetensors.
#[cfg(feature = "cli")]
mod export;
/// `inspect`: what a checkpoint holds.
#[cfg(feature = "cli")]
pub mod inspect;
/// `sllm-gds load`.
#[cfg(feature = "cli")]
pub mod load;
/// What a command came to.
mod outcome;
/// Everything that is printed.
#[cfg(feature = "cli")]
pub mod print;
/// What the program changes of its process.
#[cfg(feature = "cli")]
pub mod process;
/// Progress on a terminal, silence in a pipe.
#[cfg(feature = "cli")]
mod progress;
/// `sllm-gds qualify`.
#[cfg(feature = "cli")]
pub mod qualify;
/// `save`: a checkpoint in the partitioned layout.
#[cfg(feature = "cli")]
mod save;
/// The switches that errors mean.
#[cfg(feature = "cli")]
pub mod switches;
/// `verify`: digests from disk, and comparison.
#[cfg(feature = "cli")]
pub mod verify;
/// Sizes, shares, times, GPU lists.
mod words;

#[cfg(feature = "cli")]
pub use bench::BenchArgs;
pub use checkpoint::CheckpointArg;
#[cfg(feature = "cli")]
pub use command::{Cli, Command};
#[cfg(feature = "cli")]
pub use complete::{CompletionsArgs, ManArgs};
pub use engine::{EngineArgs, EngineChoice, IoChoice};
#[cfg(feature = "cli")]
pub use export::ExportArgs;
#[cfg(feature = "cli")]
pub use inspect::InspectArgs;
pub use outcome::Outcome;
#[cfg(feature = "cli")]
pub use save::SaveArgs;
#[cfg(feature = "cli")]
pub use verify::VerifyArgs;
pub use words::{Gpus, parse_duration, parse_gpus, parse_percent, parse_size, parse_tolerance};
