//! Result files to tables, speedups, plots and reports.

/// Result files to every figure.
mod analysis;
/// What a plot is made of.
mod canvas;
/// What is described of a machine.
mod description;
/// What sets a machine apart.
mod difference;
/// One result file to loads.
mod file;
/// What a result file's name says of its loads.
mod file_name;
/// Where result files lie.
mod find;
/// What is wrong with a file's records.
mod flaws;
/// Slow, failing and missing nodes.
pub mod fleet;
/// A fleet as CSV and JSON.
mod fleet_data;
/// A fleet as text and markdown.
mod fleet_table;
/// What loads must have in common to be averaged.
pub mod group_key;
/// Whose loads these are.
pub mod host;
/// Everything on one page.
pub mod html;
/// Tables for a page.
mod html_parts;
/// Folders that may be of several machines.
mod identity_warnings;
/// The words of many descriptions, each kept once.
pub mod interner;
/// A text to its parts, whole or not.
mod items;
/// The loads of one result file.
mod loads;
/// An analysis as text, tables, a plot, a page.
pub mod output;
/// One function over many items, on every core.
/// Groups to a picture.
pub mod plot;
/// What `qualify` said of a node.
pub mod qualified;
/// Finding and reading result files.
pub mod read;
/// Every record on a page.
mod records;
/// These groups against earlier ones.
pub mod regress;
/// Outliers by median and MAD.
pub mod robust;
/// One record, and what is wrong with it.
mod row;
/// The records of a file that is damaged or not quite one of ours.
mod salvage;
/// Grouping, percentiles, bootstrap: how each figure is made.
pub mod stats;
/// The files that ServerlessLLM's suite writes.
pub mod summary;
/// Groups as text, markdown, CSV and JSON.
pub mod table;
/// What results come to, in sentences.
mod verdict;

pub use analysis::*;
