//! Killed at every call.

use crate::common::{names_in, run, tree};
use crate::rig::{Case, Kind};

/// Kills at each call in turn, and looks what stands then, and after the next save.
fn kill_everywhere(kind: Kind, overwrite: bool, lacks: &'static str) {
    let Some(case) = Case::new(kind, overwrite, lacks) else { return };
    let points = case.calls().len();
    let (mut killed, mut old, mut new) = (0, 0, 0);
    for point in 1..=points {
        let at = format!("killed at call {point} of {points}");
        case.begin();
        let ran = case.run(&[("SHIM_KILL_AT", &point.to_string())]);
        killed += usize::from(ran.code.is_none());
        let left = case.found("x", &at);
        // Only where two can't be swapped may the name be missing, and the old one is whole beside it then.
        if overwrite && left.is_none() {
            let aside = names_in(&case.out()).into_iter().find(|name| name.starts_with(".sllm-gds-old-"));
            let aside =
                aside.filter(|_| !lacks.is_empty()).unwrap_or_else(|| panic!("{at}: the old one is gone"));
            assert_eq!(case.found(&aside, &at), Some("old"), "{at}");
        }
        let after = case.next_clears_up(&at);
        // What was put aside comes back; nothing else changes, and an old one is never lost.
        let expected = left.or(overwrite.then_some("old"));
        assert_eq!(after, expected, "{at}: {left:?} became {after:?}");
        old += usize::from(after == Some("old") || after.is_none());
        new += usize::from(after == Some("new"));
    }
    eprintln!("{points} crash points, {killed} killed: {old} left what was before, {new} the new one");
    // Threads may make a call more or less than they did when they were counted.
    assert!(killed + 2 >= points && old > 10 && new > 0, "{killed} of {points} killed, {old} old, {new} new");
}

#[test]
fn a_save_of_a_new_name() {
    kill_everywhere(Kind::Save, false, "");
}

#[test]
fn a_save_of_a_new_name_where_renames_take_no_flags() {
    kill_everywhere(Kind::Save, false, "rename-flags");
}

#[test]
fn a_save_over_an_old_one() {
    kill_everywhere(Kind::Save, true, "");
}

#[test]
fn a_save_over_an_old_one_where_renames_take_no_flags() {
    kill_everywhere(Kind::Save, true, "rename-flags");
}

#[test]
fn an_export_to_a_new_name() {
    kill_everywhere(Kind::Export, false, "");
}

#[test]
fn an_export_to_a_new_name_where_renames_take_no_flags() {
    kill_everywhere(Kind::Export, false, "rename-flags");
}

#[test]
fn an_export_over_an_old_one() {
    kill_everywhere(Kind::Export, true, "");
}

#[test]
fn an_export_over_an_old_one_where_renames_take_no_flags() {
    kill_everywhere(Kind::Export, true, "rename-flags");
}

#[test]
fn a_reader_is_told_where_the_old_one_is_and_may_move_it_back() {
    let Some(case) = Case::new(Kind::Save, true, "rename-flags") else { return };
    let calls = case.calls();
    let moves_in =
        calls.iter().rposition(|call| call.path.contains("-partial-") && call.second == "out/x").unwrap();
    case.begin();
    case.run(&[("SHIM_KILL_AT", &(moves_in + 1).to_string())]);
    let out = case.out();
    let aside = out.join(".sllm-gds-old-x");
    run(&out, &["inspect", "x", "--storage-path", "."]).expect(2).one_error(&[
        "x does not exist",
        ".sllm-gds-old-x",
        "overwrite",
    ]);
    run(&out, &["verify", "./.sllm-gds-old-x"]).expect(0);
    // What meanwhile took the name is neither replaced nor a reason to drop the old one.
    std::fs::create_dir(out.join("x")).unwrap();
    std::fs::write(out.join("x/notes"), "mine").unwrap();
    let before = tree(&aside);
    let save = ["save", "--model", "../odd", "--storage-path", ".", "--name", "y"];
    let ran = run(&out, &save).expect(0);
    assert!(ran.stderr.contains(".sllm-gds-old-x stays"), "{ran:?}");
    assert_eq!(tree(&aside), before);
    assert_eq!(names_in(&out.join("x")), ["notes"]);
}

/// Kills the overwrite at its `back`th rename from the end, then the next save at each of its calls until it shows its own.
fn kill_the_recovery(back: usize, left: Option<&'static str>) {
    let Some(case) = Case::new(Kind::Save, true, "rename-flags") else { return };
    let calls = case.calls();
    let renames: Vec<usize> =
        calls.iter().enumerate().filter(|(_, call)| call.kind == "rename").map(|(i, _)| i + 1).collect();
    let first_kill = renames[renames.len() - back].to_string();
    let aside = case.out().join(".sllm-gds-old-x");
    let mut points = 0;
    loop {
        let at = format!("recovery killed at call {}", points + 1);
        case.begin();
        case.run(&[("SHIM_KILL_AT", &first_kill)]);
        assert!(aside.exists() && case.found("x", &at) == left, "{at}: what the overwrite left");
        case.next(&[("SHIM_KILL_AT", &(points + 1).to_string())]);
        if case.out().join("y").exists() {
            break;
        }
        points += 1;
        let found = case.found("x", &at);
        assert!(found == left || (left.is_none() && found == Some("old")), "{at}: {left:?} became {found:?}");
        assert_eq!(
            aside.exists().then(|| case.found(".sllm-gds-old-x", &at)),
            aside.exists().then_some(Some("old"))
        );
        // Whoever removes the new one may find the old one back, but never half of it.
        let _ = std::fs::remove_dir_all(case.out().join("x"));
        case.next_clears_up(&at);
    }
    eprintln!("{points} crash points of the next save");
    assert!(points > 20, "{points}");
}

#[test]
fn a_recovery_that_has_to_put_the_old_one_back() {
    kill_the_recovery(2, None);
}

#[test]
fn a_recovery_that_has_to_remove_the_old_one() {
    kill_the_recovery(1, Some("new"));
}
