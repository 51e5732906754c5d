//! What a kill can't show, since the page cache outlives it, a loss of power would: that all is synced in time.

use std::collections::BTreeSet;

use crate::rig::{Call, Case, Kind};

/// Everything written is synced before the rename that shows it, and that is synced before the old one is removed.
fn synced_in_time(case: &Case) {
    let calls = case.calls();
    let hidden = |path: &str| path.contains(".sllm-gds-partial-");
    let shows = |call: &Call| {
        let moves = call.kind == "rename" || call.kind == "exchange";
        moves && hidden(&call.path) && call.second == "out/x"
    };
    let shown = calls.iter().rposition(shows).expect("a rename to x");
    let mut unsynced = BTreeSet::new();
    for call in &calls[..shown] {
        let mut names = call.path.rsplit('/');
        let (name, directory) = (names.next().unwrap(), names.next().unwrap_or("."));
        match call.kind.as_str() {
            "create" => {
                unsynced.insert(directory);
                unsynced.insert(name);
            }
            "write" | "truncate" | "reserve" => {
                unsynced.insert(name);
            }
            "sync" => {
                unsynced.remove(name);
            }
            _ => {}
        }
    }
    assert_eq!(unsynced, BTreeSet::new(), "not synced when it was shown");
    let out = case.out();
    let is_sync =
        |call: &Call| call.kind == "sync" && call.path == out.canonicalize().unwrap().to_str().unwrap();
    let synced = calls[shown..].iter().position(is_sync).expect("a sync of the directory");
    let removed = calls[shown..].iter().position(|call| call.kind == "remove");
    assert_eq!(removed.is_some(), case.overwrite);
    assert!(
        removed.is_none_or(|removed| synced < removed),
        "removed the old one before the new one would last"
    );
}

#[test]
fn of_all_commands_on_all_file_systems() {
    for kind in [Kind::Save, Kind::Export] {
        for overwrite in [false, true] {
            for lacks in ["", "rename-flags"] {
                let Some(case) = Case::new(kind, overwrite, lacks) else { return };
                synced_in_time(&case);
            }
        }
    }
}
