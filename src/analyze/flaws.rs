//! What is wrong with the records of one file, counted by its cause.

use std::collections::BTreeMap;

use crate::analyze::row::Row;

/// More causes than these are counted.
const MAX_CAUSES: usize = 5;

#[derive(Debug, Default)]
pub struct Flaws {
    /// Records of any kind.
    pub records: usize,
    /// Cause to the numbers of records that are no loads.
    left_out: BTreeMap<String, Vec<usize>>,
    /// Cause to how many loads have no usable time.
    no_time: BTreeMap<&'static str, usize>,
    /// Figure to how many loads have none that is a number.
    no_figure: BTreeMap<&'static str, usize>,
}

impl Flaws {
    /// The record that was counted last is no load.
    pub fn leave_out(&mut self, why: String) {
        self.left_out.entry(why).or_default().push(self.records);
    }

    /// It is one.
    pub fn look_at(&mut self, row: &Row) {
        if let Some(cause) = row.flaw() {
            *self.no_time.entry(cause).or_default() += 1;
        }
        if let Some(figure) = row.odd_figure() {
            *self.no_figure.entry(figure).or_default() += 1;
        }
    }

    /// A line for each kind. `place` says where a record stands, by its number from 1.
    pub fn notes(&self, place: impl Fn(usize) -> String) -> Vec<String> {
        let mut notes = Vec::new();
        if !self.left_out.is_empty() {
            let cause = |(why, records): (&String, &Vec<usize>)| {
                let first = records.first().map(|record| place(*record)).unwrap_or_default();
                let more = records.len().saturating_sub(1);
                let more = if more > 0 { format!(", and {more} more") } else { String::new() };
                format!("{why} ({first}{more})")
            };
            let mut causes: Vec<String> = self.left_out.iter().take(MAX_CAUSES).map(cause).collect();
            if self.left_out.len() > MAX_CAUSES {
                causes.push(format!("and {} other causes", self.left_out.len() - MAX_CAUSES));
            }
            let bad: usize = self.left_out.values().map(Vec::len).sum();
            notes.push(format!("{bad} of {} records are left out: {}", self.records, causes.join("; ")));
        }
        if !self.no_time.is_empty() {
            notes.push(format!(
                "{} of {} records have no usable loading_time and count as failed: {}",
                self.no_time.values().sum::<usize>(),
                self.records,
                each(&self.no_time)
            ));
        }
        if !self.no_figure.is_empty() {
            let figures = each(&self.no_figure);
            notes.push(format!("figures that are no numbers are left out, their loads are kept: {figures}"));
        }
        notes
    }
}

fn each(counts: &BTreeMap<&str, usize>) -> String {
    counts.iter().map(|(what, count)| format!("{count} {what}")).collect::<Vec<_>>().join(", ")
}
