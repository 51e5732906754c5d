//! File systems that lack something.

use std::fs;

use crate::common::{names_in, run, temp_dir, tree, write_odd_model};
use crate::rig::{Case, Kind, shimmed};

#[test]
fn what_a_file_system_lacks_keeps_nothing_from_being_saved() {
    let all = "rename-flags,locks,direct-open,reserve,whole-writes";
    for lacks in ["locks", "direct-open", "direct-write", "whole-writes", "reserve", all] {
        for (kind, overwrite) in [(Kind::Save, false), (Kind::Save, true), (Kind::Export, false)] {
            let Some(case) = Case::new(kind, overwrite, lacks) else { return };
            assert!(case.calls().len() > 10, "{lacks}");
        }
    }
}

#[test]
fn without_locks_nothing_is_taken_for_remains() {
    let Some(case) = Case::new(Kind::Save, false, "locks") else { return };
    let out = case.begin();
    let other = out.join(".sllm-gds-partial-z-00000000-1.00000000");
    fs::create_dir(&other).unwrap();
    let ran = case.run(&[]).expect(0);
    assert!(ran.stderr.contains("no locks") && ran.stderr.contains("-partial-z-"), "{ran:?}");
    assert_eq!(names_in(&out).len(), 2, "the other's directory and x");
    run(&out, &["save", "--model", "../odd", "--storage-path", ".", "--name", "y"]).expect(0);
    assert_eq!(names_in(&out), ["x", "y"], "with locks it is seen to be dead");
}

#[test]
fn a_second_save_does_not_replace_the_first_where_renames_take_no_flags() {
    // Stopped before it takes the gate, and where there is no gate before the rename itself.
    for (lacks, stop_at) in [("rename-flags", "lock"), ("rename-flags,locks", "rename")] {
        let Some(case) = Case::new(Kind::Save, false, lacks) else { return };
        let calls = case.calls();
        let stop_at = calls.iter().rposition(|call| call.kind == stop_at).unwrap() + 1;
        let out = case.begin();
        let mut slow = case.stopped_at(stop_at);
        let fast = ["save", "--model", "../plain", "--storage-path", ".", "--name", "x"];
        shimmed(&out, &fast, &[("SHIM_WITHOUT", lacks)]).unwrap().expect(0);
        let first = tree(&out.join("x"));
        slow.signal("CONT");
        slow.finish().expect(2).one_error(&["x exists", "another save"]);
        assert_eq!(tree(&out.join("x")), first);
        assert_eq!(names_in(&out), ["x"]);
    }
}

#[test]
fn bench_and_qualify_run_without_locks_and_flags_and_say_so() {
    let dir = temp_dir();
    write_odd_model(&dir.path().join("odd"));
    let bench = ["bench", "--model", "odd", "--gpus", "none", "--replicas", "1", "--mode", "random"];
    let qualify = ["qualify", "--path", ".", "--gpus", "none", "--size", "128MB", "--duration", "1s"];
    for args in [&bench[..], &qualify] {
        let lacks = [("SHIM_WITHOUT", "rename-flags,locks,direct-open")];
        let Some(ran) = shimmed(dir.path(), args, &lacks) else { return };
        assert!(ran.code.is_some_and(|code| args[0] == "qualify" || code == 0), "{ran:?}");
        assert!(ran.stderr.contains("has no locks") && !ran.stderr.contains("another"), "{ran:?}");
        assert!(!ran.stderr.contains("error:"), "{ran:?}");
    }
    assert!(names_in(dir.path()).iter().all(|name| !name.starts_with('.')), "remains");
}
