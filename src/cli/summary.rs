//! The end of a run: the comparison, where the files are, and what to be wary of.

use anyhow::Result;
#[cfg(feature = "analyze")]
use std::path::PathBuf;

use crate::bench::Run;
use crate::os::text;

#[cfg(feature = "analyze")]
pub fn print(run: &Run<'_>, json: bool) -> Result<()> {
    let written: Vec<PathBuf> =
        run.files.iter().filter(|(_, records)| !records.is_empty()).map(|(path, _)| path.clone()).collect();
    if written.is_empty() {
        text::tell("no load was finished: there is nothing to compare");
        return Ok(());
    }
    let analysis = crate::analyze::summarize(&written)?;
    if json {
        text::say_json(&analysis.json()?);
    } else {
        text::say_page(&analysis.text(None)?);
    }
    for note in &analysis.notes {
        text::tell(note);
    }
    files_and_warnings(run);
    let plot = run.args.results.join(format!(
        "{}_{}_{}.png",
        run.prepared.model.replace('/', "_"),
        run.count,
        run.args.mode.name()
    ));
    analysis.plot(&plot)?;
    text::tell(format_args!("wrote {}", plot.display()));
    analysis.summary(&run.args.results)?;
    text::tell(format_args!("wrote {}", run.args.results.join("summary.txt").display()));
    Ok(())
}

#[cfg(not(feature = "analyze"))]
pub fn print(run: &Run<'_>, json: bool) -> Result<()> {
    if json {
        text::say_json(&serde_json::to_string_pretty(&run.records().collect::<Vec<_>>())?);
        return Ok(());
    }
    for record in run.records() {
        let time = record.loading_time.map_or("-".into(), |s| format!("{s:.4} s"));
        text::say(format_args!(
            "{} {} {time} {} {}",
            record.model_name, record.format, record.path, record.cache_state
        ));
    }
    files_and_warnings(run);
    Ok(())
}

/// Says which loads failed, and which were warm though meant cold.
fn files_and_warnings(run: &Run<'_>) {
    for record in run.records() {
        if let Some(error) = &record.error {
            text::tell(format_args!(
                "error: {} {} iteration {}: {error}",
                record.model_name, record.format, record.iteration
            ));
        }
    }
    let warm = run.records().filter(|r| r.meant_cold && r.cache_state != "cold").count();
    if warm > 0 {
        text::tell(format_args!(
            "warning: {warm} loads were meant to be cold, and their files were not out of the page cache"
        ));
    }
    let partly = run
        .records()
        .filter(|r| !r.meant_cold && r.resident_before.is_some_and(|share| share < 0.99))
        .count();
    if partly > 0 {
        text::tell(format_args!(
            "warning: {partly} loads were meant to be warm, and their files were not whole in the page cache"
        ));
    }
    for (path, _) in run.files.iter().filter(|(_, records)| !records.is_empty()) {
        text::tell(format_args!("wrote {}", path.display()));
    }
}
