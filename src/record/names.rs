//! Names of the files that stand beside result files.

/// `qualify`'s record of a node, which `analyze` reads, too.
pub const QUALIFY_FILE: &str = "qualify.json";
/// What `analyze` writes as ServerlessLLM's suite does: it holds no results.
pub const SUMMARY_FILE: &str = "summary.json";
