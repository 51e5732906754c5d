//! One result file to loads: all that can be read of it, and what has to be said of the rest.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Error, Result, anyhow, bail};
use serde::de::IgnoredAny;

use crate::analyze::read::record::{FileName, Flaws, Row};
use crate::analyze::read::split::{Items, Text};

/// What a file holds.
#[derive(Debug)]
pub enum Content {
    /// How many loads, and what is wrong with some of its records; the file's name belongs before each note.
    Loads(usize, Vec<String>),
    /// JSON, but no loads: a verification, a ceiling, another program's.
    Other,
    /// It should hold loads and does not.
    Damaged(Error),
}

/// Each load goes to `see`.
pub fn read(path: &Path, mut see: impl FnMut(&Row, &FileName)) -> Content {
    let from_name = FileName::parse(path);
    let bytes = match bytes_of(path) {
        Ok(bytes) => bytes,
        Err(error) => return Content::Damaged(error),
    };
    let name = from_name.as_ref();
    let none = FileName::default();
    let mut see = |row: &Row| see(row, name.unwrap_or(&none));
    let content = match serde_json::from_slice::<Vec<Row>>(&bytes) {
        Ok(rows) if name.is_none() && !rows.iter().any(Row::is_load) => return Content::Other,
        Ok(rows) => {
            let place = |record| format!("record {record}");
            let (loads, notes) = each(rows.into_iter().map(Ok), name, place, &mut see);
            if loads == 0 && !notes.is_empty() {
                Err(anyhow!("{}", notes.join("; ")))
            } else {
                Ok((loads, notes))
            }
        }
        Err(_) if name.is_none() && holds_no_loads(&bytes) => return Content::Other,
        Err(error) => salvage(&bytes, name, &mut see).map_err(|why| why.unwrap_or(error.into())),
    };
    match content {
        Ok((loads, notes)) => Content::Loads(loads, notes),
        Err(error) => {
            let what = format!("{} is damaged, or not an array of load records", path.display());
            Content::Damaged(error.context(what))
        }
    }
}

/// How many rows are loads, and notes on the others. `place` says where a record stands, by its number from 1.
fn each<'a>(
    rows: impl Iterator<Item = Result<Row<'a>, String>>,
    from_name: Option<&FileName>,
    place: impl Fn(usize) -> String,
    see: &mut impl FnMut(&Row),
) -> (usize, Vec<String>) {
    let none = FileName::default();
    let (mut flaws, mut loads) = (Flaws::default(), 0);
    for row in rows {
        flaws.records += 1;
        let checked = row.and_then(|row| {
            row.check(from_name.unwrap_or(&none)).map_err(|why| why.to_string())?;
            Ok(row)
        });
        match checked {
            Ok(row) => {
                flaws.look_at(&row);
                see(&row);
                loads += 1;
            }
            Err(why) => flaws.leave_out(why),
        }
    }
    (loads, flaws.notes(place))
}

/// More of one file is no list of loads, and would not fit memory when parsed.
const FILE_BYTES_MAX: u64 = 512 << 20;

/// A file's bytes, if it is one: a pipe would be waited for, a device never ends.
pub fn bytes_of(path: &Path) -> Result<Vec<u8>> {
    let at = || format!("read {}", path.display());
    let facts = fs::metadata(path).with_context(at)?;
    if !facts.is_file() {
        bail!("{} is no regular file", path.display());
    }
    if facts.len() > FILE_BYTES_MAX {
        bail!(
            "{} has {} bytes, more than the {FILE_BYTES_MAX} that are read of one",
            path.display(),
            facts.len()
        );
    }
    fs::read(path).with_context(at)
}

/// What can be read of a text that is no array of records, one by one. Fails where that is nothing; without a reason
/// where the parser's is as good as any.
fn salvage(
    bytes: &[u8],
    from_name: Option<&FileName>,
    see: &mut impl FnMut(&Row),
) -> Result<(usize, Vec<String>), Option<Error>> {
    let text = Text::new(bytes);
    let items = records(&text);
    let place = |record: usize| {
        let at = items.whole.get(record - 1).map_or(0, |(at, _)| *at);
        format!("record {record}, {}", text.place(at))
    };
    let (loads, mut notes) = each(items.whole.iter().map(|(_, item)| row(item)), from_name, place, see);
    let records = items.whole.len();
    if let Some(at) = items.broken.filter(|_| records > 0) {
        let is_end = text.json().trim_ascii_end().len() <= at;
        let place = if is_end {
            format!("after record {records}")
        } else {
            format!("in record {} ({})", records + 1, text.place(at))
        };
        notes.push(format!("breaks off {place}; what stands before is kept"));
    }
    if loads == 0 {
        return Err((!notes.is_empty()).then(|| anyhow!("{}", notes.join("; "))));
    }
    Ok((loads, notes))
}

/// The records that a text holds: in arrays, one after another, or as the only such array of an object.
fn records<'a>(text: &'a Text) -> Items<'a> {
    let items = text.items();
    let [only] = items.whole.as_slice() else { return items };
    if row(only.1).is_ok_and(|row| row.is_load()) {
        return items;
    }
    let holds_loads =
        |array: &Items| array.whole.iter().any(|(_, item)| row(item).is_ok_and(|row| row.is_load()));
    let mut arrays: Vec<Items> = text.arrays_in(*only).into_iter().filter(holds_loads).collect();
    match arrays.pop() {
        Some(array) if arrays.is_empty() => array,
        _ => items,
    }
}

/// An array would be taken for a record's fields in their order.
fn row(item: &[u8]) -> Result<Row<'_>, String> {
    if !item.starts_with(b"{") {
        return Err("not an object".into());
    }
    serde_json::from_slice(item).map_err(|error| {
        let error = error.to_string();
        error.rsplit_once(" at line ").map_or(error.clone(), |(why, _)| why.to_string())
    })
}

/// Whole JSON of another shape. What breaks off in the middle is taken for damage.
pub fn holds_no_loads(bytes: &[u8]) -> bool {
    let text = Text::new(bytes);
    // Objects outside an array are loads only where they leave no doubt.
    let is_array = text.json().trim_ascii_start().starts_with(b"[");
    let is_load = |item: &[u8]| {
        let fields = serde_json::from_slice::<HashMap<String, IgnoredAny>>(item).unwrap_or_default();
        let has = |field: &str| fields.contains_key(field);
        if is_array {
            has("model_name") || has("loading_time")
        } else {
            has("model_name") && has("loading_time")
        }
    };
    let records = records(&text);
    let is_json = |item: &[u8]| serde_json::from_slice::<IgnoredAny>(item).is_ok();
    records.broken.is_none()
        && !records.whole.is_empty()
        && records.whole.iter().all(|(_, item)| is_json(item) && !is_load(item))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What it holds, and its loads' times.
    fn content(name: &str, text: &str) -> (Content, Vec<Option<f64>>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        let mut times = Vec::new();
        let content = read(&path, |row, _| times.push(row.time_s()));
        (content, times)
    }

    #[test]
    fn damage_is_an_error_with_its_place() {
        let deep = "[".repeat(10_000);
        let cases = [
            ("odd.json", "[{\"model_name\": \"m\",", "line 1 column 20"),
            (
                "odd.json",
                "[{\"loading_time\": 1, \"loading_time\": 2}]",
                "duplicate field `loading_time` (record 1, line 1",
            ),
            ("m_sllm_1_cached.json", "{}", "neither model_name nor loading_time (record 1, line 1"),
            ("m_sllm_1_cached.json", "[[1]]", "not an object (record 1, line 1 column 2)"),
            ("odd.json", "", "line 1"),
            ("odd.json", "[\n{\"loading_time\": NaN}]", "no model_name, and the file's name is not"),
            ("odd.json", "[{\"loading_time\": 1}]", "(record 1)"),
            ("odd.json", deep.as_str(), "line 1"),
        ];
        for (name, text, expected) in cases {
            let (Content::Damaged(error), _) = content(name, text) else { panic!("{text}") };
            let error = format!("{error:#}");
            assert!(error.contains(expected) && error.contains(name), "{text}: {error}");
        }
    }

    #[test]
    fn other_json_is_no_damage() {
        for text in [
            "{}",
            "[]",
            "[1, 2]",
            "{\"verified\": true}",
            "[{\"gb_per_s\": 3}]",
            "[{\"bytes\": -1}]",
            "7",
            "{\"a\": NaN}\n{}",
        ] {
            assert!(matches!(content("verify.json", text).0, Content::Other), "{text}");
        }
        assert!(matches!(content("m_sllm_0_cached.json", "[]").0, Content::Loads(0, _)));
    }

    #[test]
    fn a_record_counts_only_with_a_usable_time() {
        let (times, _) = kept(
            r#"[{"model_name":"m_0","loading_time":2.0}, {"model_name":"m_0","loading_time":0},
            {"model_name":"m_0","loading_time":-1}, {"model_name":"m_0"}, {"model_name":"m_0","loading_time":null},
            {"model_name":"m_0","loading_time":2.0,"error":"no space"}, {"model_name":"m_0","loading_time":{"s":1}},
            {"model_name":"m_0","loading_time":2.0,"verified":false},
            {"model_name":"m_0","loading_time":2.0,"verified":true,"error":null}]"#,
        );
        assert_eq!(times, [Some(2.0), None, None, None, None, None, None, None, Some(2.0)]);
    }

    /// The times and notes of a file.
    fn kept(text: &str) -> (Vec<Option<f64>>, Vec<String>) {
        let (Content::Loads(_, notes), times) = content("m_sllm_9_cached.json", text) else {
            panic!("{text}")
        };
        (times, notes)
    }

    #[test]
    fn bad_records_are_counted_by_their_cause_and_good_ones_kept() {
        let (times, notes) = kept(
            r#"[{"model_name":"m_0","loading_time":1}, {"model_name":"m_1","loading_time":NaN}, 7, {"model_name":"m"},
            {"model_name":"m_2","loading_time":-Infinity}, {"model_name":"m","loading_time":"1.5"}, {"model_name":3}, 8,
            {"model_name":"m","loading_time":null}, {"model_name":"m","loading_time":1e300}, {"model_name":"m_3","loading_time":2}]"#,
        );
        assert_eq!(times, [Some(1.0), None, None, None, None, None, None, Some(2.0)]);
        let expected = [
            "3 of 11 records are left out: invalid type: integer `3`, expected a string (record 7, line 2 column 101); \
             not an object (record 3, line 1 column 82, and 1 more)",
            "6 of 11 records have no usable loading_time and count as failed: 1 below 1 ns or above 1e9 s, 1 missing, \
             2 not finite, 1 null, 1 text",
        ];
        assert_eq!(notes, expected);
        // Without damage to the text, too.
        let (times, notes) =
            kept(r#"[{"model_name":"m","loading_time":0},{"model_name":"m","loading_time":"x"},{}]"#);
        assert_eq!(times, [None, None]);
        assert!(
            notes[0].contains("1 of 3 records are left out: neither model_name nor loading_time (record 3)")
        );
        assert!(
            notes[1].contains("2 of 3 records") && notes[1].contains("1 not above 0, 1 text"),
            "{notes:?}"
        );
        let failed =
            r#"[{"model_name":"m","error":"no space"},{"model_name":"m","loading_time":1,"verified":false}]"#;
        assert!(kept(failed).1.is_empty(), "a failed load is no flaw of its file");
    }

    #[test]
    fn other_figures_do_not_take_a_load_with_them() {
        let (times, notes) = kept(
            r#"[{"model_name":"m","loading_time":1,"throughput":NaN,"resident_before":NaN},
            {"model_name":"m","loading_time":2,"bytes":-1}]"#,
        );
        assert_eq!(times, [Some(1.0), Some(2.0)]);
        let expected =
            "figures that are no numbers are left out, their loads are kept: 1 bytes, 1 throughput";
        assert_eq!(notes, [expected]);
    }

    #[test]
    fn what_is_plainly_meant_is_read() {
        let one = r#"{"model_name":"m","loading_time":1}"#;
        for text in [
            format!("\u{feff}[{one}]"),
            one.to_string(),
            format!("{{\"version\": [1], \"results\": [{one}]}}"),
            format!("[{one},]"),
        ] {
            assert_eq!(kept(&text), (vec![Some(1.0)], Vec::new()), "{text}");
        }
        assert_eq!(kept(&format!("{one}\n{one}\n")).0.len(), 2);
        assert_eq!(kept(&format!("[{one}]\n[{one}]")).0.len(), 2);
        // Under any name.
        assert!(matches!(content("odd.json", one).0, Content::Loads(..)));
        assert!(matches!(content("odd.json", r#"{"model_name":"m"}"#).0, Content::Other));
        // Two lists of one object may be of different things.
        let two = format!("{{\"a\": [{one}], \"b\": [{one}]}}");
        assert!(matches!(content("m_sllm_9_cached.json", &two).0, Content::Damaged(_)));
    }

    #[test]
    fn a_file_that_breaks_off_keeps_its_whole_records() {
        let one = r#"{"model_name":"m","loading_time":1}"#;
        let (times, notes) = kept(&format!("[{one},\n{one}, {{\"model_na"));
        assert_eq!(times.len(), 2);
        assert_eq!(notes, ["breaks off in record 3 (line 2 column 38); what stands before is kept"]);
        let (times, notes) = kept(&format!("[{one}"));
        assert_eq!(times.len(), 1);
        assert_eq!(notes, ["breaks off after record 1; what stands before is kept"]);
        let (times, notes) = kept(&format!("{one}\n{{\"model_na\n{one}\n"));
        assert_eq!(times.len(), 2);
        assert!(
            notes[0].contains("1 of 3 records are left out") && notes[0].contains("record 2, line 2"),
            "{notes:?}"
        );
    }
}
