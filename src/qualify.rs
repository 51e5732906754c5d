//! qualify

/// Why a rate is too low.
pub mod causes;
mod command;
/// Pinned copies, and the link under them.
mod copies;
/// A criterion, judged.
mod criterion;
/// Which drives served the reads.
mod drives;
/// Facts that a machine may tell or not.
mod fact;
/// What a run leaves.
mod files;
/// Reads by fio.
mod fio;
/// The GPUs under test.
mod gpus;
/// Health over the run.
mod health;
/// The page for a browser.
mod html;
/// What PCIe links allow.
mod limits;
/// Loads by the loader.
mod loads;
/// Figures and rounds.
mod measure;
/// All that a run saw.
mod observations;
/// The page for a terminal.
mod page;
/// What a machine is held to.
mod profile;
/// Raw reads.
mod raw;
/// Its loads' records, and those of earlier runs.
mod records;
/// The record of a run.
mod report;
/// One run, step by step.
mod run;
/// The directory that all is written in.
mod scratch;
/// Criteria that are no rate.
mod state;
/// Limits on this process's reads.
mod throttle;
/// Criteria, judged.
mod verdict;
/// Which checkpoint a size gets.
mod workload;

pub use command::*;
