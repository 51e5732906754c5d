//! How the server is delivered: the script, the Compose file, the DaemonSet, the unit.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use clap::Parser;
use sllm_gds::cli::{self, Cli};

use crate::docker_run::{Host, bind, id};
use crate::{read, tool};

/// How long the server waits for loads that it asked to end after `--grace`, and a little for its answers.
const AFTER_GRACE: Duration = Duration::from_secs(12);
/// What a container must have beside the pool: contexts, rings, and some page cache.
const BESIDE_POOL: u64 = 8 << 30;

/// What the program takes these arguments for: its grace, and its pool's bytes.
#[track_caller]
fn parsed(args: impl IntoIterator<Item = String>) -> (Duration, u64) {
    let args: Vec<String> = args.into_iter().collect();
    let cli = Cli::try_parse_from(std::iter::once("sllm-gds".to_string()).chain(args.iter().cloned()));
    match cli.unwrap_or_else(|error| panic!("{args:?}: {error}")).command {
        cli::Command::Serve(serve) => (serve.grace, serve.mem_pool_size),
        _ => panic!("{args:?} do not serve"),
    }
}

/// What follows the first of these words on a line.
#[track_caller]
fn value<'t>(text: &'t str, key: &str) -> &'t str {
    let found = text.lines().find_map(|line| line.trim().strip_prefix(key));
    found.unwrap_or_else(|| panic!("no line begins with '{key}'"))
}

fn seconds(text: &str) -> Duration {
    Duration::from_secs(text.trim_end_matches('s').parse().unwrap())
}

fn gib(text: &str) -> u64 {
    text.trim_end_matches(['G', 'i']).parse::<u64>().unwrap() << 30
}

#[test]
fn the_script_starts_a_server_in_the_hosts_namespaces() {
    let host = Host::new();
    let call =
        host.bench(&["--serve", "--mem-pool-size", "32GB", "--", "--warm", "m"], &[("HF_TOKEN", "secret")]);
    let mut expected: Vec<String> =
        "run --rm --network host --ipc host --pid host --stop-timeout 35 --cap-drop ALL \
                                     --security-opt no-new-privileges --user"
            .split_whitespace()
            .map(String::from)
            .collect();
    expected.push(format!("{}:{}", id("-u"), id("-g")));
    expected.extend(id("-G").split(' ').flat_map(|group| ["--group-add".to_string(), group.to_string()]));
    expected.extend(["--mount".into(), bind(&host.path("nvme"), "/models,readonly")]);
    expected.extend(["--ulimit", "memlock=-1:-1", "--gpus", "all"].map(String::from));
    if Path::new("/run/udev").is_dir() {
        expected.extend(["--mount".into(), bind(Path::new("/run/udev"), "/run/udev,readonly")]);
    }
    if Path::new("/dev/nvidia-fs0").exists() {
        expected.extend(["--env", "NVIDIA_GDS=enabled"].map(String::from));
    }
    let inside = "img serve --storage-path /models --mem-pool-size 32GB --warm m";
    expected.extend(inside.split_whitespace().map(String::from));
    assert_eq!(call.args, expected);
    let (grace, pool_bytes) = parsed(call.split("img").1.to_vec());
    assert!(grace + AFTER_GRACE <= seconds("35"), "docker would end it before it ends");
    assert_eq!(pool_bytes, 32 << 30);
    assert!(!host.path("results").exists(), "a server writes none");
}

#[test]
fn a_server_needs_no_gpu_and_its_code_is_the_scripts() {
    let call = Host::new().bench(&["--serve", "--gpu-limit", "none", "--mem-pool-size", "1GB"], &[]);
    assert!(!call.args.iter().any(|arg| arg == "--gpus"), "{call:?}");
    parsed(call.split("img").1.to_vec());
    let args = ["--serve", "--image", "img", "--storage-path", "nvme"];
    let ran =
        Host::new().run(&args, &[("DOCKER_FAILS", "run"), ("DOCKER_CODE", "2"), ("GENERATE_PLOTS", "true")]);
    assert_eq!((ran.code, ran.calls.len()), (Some(2), 1));
}

#[test]
fn flags_of_the_benchmark_do_not_start_a_server() {
    let flags: [&[&str]; 6] = [
        &["--model-name", "m"],
        &["-n", "3"],
        &["--benchmark-type", "cached"],
        &["--results-path", "out"],
        &["--mount-hf-cache"],
        &["--generate-plots"],
    ];
    for flag in flags {
        let says = [flag[0], "is of the benchmark", "leave one of them out"];
        Host::new().refused(&[&["--serve"], flag].concat(), &says);
        Host::new().refused(&[flag, &["--serve"]].concat(), &says);
    }
}

#[test]
fn the_compose_file_gives_time_and_memory_and_the_hosts_namespaces() {
    let text = read("deploy/compose.yaml");
    let command = value(&text, "command: ").trim_matches(['[', ']']).split(", ").map(String::from);
    let (grace, pool_bytes) = parsed(command);
    assert!(grace + AFTER_GRACE <= seconds(value(&text, "stop_grace_period: ")));
    assert!(pool_bytes + BESIDE_POOL <= gib(value(&text, "memory: ")));
    for key in ["network_mode: ", "ipc: ", "pid: "] {
        assert_eq!(value(&text, key), "host", "{key}");
    }
    assert_eq!((value(&text, "memlock: "), value(&text, "STORAGE_PATH: ")), ("-1", "/models"));
}

#[test]
fn compose_takes_its_file() {
    let Some(docker) = tool("docker") else { return };
    let compose = |args: &[&str]| Command::new(&docker).arg("compose").args(args).output().unwrap();
    if !compose(&["version"]).status.success() {
        eprintln!("skipped: docker has no compose");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("compose.yaml");
    let takes = |text: &str| {
        fs::write(&path, text).unwrap();
        let output = compose(&["--file", path.to_str().unwrap(), "config", "--quiet"]);
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let good = read("deploy/compose.yaml");
    assert_eq!(takes(&good), (true, String::new()));
    assert!(!takes(&good.replace("ulimits:", "ulimit:")).0);
}

#[test]
fn the_daemon_set_gives_time_and_memory_and_is_ready_by_grpc() {
    let text = read("deploy/daemonset.yaml");
    let args = text.lines().skip_while(|line| line.trim() != "args:").skip(1);
    let args = args.map_while(|line| line.trim().strip_prefix("- ").map(String::from));
    let (grace, pool_bytes) = parsed(args);
    assert!(grace + AFTER_GRACE <= seconds(value(&text, "terminationGracePeriodSeconds: ")));
    let limits = text.lines().filter_map(|line| line.trim().strip_prefix("memory: ")).map(gib);
    let limits: Vec<u64> = limits.collect();
    assert!(limits.len() == 2 && limits.iter().all(|limit| pool_bytes + BESIDE_POOL <= *limit), "{limits:?}");
    for line in ["hostPID: true", "hostIPC: true", "hostPort: 8073", "hostIP: 127.0.0.1", "value: /models"] {
        assert!(text.lines().any(|l| l.trim() == line), "{line}");
    }
    assert!(text.contains("readinessProbe:\n            grpc:\n              port: 8073\n"));
    assert!(!text.contains("nvidia.com/gpu: \""), "a claim on GPUs would keep its clients off them");
}

#[test]
fn the_unit_gives_time_and_locked_memory_and_takes_nothing_that_cuda_needs() {
    let text = read("deploy/sllm-gds.service");
    let command = value(&text, "ExecStart=").split_whitespace().skip(1).map(String::from);
    let (grace, _) = parsed(command);
    assert!(grace + AFTER_GRACE <= seconds(value(&text, "TimeoutStopSec=")));
    assert_eq!((value(&text, "LimitMEMLOCK="), value(&text, "Type=")), ("infinity", "exec"));
    assert_eq!(value(&text, "RestartPreventExitStatus="), "2", "bad settings");
    let settings = text.lines().filter(|line| !line.starts_with('#'));
    let names: Vec<&str> = settings.filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
    for name in [
        "PrivateDevices",
        "DeviceAllow",
        "DevicePolicy",
        "ProtectClock",
        "ProcSubset",
        "PrivateUsers",
        "PrivateIPC",
        "PrivatePIDs",
        "PrivateNetwork",
        "PrivateTmp",
        "MemoryDenyWriteExecute",
    ] {
        assert!(!names.contains(&name), "{name}");
    }
}

#[test]
fn systemd_finds_nothing_wrong_with_the_unit() {
    let Some(analyze) = tool("systemd-analyze") else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sllm-gds.service");
    let complaints = |text: &str| {
        // It wants the program to be there.
        fs::write(&path, text.replace("/usr/local/bin/sllm-gds", env!("CARGO_BIN_EXE_sllm-gds"))).unwrap();
        let output = Command::new(&analyze).arg("verify").arg(&path).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        // Not of other units of this machine.
        said.lines().filter(|line| line.contains("sllm-gds")).collect::<Vec<_>>().join("\n")
    };
    let good = read("deploy/sllm-gds.service");
    assert_eq!(complaints(&good), "");
    assert!(complaints(&good.replace("KillMode=mixed", "KillMode=mxed")).contains("mxed"));
}
