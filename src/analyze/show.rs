//! Figures as text, tables, a plot, a page.

/// What a plot is made of.
mod canvas;
/// A fleet as text and markdown.
pub mod fleet_table;
/// Every output of an analysis.
pub mod output;
/// Everything on one page.
mod page;
/// Tables for a page.
mod page_parts;
/// Groups to a picture.
pub mod plot;
/// Every record on a page.
mod records;
/// The files that ServerlessLLM's suite writes.
mod summary;
/// Groups and frames as text, markdown, CSV and JSON.
pub mod table;
/// What results come to, in sentences.
pub mod words;
