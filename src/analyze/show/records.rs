//! Every record on a page: the rows of the frame of loads.

use std::collections::HashMap;

use anyhow::Result;

use crate::analyze::Analysis;
use crate::analyze::frame;
use crate::analyze::show::format::{rate, seconds};
use crate::analyze::show::part;
use crate::analyze::show::part::{Grid, Kind, Part, Row};

/// A page with more takes long to open on a phone.
const MAX_RECORDS: usize = 10_000;
const COLUMNS: [(&str, Kind); 13] = [
    ("record", Kind::Text),
    ("host", Kind::Text),
    ("format", Kind::Text),
    ("engine", Kind::Text),
    ("to", Kind::Text),
    ("load s", Kind::Number),
    ("GB/s", Kind::Number),
    ("transfer s", Kind::Number),
    ("path", Kind::Text),
    ("in page cache", Kind::Number),
    ("bytes checked", Kind::Text),
    ("started (UTC)", Kind::Text),
    ("error", Kind::Wide),
];

/// The table of records; of a large fleet, those of the worst nodes first, and what the page does not hold is said.
pub fn html(analysis: &Analysis) -> Result<String> {
    let worst = analysis.fleet.as_ref().map_or([].as_slice(), |fleet| fleet.worst.as_slice());
    let ranks: HashMap<&str, usize> =
        worst.iter().enumerate().map(|(rank, node)| (node.name.as_str(), rank)).collect();
    let hosts = analysis.loads.column("host")?.str()?;
    let rank = |row: &usize| hosts.get(*row).and_then(|host| ranks.get(host)).copied().unwrap_or(usize::MAX);
    let all = analysis.loads.height();
    let mut order: Vec<usize> = (0..all).collect();
    order.sort_by_key(rank);
    order.truncate(MAX_RECORDS);
    let loads = frame::rows(&analysis.loads);
    let rows = order.iter().filter_map(|row| loads.get(*row)).map(of_load).collect::<Result<Vec<Row>>>()?;
    let mut note = format!("{} of {all} records", rows.len());
    if rows.len() < all {
        note.push_str(&format!(
            ", the worst nodes' first: a page holds at most {MAX_RECORDS}; the files have all"
        ));
    }
    let columns = COLUMNS.map(|(name, kind)| (name.to_string(), kind)).into();
    let grid = Grid { columns, sections: None, rows };
    Ok(part::html(&[Part::Note(note + "."), Part::Grid(grid)], true))
}

fn of_load(load: &frame::Row) -> Result<Row> {
    let time_s = load.number("time_s")?;
    let rate_of = |(bytes, time_s): (f64, f64)| rate(bytes / time_s / 1e9);
    let in_words = |value: Option<f64>, words: fn(f64) -> String| value.map(words).unwrap_or_default();
    let checked = match load.is("verified")? {
        Some(true) => "right",
        Some(false) => "WRONG",
        None => "no",
    };
    let cells = vec![
        load.text("record")?,
        load.text("host")?,
        load.text("format")?,
        load.text("engine")?,
        load.text("destination")?,
        in_words(time_s, seconds),
        load.number("bytes")?.zip(time_s).map(rate_of).unwrap_or_default(),
        in_words(load.number("transfer_s")?, seconds),
        load.text("path")?,
        in_words(load.number("resident_before")?, |share| format!("{:.0} %", share * 100.0)),
        checked.into(),
        in_words(load.number("started_at_s")?, utc),
        load.text("error")?,
    ];
    Ok(Row { section: String::new(), cells, class: time_s.is_none().then_some("bad") })
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
