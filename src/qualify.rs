//! A node held against what its parts allow, a profile, or an earlier node: measure, judge, report.
//!
//! Doctor's checks, ceilings measured here and now, real loads, health over all of it, and a verdict. Everything that
//! is seen is gathered in [`observations`]; the [`verdict`] and its [`causes`] are worked out from that alone.

/// What several GPUs' links reach at once.
pub mod at_once;
/// Why a rate is too low.
pub mod causes;
/// Pinned copies, and the link under them.
mod copies;
/// A criterion, judged.
pub mod criterion;
/// Numbers with as many digits as it takes.
mod digits;
/// Which drives served the reads.
mod drives;
/// What a run will take.
pub mod estimate;
/// Facts that a machine may tell or not.
mod fact;
/// What a run leaves.
pub mod files;
/// Reads by fio.
pub mod fio;
/// The GPUs under test.
pub mod gpus;
/// Health over the run.
mod health;
/// The page for a browser.
mod html;
/// How far a figure may be off.
mod interval;
/// How something was judged.
pub mod judged;
/// What PCIe links allow.
pub mod limits;
/// Loads by the loader.
mod loads;
/// Figures and rounds.
mod measure;
/// All that a run saw.
pub mod observations;
/// The page for a terminal.
pub mod page;
/// From one GPU to another.
mod peers;
/// What a machine is held to.
pub mod profile;
/// Measured rates against their limits.
mod rates;
/// Raw reads.
mod raw;
/// Its loads' records, and those of earlier runs.
pub mod records;
/// The record of a run.
pub mod report;
/// One run, step by step.
pub mod run;
/// What is measured, in what order, for how long.
pub mod schedule;
/// The directory that all is written in.
pub mod scratch;
/// What a run measures.
pub mod settings;
/// How many bytes to measure with.
pub mod size;
/// Criteria that are no rate.
mod state;
/// Limits on this process's reads.
mod throttle;
/// Criteria, judged.
pub mod verdict;
/// Which checkpoint a size gets.
pub mod workload;
