//! The loads of one result file, and what is to be said of its other records.

use crate::analyze::file_name::FileName;
use crate::analyze::flaws::Flaws;
use crate::analyze::group_key::GroupKey;
use crate::analyze::row::{FileLoad, Row};

/// Keys and runs stand once, and loads point to them: a file nearly always has one of each.
#[derive(Debug, Default)]
pub struct Loads {
    pub keys: Vec<GroupKey>,
    pub run_ids: Vec<String>,
    pub loads: Vec<FileLoad>,
    /// What is wrong with some of its records; the file's name belongs before each.
    pub notes: Vec<String>,
}

/// Adds the rows that are loads, and notes on the others. `place` says where a record stands, by its number from 1.
pub fn add<'a>(
    found: &mut Loads,
    rows: impl Iterator<Item = Result<Row<'a>, String>>,
    from_name: &FileName,
    place: impl Fn(usize) -> String,
) {
    let (mut key, mut run) = (0, 0);
    let mut before: Option<Row> = None;
    let mut flaws = Flaws::default();
    for row in rows {
        flaws.records += 1;
        let row = match row {
            Ok(row) => row,
            Err(why) => {
                flaws.leave_out(why);
                continue;
            }
        };
        if before.as_ref().is_none_or(|before| !row.same_key(before)) || !row.is_load() {
            match row.key(from_name) {
                Ok(new) => key = index_of(&mut found.keys, new),
                Err(why) => {
                    flaws.leave_out(why.to_string());
                    continue;
                }
            }
        }
        if before.as_ref().is_none_or(|before| row.run_id != before.run_id) {
            run = index_of(&mut found.run_ids, row.run_id.to_string());
        }
        flaws.look_at(&row);
        found.loads.push(row.load(key, run));
        before = Some(row);
    }
    found.notes.extend(flaws.notes(place));
}

fn index_of<T: PartialEq>(known: &mut Vec<T>, item: T) -> u32 {
    let index = known.iter().position(|other| *other == item).unwrap_or_else(|| {
        known.push(item);
        known.len() - 1
    });
    index as u32
}
