//! `sllm-gds list`: which models lie below the storage path.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use serde::Serialize;

use crate::checkpoint::Checkpoint;
use crate::cli::{Outcome, help, print, stored};
use crate::os::text;
use crate::os::text::size;

#[derive(Debug, Args)]
pub struct ListArgs {
    /// Where models live, by their names
    #[arg(long, default_value = "./models", value_name = "DIR", help_heading = help::WHERE)]
    pub storage_path: PathBuf,
    /// Print one JSON array instead of text
    #[arg(long, help_heading = help::OUTPUT)]
    pub json: bool,
}

/// A model; what could not be read of it is absent.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    layout: Option<String>,
    tensors: Option<usize>,
    /// On the drive.
    stored_bytes: Option<u64>,
    /// Whether `verify` has something to hold the bytes against.
    digests: bool,
    /// Why it can't be read.
    error: Option<String>,
}

pub fn run(args: &ListArgs) -> Result<Outcome> {
    if !args.storage_path.is_dir() {
        bail!(
            "the storage path {} is no directory: name the one that holds the models",
            args.storage_path.display()
        );
    }
    let rows: Vec<Row> =
        stored::names_below(&args.storage_path).into_iter().map(|name| row(name, args)).collect();
    if args.json {
        print::say_json(&serde_json::to_string_pretty(&rows)?);
        return Ok(Outcome::Yes);
    }
    if rows.is_empty() {
        print::say(format_args!(
            "no model lies below {}; `sllm-gds save` makes one",
            args.storage_path.display()
        ));
        return Ok(Outcome::Yes);
    }
    print::say_page(&table(&rows));
    print::say(format_args!(
        "a model is its directory: `rm -r {}` removes one",
        args.storage_path.join("NAME").display()
    ));
    Ok(Outcome::Yes)
}

fn row(name: String, args: &ListArgs) -> Row {
    match Checkpoint::open(args.storage_path.join(&name)) {
        Ok(checkpoint) => Row {
            layout: Some(checkpoint.layout.to_string()),
            tensors: Some(checkpoint.tensors.len()),
            stored_bytes: Some(checkpoint.stored_bytes()),
            digests: checkpoint.manifest.is_some()
                || checkpoint.chosen.indexed.as_ref().is_some_and(|indexed| !indexed.tensors.is_empty()),
            error: checkpoint.what_is_lost(),
            name,
        },
        Err(error) => {
            let error = Some(format!("{error:#}"));
            Row { name, layout: None, tensors: None, stored_bytes: None, digests: false, error }
        }
    }
}

fn table(rows: &[Row]) -> String {
    let width = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0).max("name".len());
    let mut page = format!("{:width$}  {:11}  {:>10}  {:>7}  digests\n", "name", "layout", "size", "tensors");
    for row in rows {
        let Row { name, layout, tensors, stored_bytes, digests, error } = row;
        let or = |known: Option<String>| known.unwrap_or_else(|| "-".to_string());
        let error = error.as_ref().map(|error| format!("  ({})", text::shortened(error, 200)));
        page += &format!(
            "{name:width$}  {:11}  {:>10}  {:>7}  {}{}\n",
            or(layout.clone()),
            or(stored_bytes.map(size)),
            or(tensors.map(|count| count.to_string())),
            if *digests { "yes" } else { "none" },
            error.unwrap_or_default()
        );
    }
    page
}
