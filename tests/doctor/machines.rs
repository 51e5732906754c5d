//! The verdict, the statuses and the remedies of each recorded machine.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use sllm_gds::load::gds::ways::{Reason, gds_ways};
use sllm_gds::node::source::Source;

use crate::common::{Ran, run};
use crate::trees::unpack;

pub fn doctor(root: &Path, more: &[&str]) -> Ran {
    let mut args = vec!["doctor", "--root", root.to_str().unwrap()];
    args.extend(more);
    run(root, &args)
}

/// The ids of one status that GDS or speed depend on, in the report's order, each once. What the hardware half found
/// is tested beside its code.
fn ids(report: &Value, status: &str) -> Vec<String> {
    const OURS: [&str; 9] =
        ["nvidia.", "nvidia-fs.", "p2pdma.", "cufile.", "proc.", "fs.", "storage.", "udev.", "direct."];
    let checks = report["checks"].as_array().unwrap().iter().filter(|c| c["status"] == status);
    let mut ids: Vec<String> = checks.map(|c| c["id"].as_str().unwrap().to_string()).collect();
    ids.retain(|id| OURS.iter().any(|ours| id.starts_with(ours)));
    ids.dedup();
    ids
}

pub fn check<'a>(report: &'a Value, id: &str) -> &'a Value {
    let mut checks = report["checks"].as_array().unwrap().iter();
    checks.find(|c| c["id"] == id).unwrap_or_else(|| panic!("no {id} in {report:#}"))
}

/// The verdict, text and JSON, with what holds for every report.
pub fn verdict(root: &Path, code: i32) -> (String, Value) {
    let text = doctor(root, &[]).expect(code).stdout;
    let report = doctor(root, &["--json"]).expect(code).json();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines.len() <= 24, "more than a screen:\n{text}");
    assert!(lines.iter().all(|l| l.chars().count() <= 100), "too wide:\n{text}");
    assert_eq!(lines[0], report["verdict"]);
    let all = doctor(root, &["--all"]).expect(code).stdout;
    for check in report["checks"].as_array().unwrap() {
        assert!(all.contains(check["id"].as_str().unwrap()), "{check} is not in --all");
        let source = check["source"].as_str().unwrap();
        assert!(!source.is_empty() && !check["value"].as_str().unwrap().is_empty(), "{check}");
        if check["status"] == "fail" {
            assert!(check["why"].is_string() && check["remedy"].is_string(), "{check}");
        }
    }
    (text, report)
}

/// Writes a file of a machine anew, or takes it away.
pub fn change(root: &Path, path: &str, content: Option<&str>) {
    let path = root.join(path.trim_start_matches('/'));
    match content {
        Some(content) => {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        None if path.is_dir() => fs::remove_dir_all(path).unwrap(),
        None => fs::remove_file(path).unwrap(),
    }
}

/// Replaces text in a file of a machine.
pub fn edit(root: &Path, path: &str, from: &str, to: &str) {
    let text = fs::read_to_string(root.join(path.trim_start_matches('/'))).unwrap();
    assert!(text.contains(from), "{path} has no {from}");
    change(root, path, Some(&text.replace(from, to)));
}

#[test]
fn bare_metal_with_nvidia_fs_is_ready() {
    let dir = unpack("bare-metal-gds");
    let (_, report) = verdict(dir.path(), 0);
    assert_eq!(report["verdict"], "GDS: yes, by nvidia-fs");
    let path = &report["paths"][0];
    assert_eq!(
        (&path["gds"], &path["by"], &path["nvidia_fs"]),
        (&json!("yes"), &json!("nvidia-fs"), &json!([]))
    );
    assert_eq!(path["storage"], "xfs on nvme0n1p1 on nvme0n1");
    assert_eq!((ids(&report, "fail"), ids(&report, "warn")), (vec![], vec![]));
    // What only P2PDMA would need is no failure here, and says so.
    assert_eq!(check(&report, "p2pdma.gpu-memory")["why"], "not needed: nvidia-fs is open");
    assert_eq!(check(&report, "nvidia-fs.storage")["value"], "nvme is in the list");
    assert_eq!(check(&report, "cufile.library")["value"], "1.14");
}

#[test]
fn p2pdma_is_ready_without_nvidia_fs() {
    let dir = unpack("p2pdma");
    let (_, report) = verdict(dir.path(), 0);
    assert_eq!(report["verdict"], "GDS: yes, by P2PDMA");
    assert_eq!(report["paths"][0]["by"], "p2pdma");
    assert_eq!(
        report["paths"][0]["nvidia_fs"],
        json!(["nvidia-fs is not loaded: /proc/modules has no nvidia_fs"])
    );
    assert_eq!(check(&report, "p2pdma.gpu-memory")["value"], "65536 MiB or more of each of 1");
    assert_eq!(check(&report, "cufile.config")["source"], "/etc/cufile-p2pdma.json");
    assert_eq!(ids(&report, "fail"), Vec::<String>::new());
}

/// The machine of the README's figures, as it was recorded there.
#[test]
fn a_virtual_machine_with_a_fast_link_and_no_way() {
    let dir = unpack("h200-vm");
    let (text, report) = verdict(dir.path(), 1);
    assert_eq!(report["verdict"], "GDS: no: nvidia-fs is not loaded; loads will use the pinned ring");
    assert_eq!(report["paths"][0]["storage"], "ext4 on zram0 (compressed RAM)");
    assert_eq!(check(&report, "gpu.link")["value"], "gen 5 x16 of gen 5 x16");
    assert_eq!(check(&report, "gpu.bar1")["status"], "pass");
    assert_eq!(check(&report, "cufile.driver-open")["status"], "pass");
    assert_eq!(check(&report, "udev.entry")["status"], "pass");
    assert_eq!(
        ids(&report, "fail"),
        ["fs.journal", "storage.device", "nvidia-fs.loaded", "p2pdma.kernel", "p2pdma.gpu-memory"]
    );
    assert!(text.contains("virtual machine"), "{text}");
}

#[test]
fn a_raid_without_nvidia_fs_has_no_way() {
    let dir = unpack("raid0-no-p2pdma");
    let (text, report) = verdict(dir.path(), 1);
    assert_eq!(report["verdict"], "GDS: no: nvidia-fs is not loaded; loads will use the pinned ring");
    let path = &report["paths"][0];
    assert_eq!(path["storage"], "ext4 on md0 (raid0) on nvme0n1, nvme1n1, nvme2n1, nvme3n1");
    assert_eq!(path["nvidia_fs"].as_array().unwrap().len(), 1);
    assert_eq!(
        ids(&report, "fail"),
        [
            "nvidia-fs.loaded",
            "storage.device",
            "p2pdma.kernel",
            "p2pdma.gpu-memory",
            "p2pdma.multipath",
            "p2pdma.cufile"
        ]
    );
    assert_eq!(ids(&report, "warn"), ["storage.queue"]);
    assert!(text.contains("sudo modprobe nvidia_fs"), "{text}");
    assert!(text.contains("nvme0n1, nvme1n1, nvme2n1, nvme3n1: scheduler mq-deadline"), "{text}");
    assert_eq!(check(&report, "storage.raid")["value"], "raid0 of 4, 512 KiB chunks, clean, 0 missing");
    assert_eq!(
        check(&report, "p2pdma.kernel")["why"],
        "Linux 5.15.0-140-generic is too old for P2PDMA: it takes 6.2"
    );
}

#[test]
fn a_container_without_udev_is_told_of_5027() {
    let dir = unpack("container-no-udev");
    let (text, report) = verdict(dir.path(), 1);
    assert_eq!(report["verdict"], "GDS: no: udev has no entry for nvme0n1p1; loads will use the pinned ring");
    assert!(text.contains("5027") && text.contains("docker run -v /run/udev:/run/udev:ro"), "{text}");
    assert_eq!(ids(&report, "fail")[..2], ["udev.entry", "nvidia-fs.device"]);
    assert_eq!(check(&report, "udev.entry")["source"], "/run/udev/data/b259:5");
    assert_eq!(check(&report, "p2pdma.kernel")["source"], "/proc/kallsyms");
    // The container's own layers.
    let report = doctor(dir.path(), &["--json", "/tmp"]).expect(1).json();
    assert!(report["verdict"].as_str().unwrap().starts_with("GDS: no: the path is on overlay"), "{report}");
    // With udev and the device passed in, the way is open.
    change(dir.path(), "/run/udev/data/b259:5", Some("I:1\nE:ID_FS_TYPE=xfs\nE:ID_FS_USAGE=filesystem\n"));
    change(dir.path(), "/dev/nvidia-fs0", Some(""));
    assert_eq!(verdict(dir.path(), 0).1["verdict"], "GDS: yes, by nvidia-fs");
}

#[test]
fn a_laptop_is_told_all_that_stands_in_the_way() {
    let dir = unpack("laptop");
    let (text, report) = verdict(dir.path(), 1);
    assert_eq!(
        report["verdict"],
        "GDS: no: NVIDIA GeForce RTX 4070 Laptop GPU has no GDS; loads will use the pinned ring"
    );
    assert_eq!(report["paths"][0]["storage"], "btrfs on dm-0 (dm-crypt) on nvme0n1p3 on nvme0n1");
    assert_eq!(
        ids(&report, "fail")[..5],
        ["nvidia.gpu", "fs.type", "storage.device", "cufile.library", "nvidia-fs.loaded"]
    );
    assert!(text.contains("dm-0 is encrypted") && text.contains("pip install nvidia-cufile"), "{text}");
    assert_eq!(ids(&report, "unknown"), ["direct.alignment"]);
}

/// A file, what is changed in it (`None`: it is taken away), and how the reason begins.
type Case<'a> = (&'a str, Option<(&'a str, &'a str)>, &'a str);

/// One thing wrong on a machine that was ready, and the reason that a user is given.
#[test]
fn each_need_of_nvidia_fs_is_missed_when_it_is_gone() {
    let modules = "/proc/driver/nvidia-fs/modules";
    let version = "/proc/driver/nvidia/version";
    let cases: [Case; 9] = [
        (modules, Some(("nvme: 1.0", "nvme_rdma: 1.0")), "nvidia-fs has not hooked the driver nvme"),
        (
            version,
            Some(("Open Kernel Module for x86_64", "x86_64 Kernel Module")),
            "the closed NVIDIA kernel module",
        ),
        (version, None, "NVIDIA's driver is not loaded"),
        ("/proc/modules", None, "there is no /proc/modules"),
        ("/dev/nvidia-fs0", None, "nvidia-fs can't be reached"),
        ("/run/udev/data/b259:5", None, "udev's entry for nvme0n1p1 does not say filesystem"),
        (
            "/etc/cufile.json",
            Some(("\"use_poll_mode\"", "\"force_compat_mode\": true, \"x\"")),
            "cuFile is told to use",
        ),
        ("/proc/self/mountinfo", Some((" - xfs ", " - ext4 ")), "the mount table does not say data=ordered"),
        (
            "/proc/self/mountinfo",
            Some((" - xfs ", " - nfs4 ")),
            "nvidia-fs has not hooked the driver rpcrdma",
        ),
    ];
    for (path, change_to, reason) in cases {
        let dir = unpack("bare-metal-gds");
        match change_to {
            Some((from, to)) => edit(dir.path(), path, from, to),
            None => change(dir.path(), path, None),
        }
        let (_, report) = verdict(dir.path(), 1);
        let reasons = report["paths"][0]["nvidia_fs"].as_array().unwrap();
        assert!(reasons[0].as_str().unwrap().starts_with(reason), "{path}: {reasons:?}");
        assert_eq!(reasons.len(), 1, "{path}: {reasons:?}");
        assert!(report["verdict"].as_str().unwrap().starts_with(&format!("GDS: no: {reason}")), "{report}");
    }
}

#[test]
fn each_need_of_p2pdma_is_missed_when_it_is_gone() {
    let pool = "/sys/devices/pci0000:00/0000:00:01.0/0000:02:00.0/p2pmem";
    let cases: [Case; 5] = [
        (
            "/boot/config-6.8.0-60-generic",
            Some(("CONFIG_PCI_P2PDMA=y", "")),
            "the kernel was built without P2PDMA",
        ),
        ("/sys/module/nvme_core/parameters/multipath", Some(("N", "Y")), "NVMe multipath is on"),
        (
            "/proc/driver/nvidia/version",
            Some(("580.95.05", "550.54.15")),
            "driver 550.54.15 is too old for P2PDMA",
        ),
        (
            "/sys/devices/pci0000:00/0000:00:01.0/0000:02:00.0/p2pmem/size",
            Some(("68719476736", "0")),
            "the driver gives",
        ),
        ("/sllm-gds/cufile.json", Some(("1150", "1120")), "cuFile 1.12 does not know P2PDMA"),
    ];
    for (path, change_to, reason) in cases {
        let dir = unpack("p2pdma");
        match change_to {
            Some((from, to)) => edit(dir.path(), path, from, to),
            None => change(dir.path(), path, None),
        }
        let (_, report) = verdict(dir.path(), 1);
        let reasons = report["paths"][0]["p2pdma"].as_array().unwrap();
        assert!(
            reasons.len() == 1 && reasons[0].as_str().unwrap().starts_with(reason),
            "{path}: {reasons:?}"
        );
    }
    // What cuFile is not told, this program tells it, from cuFile 1.14 on.
    let dir = unpack("p2pdma");
    edit(dir.path(), "/etc/cufile-p2pdma.json", "\"use_pci_p2pdma\": true", "\"x\": 1");
    verdict(dir.path(), 0);
    edit(dir.path(), "/sllm-gds/cufile.json", "1150", "1130");
    let (_, report) = verdict(dir.path(), 1);
    let why = check(&report, "p2pdma.cufile")["why"].as_str().unwrap();
    assert!(why.starts_with("cuFile 1.13 is not told to use P2PDMA"), "{why}");
    // Before the first CUDA context there is no pool, and the driver's parameters tell.
    let dir = unpack("p2pdma");
    change(dir.path(), pool, None);
    assert_eq!(verdict(dir.path(), 0).1["verdict"], "GDS: yes, by P2PDMA");
    edit(dir.path(), "/proc/driver/nvidia/params", "RMForceStaticBar1=1;", "");
    let (_, report) = verdict(dir.path(), 1);
    let remedy = check(&report, "p2pdma.gpu-memory")["remedy"].as_str().unwrap();
    assert!(remedy.contains("RMForceStaticBar1=1;RmForceDisableIomapWC=1;"), "{remedy}");
}

#[test]
fn what_can_not_be_read_is_unknown_and_proves_nothing() {
    let dir = unpack("bare-metal-gds");
    change(dir.path(), "/sllm-gds/unread.json", Some(r#"{"/proc/driver/nvidia-fs/modules": "Denied"}"#));
    let (_, report) = verdict(dir.path(), 1);
    let modules = check(&report, "nvidia-fs.storage");
    assert_eq!(modules["status"], "unknown");
    assert!(modules["remedy"].as_str().unwrap().contains("read access to /proc/driver/nvidia-fs/modules"));
    assert_eq!(report["gds"], "unknown");
    assert!(report["verdict"].as_str().unwrap().starts_with("GDS: not proven: which drivers"), "{report}");
}

fn in_words(reasons: Vec<Reason>) -> Vec<String> {
    reasons.iter().map(Reason::to_string).collect()
}

#[test]
fn the_loader_asks_the_same_without_opening_anything() {
    let dir = unpack("raid0-no-p2pdma");
    let ways = gds_ways(&Source::recorded(dir.path()).unwrap(), Path::new("/raid/models/x"));
    assert_eq!(
        ways.nvidia_fs.map_err(in_words),
        Err(vec!["nvidia-fs is not loaded: /proc/modules has no nvidia_fs".to_string()])
    );
    assert!(
        ways.p2pdma
            .map_err(in_words)
            .is_err_and(|reasons| reasons.iter().any(|r| r.starts_with("md0 is a RAID 0")))
    );
    let dir = unpack("bare-metal-gds");
    assert_eq!(gds_ways(&Source::recorded(dir.path()).unwrap(), Path::new("/mnt/models")).nvidia_fs, Ok(()));
    // A machine of which nothing is known has no way.
    let ways = gds_ways(&Source::recorded(&dir.path().join("sys")).unwrap(), Path::new("/"));
    assert!(ways.nvidia_fs.is_err() && ways.p2pdma.is_err());
}

#[test]
fn a_driver_that_never_opens_is_reported() {
    let dir = unpack("bare-metal-gds");
    edit(
        dir.path(),
        "/sllm-gds/cufile.json",
        r#""ended": true, "code": 0"#,
        r#""ended": false, "code": null"#,
    );
    let (_, report) = verdict(dir.path(), 1);
    assert!(
        report["verdict"].as_str().unwrap().starts_with("GDS: no: cuFile's driver never finishes"),
        "{report}"
    );
    edit(
        dir.path(),
        "/sllm-gds/cufile.json",
        r#""ended": false, "code": null"#,
        r#""ended": true, "code": 5001"#,
    );
    let (text, _) = verdict(dir.path(), 1);
    assert!(text.contains("cuFile's driver does not open: ") && text.contains("code 5001"), "{text}");
}

#[test]
fn of_several_paths_each_has_its_verdict_and_the_worst_decides() {
    let dir = unpack("bare-metal-gds");
    let ran = doctor(dir.path(), &["/mnt/models/a", "/"]).expect(1);
    let mut lines = ran.stdout.lines();
    assert_eq!(lines.next(), Some("GDS for /mnt/models/a: yes, by nvidia-fs"));
    assert!(lines.next().unwrap().starts_with("GDS for /: no: "), "{}", ran.stdout);
}
