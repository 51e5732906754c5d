//! What crashed, is damaged or can't be told is no yes.

use std::path::Path;

use serde_json::json;
use sllm_gds::load::gds::ways::gds_ways;
use sllm_gds::node::source::Source;

use crate::machines::{change, check, doctor, edit, verdict};
use crate::trees::unpack;

const PROBED: &str = "/sllm-gds/cufile.json";

/// What the probe answered, what the verdict then is, and what the report says of it.
#[test]
fn a_cufile_that_did_not_open_is_no_yes() {
    let crashed = r#"{"path": "/x/libcufile.so.0", "version": 1140, "driver_open": null}"#;
    let no_code = r#"{"path": "/x/libcufile.so.0", "version": 1150, "error": "cuFile said so",
        "driver_open": {"ended": true, "code": null, "seconds": 0.0}}"#;
    let cases = [
        (crashed, "GDS: no: cuFile's driver does not open", "it crashed or ended while opening"),
        ("{{{", "GDS: not proven: whether cuFile's driver opens is not known", "[cuFileDriverOpen"),
        (no_code, "GDS: no: cuFile's driver does not open", "does not open: cuFile said so"),
    ];
    for (answer, begins, says) in cases {
        let dir = unpack("bare-metal-gds");
        change(dir.path(), PROBED, Some(answer));
        let (_, report) = verdict(dir.path(), 1);
        assert!(report["verdict"].as_str().unwrap().starts_with(begins), "{answer}: {report:#}");
        let all = doctor(dir.path(), &["--all"]).stdout;
        assert!(all.replace('\n', " ").contains(says), "{answer}:\n{all}");
    }
    // A recording without a probe proves nothing either.
    let dir = unpack("bare-metal-gds");
    change(dir.path(), PROBED, None);
    assert_eq!(verdict(dir.path(), 1).1["gds"], "unknown");
}

#[test]
fn a_library_that_does_not_load_is_none() {
    let dir = unpack("bare-metal-gds");
    let words = r#"{"path": null, "version": null, "driver_open": null, "error": "file too short"}"#;
    change(dir.path(), PROBED, Some(words));
    let (_, report) = verdict(dir.path(), 1);
    let library = check(&report, "cufile.library");
    assert_eq!(library["why"], "cuFile can't be loaded: file too short");
    assert_eq!(library["status"], "fail");
    assert!(library["source"].as_str().unwrap().ends_with("/libcufile.so.0"), "{library}");
    assert!(report["verdict"].as_str().unwrap().starts_with("GDS: no: cuFile can't be loaded"), "{report:#}");
    assert!(report["checks"].as_array().unwrap().iter().all(|c| c["id"] != "cufile.driver-open"));
    // Where no file is there either.
    let dir = unpack("laptop");
    change(dir.path(), PROBED, Some(words));
    let (_, report) = verdict(dir.path(), 1);
    assert_eq!(check(&report, "cufile.library")["why"], "cuFile is not installed: file too short");
}

#[test]
fn a_broken_configuration_shuts_both_ways_and_is_what_to_mend() {
    let dir = unpack("bare-metal-gds");
    change(dir.path(), "/etc/cufile.json", Some("{ nonsense"));
    let (_, report) = verdict(dir.path(), 1);
    let begins = "GDS: no: cuFile's configuration is no JSON";
    assert!(report["verdict"].as_str().unwrap().starts_with(begins), "{report:#}");
    assert_eq!(check(&report, "cufile.config")["status"], "fail");
    assert!(gds_ways(&Source::recorded(dir.path()).unwrap(), Path::new("/mnt/models")).open().is_none());
    edit(dir.path(), PROBED, r#""code": 0"#, r#""code": null"#);
    let (_, report) = verdict(dir.path(), 1);
    let remedy = check(&report, "cufile.driver-open")["remedy"].as_str().unwrap();
    assert!(remedy.contains("/etc/cufile.json"), "{remedy}");
}

#[test]
fn a_recording_must_name_absolute_paths() {
    let dir = unpack("bare-metal-gds");
    for (paths, says) in [("[]", "it names none"), (r#"["mnt/models"]"#, "mnt/models is relative")] {
        change(dir.path(), "/sllm-gds/paths.json", Some(paths));
        doctor(dir.path(), &[]).expect(2).one_error(&[says]);
    }
}

#[test]
fn what_is_there_or_not_is_unknown_where_that_can_not_be_told() {
    let cases = [
        ("/dev/nvidia-fs0", "nvidia-fs.device"),
        ("/proc/modules", "proc.modules"),
        ("/run/udev/data/b259:5", "udev.entry"),
    ];
    for (path, id) in cases {
        let dir = unpack("bare-metal-gds");
        change(dir.path(), "/sllm-gds/unread.json", Some(&json!({ path: "Denied" }).to_string()));
        let (_, report) = verdict(dir.path(), 1);
        assert_eq!((&check(&report, id)["status"], &report["gds"]), (&json!("unknown"), &json!("unknown")));
    }
    let dir = unpack("bare-metal-gds");
    change(dir.path(), "/sllm-gds/unread.json", Some(r#"{"/run/udev": "Denied"}"#));
    change(dir.path(), "/run/udev", None);
    assert_eq!(check(&verdict(dir.path(), 1).1, "udev.entry")["status"], "unknown");
    change(dir.path(), "/sllm-gds/unread.json", Some(r#"{"/.dockerenv": "Denied"}"#));
    assert_eq!(check(&verdict(dir.path(), 1).1, "machine.container")["status"], "unknown");
    change(dir.path(), "/sllm-gds/unread.json", Some("{{{"));
    doctor(dir.path(), &[]).expect(2).one_error(&["unread.json", "damaged"]);
}

#[test]
fn reads_that_nvidia_fs_does_not_count_are_warned_of() {
    let (stats, counts) =
        ("/proc/driver/nvidia-fs/stats", "/sys/module/nvidia_fs/parameters/rw_stats_enabled");
    let dir = unpack("bare-metal-gds");
    assert_eq!(check(&verdict(dir.path(), 0).1, "nvidia-fs.counters")["status"], "pass");
    // What peers have counted is no matter.
    edit(
        dir.path(),
        stats,
        "IO stats: Enabled, peer IO stats: Disabled",
        "IO stats: Disabled, peer IO stats: Enabled",
    );
    let (_, report) = verdict(dir.path(), 0);
    let counters = check(&report, "nvidia-fs.counters");
    assert_eq!((&counters["status"], &counters["source"]), (&json!("warn"), &json!(stats)));
    assert_eq!(counters["remedy"], format!("echo 1 | sudo tee {counts}"));
    // Where the statistics don't say, the parameter does.
    edit(dir.path(), stats, "IO stats: Disabled, peer IO stats: Enabled", "");
    for (value, status) in [(Some("0"), "warn"), (Some("1"), "pass"), (None, "unknown")] {
        change(dir.path(), counts, value);
        assert_eq!(check(&verdict(dir.path(), 0).1, "nvidia-fs.counters")["status"], status);
    }
    edit(dir.path(), stats, "ok=16 err=0", "ok=15 err=1");
    assert_eq!(check(&verdict(dir.path(), 0).1, "nvidia-fs.maps")["status"], "warn");
}

#[test]
fn what_loads_will_do_is_not_said_where_the_driver_can_not_be_told() {
    let dir = unpack("bare-metal-gds");
    let unread = r#"{"/proc/driver/nvidia/version": "Denied"}"#;
    change(dir.path(), "/sllm-gds/unread.json", Some(unread));
    assert_eq!(verdict(dir.path(), 1).1["verdict"], "GDS: not proven: NVIDIA's driver can't be told");
}
