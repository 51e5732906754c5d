//! Figures as text, tables, a plot, a page.

/// What a plot is made of.
mod canvas;
/// A fleet in words, rows and JSON.
mod fleet_table;
/// Figures in words.
mod format;
/// Groups of loads as a table; frames as CSV and JSON.
mod loads;
/// Every output of an analysis.
pub mod output;
/// Everything on one page.
mod page;
/// Words, lists and tables as text, markdown and HTML.
mod part;
/// Groups to a picture.
pub mod plot;
/// Every record on a page.
mod records;
/// The files that ServerlessLLM's suite writes.
mod summary;
/// Every table of an analysis.
pub mod tables;
/// What results come to, in sentences.
pub mod words;
