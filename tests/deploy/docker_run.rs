//! `benchmarks/docker-run.sh` against a `docker` that only takes notes.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::{CommandFactory, Parser};
use sllm_gds::cli::Cli;
use tempfile::TempDir;

use crate::root;

const SCRIPT: &str = "benchmarks/docker-run.sh";
/// What the script and the stand-in call; nothing else is on the PATH, above all no docker.
const PROGRAMS: [&str; 9] = ["bash", "sh", "cat", "id", "mkdir", "realpath", "dirname", "git", "env"];

/// A home with a storage directory, and a PATH of links.
pub struct Host {
    dir: TempDir,
}

/// One call of docker.
#[derive(Debug)]
pub struct Call {
    hf_token: String,
    pub args: Vec<String>,
}

pub struct Ran {
    pub code: Option<i32>,
    stderr: String,
    pub calls: Vec<Call>,
}

impl Host {
    fn without_docker() -> Host {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("bin")).unwrap();
        fs::create_dir_all(dir.path().join("nvme")).unwrap();
        let path = std::env::var_os("PATH").unwrap();
        let dirs: Vec<PathBuf> = std::env::split_paths(&path).collect();
        for name in PROGRAMS {
            if let Some(program) = dirs.iter().map(|d| d.join(name)).find(|p| p.is_file()) {
                symlink(program, dir.path().join("bin").join(name)).unwrap();
            }
        }
        Host { dir }
    }

    pub fn new() -> Host {
        let host = Host::without_docker();
        symlink(root().join("tests/deploy/docker.sh"), host.path("bin/docker")).unwrap();
        host
    }

    pub fn path(&self, name: &str) -> PathBuf {
        fs::canonicalize(self.dir.path()).unwrap().join(name)
    }

    pub fn run(&self, args: &[&str], vars: &[(&str, &str)]) -> Ran {
        let log = self.path("calls");
        let output = Command::new("bash")
            .arg(root().join(SCRIPT))
            .args(args)
            .current_dir(self.dir.path())
            .env_clear()
            .env("PATH", self.path("bin"))
            .env("HOME", self.dir.path())
            .env("DOCKER_LOG", &log)
            .envs(vars.iter().copied())
            .output()
            .unwrap();
        let noted = fs::read_to_string(&log).unwrap_or_default();
        let calls = noted.split_terminator("\nend\n").map(|call| {
            let mut lines = call.lines().map(str::to_string);
            let hf_token = lines.next().unwrap().strip_prefix("HF_TOKEN=").unwrap().to_string();
            Call { hf_token, args: lines.collect() }
        });
        Ran {
            code: output.status.code(),
            stderr: String::from_utf8(output.stderr).unwrap(),
            calls: calls.collect(),
        }
    }

    /// A run that ends well and calls docker once: the image is there.
    #[track_caller]
    pub fn bench(&self, args: &[&str], vars: &[(&str, &str)]) -> Call {
        let fixed = ["--image", "img", "--storage-path", "nvme"];
        let mut ran = self.run(&[&fixed, args].concat(), vars);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        assert_eq!(ran.calls.len(), 1, "{:?}", ran.calls);
        ran.calls.remove(0)
    }

    #[track_caller]
    pub fn refused(&self, args: &[&str], says: &[&str]) {
        let ran = self.run(args, &[]);
        assert_eq!(ran.code, Some(2), "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.starts_with("error: ") && ran.stderr.lines().count() == 1, "{}", ran.stderr);
        for part in says {
            assert!(ran.stderr.contains(part), "'{part}' is not in: {}", ran.stderr);
        }
        assert!(ran.calls.is_empty(), "docker was called: {:?}", ran.calls);
    }
}

impl Call {
    /// docker's own arguments, and those of sllm-gds behind the image.
    pub fn split(&self, image: &str) -> (&[String], &[String]) {
        let at = self.args.iter().position(|arg| arg == image).expect("the image");
        (&self.args[..at], &self.args[at + 1..])
    }

    pub fn has(&self, pair: [&str; 2]) -> bool {
        self.args.windows(2).any(|two| two == pair)
    }

    /// Fails the test unless sllm-gds takes the arguments behind the image.
    #[track_caller]
    pub fn parses(&self, image: &str) {
        let args = std::iter::once("sllm-gds").chain(self.split(image).1.iter().map(String::as_str));
        Cli::try_parse_from(args).unwrap_or_else(|error| panic!("{error}"));
    }
}

pub fn id(flag: &str) -> String {
    let output = Command::new("id").arg(flag).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_string()
}

pub fn bind(from: &Path, to: &str) -> String {
    format!("type=bind,source={},target={to}", from.display())
}

#[test]
fn the_whole_command_line() {
    let host = Host::new();
    let call = host.bench(&["--gpu-limit", "2", "--mem-pool-size", "32GB", "--results-path", "out"], &[]);
    let mut expected: Vec<String> =
        ["run", "--rm", "--init", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--mount"]
            .map(String::from)
            .to_vec();
    expected.extend([bind(&host.path("out"), "/results"), "--user".into()]);
    expected.push(format!("{}:{}", id("-u"), id("-g")));
    expected.extend(id("-G").split(' ').flat_map(|group| ["--group-add".to_string(), group.to_string()]));
    expected.extend(["--mount".into(), bind(&host.path("nvme"), "/models")]);
    expected.extend(["--ulimit", "memlock=-1:-1", "--gpus", "2"].map(String::from));
    if Path::new("/run/udev").is_dir() {
        expected.extend(["--mount".into(), bind(Path::new("/run/udev"), "/run/udev,readonly")]);
    }
    if Path::new("/dev/nvidia-fs0").exists() {
        expected.extend(["--env", "NVIDIA_GDS=enabled"].map(String::from));
    }
    let inside = "img bench --model synthetic:facebook/opt-6.7b --mode random --replicas 30 --gpus all \
                  --storage-path /models --results /results --mem-pool-size 32GB";
    expected.extend(inside.split_whitespace().map(String::from));
    assert_eq!(call.args, expected);
    call.parses("img");
    assert!(host.path("out").is_dir(), "docker would have made it, as root's");
}

#[test]
fn the_image_is_built_from_the_dockerfile_when_none_is_given() {
    let host = Host::new();
    let ran = host.run(&["--storage-path", "nvme"], &[]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(ran.calls.len(), 2);
    let build = &ran.calls[0].args;
    assert_eq!(build[..4], ["build", "--tag", "sllm-gds:local", "--build-arg"]);
    assert!(build[4].strip_prefix("COMMIT=").is_some_and(|commit| !commit.is_empty()), "{build:?}");
    assert_eq!(Path::new(&build[5]).canonicalize().unwrap(), root().canonicalize().unwrap());
    assert!(Path::new(&build[5]).join("Dockerfile").is_file());
    ran.calls[1].parses("sllm-gds:local");

    let failed =
        Host::new().run(&["--storage-path", "nvme"], &[("DOCKER_FAILS", "build"), ("DOCKER_CODE", "1")]);
    assert_eq!(failed.code, Some(2), "1 would say that the bench ran");
    assert!(failed.stderr.contains("error: the image could not be built"), "{}", failed.stderr);
}

#[test]
fn every_flag_of_the_original_has_its_effect() {
    let host = Host::new();
    let model = ["-m", "synthetic:facebook/opt-125m", "-n", "3", "-t", "cached", "-g", "all"];
    let call = host.bench(&model, &[]);
    let inside = call.split("img").1.join(" ");
    assert!(
        inside.starts_with("bench --model synthetic:facebook/opt-125m --mode cached --replicas 3"),
        "{inside}"
    );
    assert!(call.has(["--gpus", "all"]) && !inside.contains("--mem-pool-size"), "{call:?}");
    call.parses("img");

    let by_variables = [("MODEL_NAME", "m/n"), ("NUM_REPLICAS", "7"), ("BENCHMARK_TYPE", "cached")];
    let inside = Host::new().bench(&["--num-replicas", "8"], &by_variables).split("img").1.join(" ");
    assert!(inside.starts_with("bench --model m/n --mode cached --replicas 8"), "flags win: {inside}");

    let more = Host::new().bench(&["--", "--formats", "sllm", "--cold"], &[]);
    assert_eq!(more.args[more.args.len() - 3..], ["--formats", "sllm", "--cold"]);
    more.parses("img");
}

#[test]
fn gpus_as_docker_wants_them() {
    for (given, wanted) in [
        ("1", "1"),
        ("device=0,1", "\"device=0,1\""),
        ("\"device=7\"", "\"device=7\""),
        ("device=GPU-0a1b-2c", "\"device=GPU-0a1b-2c\""),
    ] {
        let call = Host::new().bench(&["--gpu-limit", given], &[]);
        let (docker, _) = call.split("img");
        assert!(docker.windows(2).any(|two| two == ["--gpus", wanted]), "{given}: {docker:?}");
        assert!(call.has(["--gpus", "all"]), "inside all that the container has");
        call.parses("img");
    }
    let call = Host::new().bench(&["--gpu-limit", "none"], &[]);
    let (docker, inside) = call.split("img");
    assert!(!docker.contains(&"--gpus".to_string()), "{docker:?}");
    assert!(inside.windows(2).any(|two| two == ["--gpus", "none"]), "{inside:?}");
}

#[test]
fn the_token_never_stands_on_dockers_command_line() {
    for (args, vars) in [(vec!["--hf-token", "hf_secret"], vec![]), (vec![], vec![("HF_TOKEN", "hf_secret")])]
    {
        let call = Host::new().bench(&args, &vars);
        assert_eq!(call.hf_token, "hf_secret");
        assert!(call.has(["--env", "HF_TOKEN"]));
        assert!(!call.args.iter().any(|arg| arg.contains("hf_secret")), "{call:?}");
    }
    assert!(!Host::new().bench(&[], &[]).args.contains(&"HF_TOKEN".to_string()));
}

#[test]
fn the_hubs_cache_and_a_models_directory_are_mounted() {
    let host = Host::new();
    fs::create_dir_all(host.path("cache")).unwrap();
    fs::create_dir_all(host.path("my model")).unwrap();
    let cache = host.path("cache");
    let call = host
        .bench(&["--mount-hf-cache", "--model-name", "./my model"], &[("HF_HOME", cache.to_str().unwrap())]);
    assert!(call.has(["--mount", &bind(&cache, "/hf-cache")]) && call.has(["--env", "HF_HOME=/hf-cache"]));
    let model = bind(&host.path("my model"), "/model/my model,readonly");
    assert!(call.has(["--mount", &model]), "{call:?}");
    assert!(call.has(["--model", "/model/my model"]));
    call.parses("img");
}

#[test]
fn plots_are_drawn_by_a_second_container_and_the_benchs_code_is_kept() {
    let args = ["--image", "img", "--storage-path", "nvme", "--generate-plots"];
    let ran = Host::new().run(&args, &[]);
    assert_eq!((ran.code, ran.calls.len()), (Some(0), 2), "{}", ran.stderr);
    let (docker, inside) = ran.calls[1].split("img");
    // The bench's code is the answer; the plot has none of its own.
    let plot = ["analyze", "/results", "--plot", "/results/comparison.png", "--fail-on", "none"];
    assert_eq!(inside, plot);
    assert!(!docker.contains(&"--gpus".to_string()), "drawing needs no GPU: {docker:?}");
    match Cli::command().find_subcommand("analyze") {
        Some(_) => ran.calls[1].parses("img"),
        None => eprintln!("skipped: this build has no analyze to take the arguments"),
    }
    for (code, calls) in [("2", 1), ("125", 1), ("130", 1)] {
        let ran = Host::new().run(&args, &[("DOCKER_FAILS", "run"), ("DOCKER_CODE", code)]);
        assert_eq!((ran.code, ran.calls.len()), (Some(code.parse().unwrap()), calls), "{}", ran.stderr);
    }
    let without = &args[..4];
    let ran = Host::new().run(without, &[("DOCKER_FAILS", "run"), ("DOCKER_CODE", "1")]);
    assert_eq!(ran.code, Some(1), "the answer no is passed on: {}", ran.stderr);
}

#[test]
fn what_cannot_work_is_refused_before_docker_is_called() {
    let host = Host::new();
    fs::create_dir_all(host.path("a,b")).unwrap();
    fs::write(host.path("file"), "").unwrap();
    let cases: [(&[&str], &[&str]); 14] = [
        (&["--replicas", "3"], &["no option '--replicas'", "--help"]),
        (&["nvme"], &["no option 'nvme'"]),
        (&["--model-name"], &["--model-name has no value"]),
        (&["--model-name", "--gpu-limit", "1"], &["--model-name has no value"]),
        (&["--num-replicas", "0"], &["'0' is not a count", "1 to 10000"]),
        (&["--benchmark-type", "warm"], &["'warm' is not known", "random", "cached"]),
        (&["--mem-pool-size", "big"], &["'big' is not a size", "32GB"]),
        (&["--gpu-limit", "gpu0"], &["'gpu0' is not a choice of GPUs", "device=0,1"]),
        (&["--gpu-limit", "none", "--mem-pool-size", "1GB"], &["serves loads to a GPU"]),
        (&["--storage-path", "nvme", "--model-name", "./missing"], &["'./missing' is not there", "hub id"]),
        (&["--storage-path", "missing"], &["'missing' is not a directory", "make it"]),
        (&["--storage-path", "a,b"], &["a,b", "without them"]),
        (&["--storage-path", "nvme", "--results-path", "file/out"], &["'file/out' can't be made"]),
        (&["--storage-path", "nvme", "--mount-hf-cache"], &["huggingface' is not a directory", "HF_HOME"]),
    ];
    for (args, says) in cases {
        host.refused(args, says);
    }
    Host::without_docker().refused(&["--storage-path", "nvme"], &["no docker on the PATH", "install it"]);
}

#[test]
fn help_names_every_flag_and_calls_nothing() {
    let ran = Host::new().run(&["--help"], &[]);
    assert_eq!((ran.code, ran.calls.len()), (Some(0), 0));
    let output = Command::new("bash").arg(root().join(SCRIPT)).arg("-h").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for flag in [
        "--model-name",
        "--num-replicas",
        "--mem-pool-size",
        "--benchmark-type",
        "--gpu-limit",
        "--hf-token",
        "--storage-path",
        "--results-path",
        "--mount-hf-cache",
        "--generate-plots",
        "--serve",
        "--help",
    ] {
        assert!(text.contains(flag), "{flag}");
    }
}
