//! A result file that is no array of records, but holds some: what can be read of it, record by record.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Error, Result, anyhow};
use serde::de::IgnoredAny;

use crate::analyze::file_name::FileName;
use crate::analyze::items::{Items, Text};
use crate::analyze::loads::{Loads, add};
use crate::analyze::row::Row;

/// What can be read of a text that is no array of records, one by one. Fails where that is nothing; without a reason
/// where the parser's is as good as any.
pub fn salvage(bytes: &[u8], from_name: Option<&FileName>) -> Result<Loads, Option<Error>> {
    let text = Text::new(bytes);
    let items = records(&text);
    let mut loads = Loads::default();
    let rows = items.whole.iter().map(|(_, item)| row(item));
    let place = |record: usize| {
        let at = items.whole.get(record - 1).map_or(0, |(at, _)| *at);
        format!("record {record}, {}", text.place(at))
    };
    add(&mut loads, rows, from_name.unwrap_or(&FileName::default()), place);
    let records = items.whole.len();
    if let Some(at) = items.broken.filter(|_| records > 0) {
        let is_end = text.json().trim_ascii_end().len() <= at;
        loads.notes.push(match is_end {
            true => format!("breaks off after record {records}; what stands before is kept"),
            false => {
                format!(
                    "breaks off in record {} ({}); what stands before is kept",
                    records + 1,
                    text.place(at)
                )
            }
        });
    }
    if loads.loads.is_empty() {
        return Err((!loads.notes.is_empty()).then(|| anyhow!("{}", loads.notes.join("; "))));
    }
    Ok(loads)
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

/// Each record that counts as a load, with its text: for those who need more of it than figures do.
pub fn each_load(path: &Path, bytes: &[u8], mut see: impl FnMut(&[u8], Row)) {
    let from_name = FileName::parse(path).unwrap_or_default();
    let text = Text::new(bytes);
    for (_, item) in records(&text).whole {
        if let Some(row) = row(item).ok().filter(|row| row.key(&from_name).is_ok()) {
            see(item, row);
        }
    }
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
    use crate::analyze::file;
    use crate::analyze::file::Content;

    fn content(name: &str, text: &str) -> Content {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        file::read(&path)
    }

    /// The times and notes of a file.
    fn kept(text: &str) -> (Vec<Option<f64>>, Vec<String>) {
        let Content::Loads(found) = content("m_sllm_9_cached.json", text) else { panic!("{text}") };
        (found.loads.iter().map(|load| load.time_s).collect(), found.notes)
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
        assert!(matches!(content("odd.json", one), Content::Loads(_)));
        assert!(matches!(content("odd.json", r#"{"model_name":"m"}"#), Content::Other));
        // Two lists of one object may be of different things.
        let two = format!("{{\"a\": [{one}], \"b\": [{one}]}}");
        assert!(matches!(content("m_sllm_9_cached.json", &two), Content::Damaged(_)));
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
