//! What a run leaves in the results directory.

use std::path::Path;

use anyhow::{Context, Result};

use crate::qualify::html;
use crate::qualify::records;
use crate::qualify::report::Report;
use crate::record::environment;
use crate::record::names::{QUALIFY_FILE, QUALIFY_PAGE};
use crate::record::result::write_json;

/// Writes the record, the page, the loads' records, and the environment that these name. All at the end: a run that
/// was killed leaves the earlier one's files as they were.
pub fn write(report: &Report<'_>, results: &Path) -> Result<()> {
    let mut environment = report.environment.clone();
    environment["notes"] = report.seen.notes.clone().into();
    environment::write(results, report.run_id, environment)?;
    records::write(results, report.model, report.loads.cold, report.loads.warm)?;
    write_json(&results.join(QUALIFY_FILE), report)?;
    let page = results.join(QUALIFY_PAGE);
    std::fs::write(&page, html::page(report)).with_context(|| format!("write {}", page.display()))
}
