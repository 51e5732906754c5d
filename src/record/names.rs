//! Names of the files that stand beside result files.

/// `qualify`'s record of a node, which `analyze` reads, too.
pub const QUALIFY_FILE: &str = "qualify.json";
/// The same for a browser.
pub const QUALIFY_PAGE: &str = "qualify.html";
/// What `analyze` writes as ServerlessLLM's suite does: it holds no results.
pub const SUMMARY_FILE: &str = "summary.json";
