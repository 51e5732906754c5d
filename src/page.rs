//! What analyze's pages and qualify's share.

/// The frame of a page, and lists.
pub mod document;
/// Text that stays text.
pub mod escape;
