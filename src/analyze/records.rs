//! Every record on a page: the files are read once more, since figures need only part of a record.

use std::collections::HashMap;

use anyhow::Result;

use crate::analyze::Analysis;
use crate::analyze::file::bytes_of;
use crate::analyze::group_key::printable;
use crate::analyze::html_parts::{Cell, Row, table};
use crate::analyze::read::SourceFile;
use crate::analyze::row::Row as Load;
use crate::analyze::salvage::each_load;
use crate::analyze::table::{rate, seconds};
use crate::record::result::Record;

/// A page with more takes long to open on a phone.
const MAX_RECORDS: usize = 10_000;
const HEADER: [&str; 13] = [
    "record",
    "host",
    "format",
    "engine",
    "to",
    "load s",
    "GB/s",
    "transfer s",
    "path",
    "in page cache",
    "bytes checked",
    "started (UTC)",
    "error",
];

/// The table of records; of a large fleet, those of the worst nodes first, and what the page does not hold is said.
pub fn html(analysis: &Analysis) -> Result<String> {
    let mut ranks: HashMap<&str, usize> = HashMap::new();
    if let Some(fleet) = &analysis.fleet {
        ranks.extend(fleet.worst.iter().enumerate().map(|(rank, node)| (node.name.as_str(), rank)));
    }
    let host_name = |host: u32| analysis.hosts.hosts.get(host as usize).map_or("", |host| host.name.as_str());
    let rank = |file: &&SourceFile| {
        let ranks = file.run_hosts.iter().filter_map(|(_, host)| ranks.get(host_name(*host)));
        ranks.min().copied().unwrap_or(usize::MAX)
    };
    let mut files: Vec<&SourceFile> = analysis.files.iter().collect();
    files.sort_by_cached_key(rank);

    let all: usize = analysis.groups.iter().map(|group| group.samples_s.len() + group.errors).sum();
    let mut rows = Vec::new();
    for file in files {
        if rows.len() >= MAX_RECORDS {
            break;
        }
        let bytes = bytes_of(&file.path)?;
        each_load(&file.path, &bytes, |text, load| {
            if rows.len() < MAX_RECORDS {
                let host = file.run_hosts.iter().find(|(run_id, _)| *run_id == load.run_id);
                rows.push(row(&whole(text, &load), host.map_or("", |(_, host)| host_name(*host))));
            }
        });
    }
    let mut text = format!("<p class=\"soft\">{} of {all} records", rows.len());
    if rows.len() < all {
        text.push_str(&format!(
            ", the worst nodes' first: a page holds at most {MAX_RECORDS}; the files have all"
        ));
    }
    text.push_str(".</p>");
    Ok(text + &table(&HEADER.map(String::from), 5, rows, true))
}

/// The whole record; where a part of it is not as it should be, what figures took of it.
fn whole(text: &[u8], load: &Load) -> Record {
    let parsed: Option<Record> = serde_json::from_slice(text).ok().filter(|_| load.flaw().is_none());
    parsed.unwrap_or_else(|| Record {
        model_name: load.model_name.to_string(),
        format: load.format.to_string(),
        engine: load.engine.to_string(),
        loading_time: load.time_s(),
        error: load.flaw().map(|flaw| format!("loading_time is {flaw}")),
        ..Record::default()
    })
}

fn row(record: &Record, host: &str) -> Row {
    let text = |text: &str| Cell::text(printable(text));
    let percent = |share: f64| format!("{:.0} %", share * 100.0);
    let rate_of = |time_s: f64| rate(record.bytes as f64 / time_s / 1e9);
    let failed = record.error.is_some() || record.verified == Some(false) || record.loading_time.is_none();
    let checked = match record.verified {
        Some(true) => "right",
        Some(false) => "WRONG",
        None => "no",
    };
    let known_bytes = record.loading_time.filter(|time_s| record.bytes > 0 && *time_s > 0.0);
    let cells = vec![
        text(&record.model_name),
        text(host),
        text(&record.format),
        text(&record.engine),
        text(&record.gpus.join(",")),
        Cell::Number(record.loading_time.map(seconds).unwrap_or_default()),
        Cell::Number(known_bytes.map(rate_of).unwrap_or_default()),
        Cell::Number(record.phases.map(|phases| seconds(phases.transfer_s)).unwrap_or_default()),
        text(&record.path),
        Cell::Number(record.resident_before.map(percent).unwrap_or_default()),
        text(checked),
        text(&utc(record.started_at_s)),
        Cell::wide(record.error.iter().map(|error| printable(error)).collect()),
    ];
    Row::Cells(cells, failed.then_some("bad"))
}

/// `2026-11-24 08:57:10`; empty for a time that no clock shows.
fn utc(since_epoch_s: f64) -> String {
    // Up to the year 9999.
    if !(1.0..253_402_300_800.0).contains(&since_epoch_s) {
        return String::new();
    }
    let seconds = since_epoch_s as i64;
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Howard Hinnant's civil_from_days: years begin in March, so that leap days come last.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(utc(1.0), "1970-01-01 00:00:01");
        assert_eq!(utc(951_782_400.0), "2000-02-29 00:00:00");
        assert_eq!(utc(1_795_505_391.986), "2026-11-24 07:29:51");
        assert_eq!(utc(4_107_542_399.0), "2100-02-28 23:59:59");
        assert_eq!(utc(4_107_542_400.0), "2100-03-01 00:00:00");
        assert_eq!([utc(f64::NAN), utc(-1.0), utc(1e300)], ["", "", ""]);
    }
}
