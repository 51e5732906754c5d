//! What tells that a choice of weights may not be all of the model, or not all of one state: downloads that have not ended,
//! shards of two commits, weights in folders beside.

use anyhow::{Result, bail};

use crate::checkpoint::beside;
use crate::checkpoint::names::MAIN_INDEX;
use crate::checkpoint::under_way::{BLOBS, FOLDERS, UnderWay, is_under_way, under_way};

/// Weights that were chosen.
pub struct Choice<'c> {
    /// The weights and their index.
    pub own: Vec<String>,
    pub files: &'c [String],
    /// Weights in folders that were not chosen.
    pub below: &'c [String],
    /// Whether the names alone tell that nothing is missing.
    pub is_surely_whole: bool,
}

/// Refuses a choice that may not be whole.
pub fn check(chosen: &Choice<'_>, names: &[String], read: &dyn Fn(&str) -> Result<String>) -> Result<()> {
    check_under_way(chosen, names)?;
    check_commits(chosen.files, names, read)?;
    check_folders(chosen, names, read)
}

/// Refuses what a download or copy that has not ended may change: a chosen file, or a choice that is not surely whole.
fn check_under_way(chosen: &Choice<'_>, names: &[String]) -> Result<()> {
    let own = &chosen.own;
    // In a folder of the model's, what is not of a chosen file may be of another model.
    let is_in_reach = |name: &str| {
        !name.contains('/') || FOLDERS.iter().chain([&BLOBS]).any(|folder| name.starts_with(folder))
    };
    for name in names {
        let Some(found) = under_way(name) else { continue };
        if let Some(file) = own.iter().find(|file| is_under_way(name, file)) {
            bail!(
                "{name} belongs to a download or a copy of {file} that has not ended, so that is not whole, or older than \
                 the other files: let it end, or remove {name} if it is left from one that did"
            );
        }
        if chosen.is_surely_whole || !is_in_reach(name) {
            continue;
        }
        match found {
            UnderWay::StandsFor(file) if names.contains(&file) => {}
            UnderWay::StandsFor(file) => bail!(
                "{name} stands for {file}, which is not there, so files of the model may be missing: unpack it or fetch \
                 {file}, or remove {name} if it is no part of the model"
            ),
            UnderWay::Of(_) | UnderWay::Unknown => bail!(
                "{name} belongs to a download or a copy that has not ended, so files of the model may be missing: let it \
                 end, or remove {name} if it is left from one that did"
            ),
        }
    }
    Ok(())
}

/// Refuses shards of two commits: the hub's client, which notes the commit beside each file that it has fetched, notes the
/// new one at each file of an update, changed or not.
fn check_commits(files: &[String], names: &[String], read: &dyn Fn(&str) -> Result<String>) -> Result<()> {
    let mut first: Option<(&String, String)> = None;
    for file in files {
        let notes = FOLDERS.iter().map(|folder| format!("{folder}{file}.metadata"));
        let Some(note) = notes.into_iter().find(|note| names.contains(note)) else { continue };
        let text = read(&note).unwrap_or_default();
        let commit = text.lines().next().unwrap_or_default().trim().to_string();
        if commit.is_empty() {
            continue;
        }
        match &first {
            Some((other, its)) if *its != commit => bail!(
                "{other} was fetched of commit {its} and {file} of {commit}: an update was cut short; fetch the model again, \
                 or remove {note} if both are of one model"
            ),
            Some(_) => {}
            None => first = Some((file, commit)),
        }
    }
    Ok(())
}

/// Refuses weights in folders that may be the rest of the model: those beside a choice that is not surely whole.
fn check_folders(chosen: &Choice<'_>, names: &[String], read: &dyn Fn(&str) -> Result<String>) -> Result<()> {
    if chosen.is_surely_whole || chosen.below.is_empty() {
        return Ok(());
    }
    let parts = beside::parts(names, read)?;
    let is_other = |name: &&String| beside::is_in_left_out_folder(name) || beside::is_in(name, &parts);
    if let Some(name) = chosen.below.iter().find(|name| !is_other(name)) {
        bail!(
            "{name} lies in a folder beside {}, and no index says whether both are one model: fetch the model's index \
             ({MAIN_INDEX}), or name one file",
            chosen.files[0]
        );
    }
    Ok(())
}
