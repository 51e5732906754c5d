//! udev's database: cuFile asks it, not the kernel, what a block device holds.

use crate::node::source::{Source, Unread};

/// What udev knows of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    Lines(Vec<String>),
    Missing,
    /// There is no database, as in containers.
    NoDatabase,
    Unread(Unread),
}

impl Entry {
    pub fn has(&self, line: &str) -> bool {
        matches!(self, Entry::Lines(lines) if lines.iter().any(|l| l == line))
    }
}

/// Where the entry of a block device stands, by its number (`259:2`).
pub fn file(number: &str) -> String {
    format!("/run/udev/data/b{number}")
}

pub fn entry(source: &Source, number: &str) -> Entry {
    match source.text(&file(number)) {
        Ok(text) => Entry::Lines(text.lines().map(str::to_string).collect()),
        Err(Unread::Missing) => match source.is_there("/run/udev") {
            Ok(true) => Entry::Missing,
            Ok(false) => Entry::NoDatabase,
            Err(why) => Entry::Unread(why),
        },
        Err(why) => Entry::Unread(why),
    }
}
