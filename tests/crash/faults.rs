//! A full disk and a broken one, at every call that can meet them.

use std::collections::BTreeMap;

use crate::common::names_in;
use crate::rig::{Case, Kind};

/// Fails each call in turn; all that was written must be gone then, and what was before stand.
fn fail_everywhere(kind: Kind, overwrite: bool, lacks: &'static str) {
    let Some(case) = Case::new(kind, overwrite, lacks) else { return };
    let mut points: BTreeMap<String, usize> = BTreeMap::new();
    let calls = case.calls();
    let calls: Vec<_> = calls.iter().filter(|call| call.may_fail).collect();
    for (i, call) in calls.iter().enumerate() {
        *points.entry(call.kind.clone()).or_default() += 1;
        for errno in [libc::ENOSPC, libc::EIO] {
            let at =
                format!("errno {errno} at call {} of {}: {} {}", i + 1, calls.len(), call.kind, call.path);
            case.begin();
            let settings = [("SHIM_FAIL_AT", (i + 1).to_string()), ("SHIM_ERRNO", errno.to_string())];
            let ran = case.run(&settings.each_ref().map(|(name, value)| (*name, value.as_str())));
            assert_eq!(ran.code, Some(2), "{at}: {ran:?}");
            let text = if errno == libc::EIO { "Input/output error" } else { "No space left on device" };
            ran.one_error(&[text]);
            assert_eq!(case.found("x", &at), overwrite.then_some("old"), "{at}");
            let names: &[&str] = if overwrite { &["x"] } else { &[] };
            assert_eq!(names_in(&case.out()), names, "{at}: remains");
        }
    }
    eprintln!("{} fault points, by two errors each: {points:?}", calls.len());
    assert!(
        ["create", "write", "sync", "mkdir", "truncate", "reserve"]
            .iter()
            .all(|kind| points.contains_key(*kind))
    );
}

#[test]
fn a_save_of_a_new_name() {
    fail_everywhere(Kind::Save, false, "");
}

#[test]
fn a_save_of_a_new_name_where_renames_take_no_flags() {
    fail_everywhere(Kind::Save, false, "rename-flags");
}

#[test]
fn a_save_over_an_old_one() {
    fail_everywhere(Kind::Save, true, "");
}

#[test]
fn a_save_over_an_old_one_where_renames_take_no_flags() {
    fail_everywhere(Kind::Save, true, "rename-flags");
}

#[test]
fn an_export_to_a_new_name() {
    fail_everywhere(Kind::Export, false, "rename-flags");
}

#[test]
fn an_export_over_an_old_one() {
    fail_everywhere(Kind::Export, true, "");
}

#[test]
fn an_export_over_an_old_one_where_renames_take_no_flags() {
    fail_everywhere(Kind::Export, true, "rename-flags");
}
