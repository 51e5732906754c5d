//! The command line: one file a command, with its arguments, its run, and what it prints.

/// `sllm-gds analyze`.
#[cfg(feature = "analyze")]
pub mod analyze;
/// `bench`: loads measured in turns.
mod bench;
/// How a command finds a checkpoint.
mod checkpoint;
/// What can be asked, and who answers.
mod command;
/// Shell completions and man pages, from the command line's own types.
mod complete;
/// `doctor`: whether GPUDirect Storage works here.
pub mod doctor;
/// How to load.
mod engine;
/// `export`: back to safetensors.
mod export;
/// What `--help` says beside the options.
mod help;
/// `index`: safetensors as they are for ServerlessLLM's clients.
mod index;
/// `inspect`: what a checkpoint holds.
pub mod inspect;
/// `list`: the models below a storage path.
mod list;
/// `sllm-gds load`.
pub mod load;
/// What a command came to.
mod outcome;
/// `pack`: a checkpoint in fewer bytes.
mod pack;
/// Everything that is printed.
pub mod print;
/// What the program changes of its process.
pub mod process;
/// Progress on a terminal, silence in a pipe.
mod progress;
/// `sllm-gds qualify`.
pub mod qualify;
/// `save`: a checkpoint in the partitioned layout.
mod save;
/// `serve`: the store server.
#[cfg(feature = "serve")]
mod serve;
/// `status`: what a store server holds and does.
#[cfg(feature = "client")]
mod status;
/// The models below a storage path, and what a name may mean.
mod stored;
/// The switches that errors mean.
pub mod switches;
/// `verify`: digests from disk, and comparison.
pub mod verify;
/// Sizes, shares, times, GPU lists.
mod words;

pub use bench::BenchArgs;
pub use checkpoint::CheckpointArg;
pub use command::{Cli, Command};
pub use complete::{CompletionsArgs, ManArgs};
pub use engine::{EngineArgs, EngineChoice, IoChoice};
pub use export::ExportArgs;
pub use index::IndexArgs;
pub use inspect::InspectArgs;
pub use outcome::Outcome;
pub use pack::PackArgs;
pub use save::SaveArgs;
pub use verify::VerifyArgs;
pub use words::{Gpus, parse_duration, parse_gpus, parse_percent, parse_size, parse_tolerance};
