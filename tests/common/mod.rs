//! What the tests of the command line share: running it, watching it, and a small odd model.
#![allow(dead_code, reason = "every test file uses its own part")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// Longest wait for something that takes milliseconds; past it the test fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// A new directory on the disk that holds the build, removed at the end.
pub fn temp_dir() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// The program, in `dir`, with nothing of this machine's settings.
pub fn program(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sllm-gds"));
    command.args(args).current_dir(dir).stdin(Stdio::null());
    let settings = [
        "RUST_BACKTRACE",
        "PYTHON",
        "HF_TOKEN",
        "HF_TOKEN_PATH",
        "HF_ENDPOINT",
        "HF_HUB_CACHE",
        "HF_HUB_OFFLINE",
    ];
    settings.iter().for_each(|name| {
        command.env_remove(name);
    });
    command.env("HF_HOME", dir.join("hf-home"));
    command
}

/// A finished run.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    fn new(output: Output) -> Ran {
        let text = |bytes| String::from_utf8(bytes).expect("the program writes UTF-8");
        let ran =
            Ran { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) };
        assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
        ran
    }

    /// Fails the test unless the run ended with this code.
    #[track_caller]
    pub fn expect(self, code: i32) -> Ran {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Fails the test unless standard error is one `error:` line that holds each of these.
    #[track_caller]
    pub fn one_error(self, parts: &[&str]) -> Ran {
        let errors: Vec<&str> = self.stderr.lines().filter(|l| l.starts_with("error:")).collect();
        assert_eq!(errors.len(), 1, "{}", self.stderr);
        for part in parts {
            assert!(errors[0].contains(part), "'{part}' is not in: {}", self.stderr);
        }
        self
    }

    /// Standard output as one JSON value, and nothing else.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}:\n{}", self.stdout))
    }
}

/// Runs to the end.
pub fn run(dir: &Path, args: &[&str]) -> Ran {
    run_command(program(dir, args))
}

pub fn run_command(mut command: Command) -> Ran {
    Ran::new(command.output().unwrap())
}

/// A run under way. Killed when dropped, should the test fail meanwhile.
pub struct Running(Option<Child>);

pub fn start(mut command: Command) -> Running {
    Running(Some(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()))
}

impl Running {
    fn child(&mut self) -> &mut Child {
        self.0.as_mut().unwrap()
    }

    /// Waits until `happened`; fails the test if the run ends first, or nothing happens for a minute.
    #[track_caller]
    pub fn wait_until(&mut self, what: &str, mut happened: impl FnMut() -> bool) {
        let started = Instant::now();
        while !happened() {
            if let Some(status) = self.child().try_wait().unwrap() {
                let ran = self.0.take().map(|child| Ran::new(child.wait_with_output().unwrap()));
                panic!("ended ({status}) before {what}: {ran:?}");
            }
            assert!(started.elapsed() < PATIENCE, "no {what} in {PATIENCE:?}");
            std::thread::yield_now();
        }
    }

    /// Sends a signal, named as kill(1) names it.
    pub fn signal(&mut self, name: &str) {
        kill(name, &self.child().id().to_string());
    }

    /// Sends a signal to the whole process group, as a terminal does. The command must lead its own group.
    pub fn signal_group(&mut self, name: &str) {
        kill(name, &format!("-{}", self.child().id()));
    }

    /// Its next line on standard output, waited for; empty where it ended. `finish` has what comes after it.
    pub fn line(&mut self) -> String {
        let stdout = self.child().stdout.as_mut().unwrap();
        let (mut line, mut byte) = (Vec::new(), [0u8]);
        while stdout.read(&mut byte).unwrap() == 1 && byte != *b"\n" {
            line.extend(byte);
        }
        String::from_utf8(line).unwrap()
    }

    pub fn finish(mut self) -> Ran {
        Ran::new(self.0.take().unwrap().wait_with_output().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn kill(signal: &str, target: &str) {
    // The shell has kill built in; kill(1) is not installed everywhere.
    let status = Command::new("sh").args(["-c", "kill -s $0 -- $1", signal, target]).status().unwrap();
    assert!(status.success());
}

/// The entries of a directory, hidden ones too, sorted; empty where there is none.
pub fn names_in(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// All files below a directory, by path from it, with the SHA-256 of each.
pub fn tree(dir: &Path) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    for name in names_in(dir) {
        let path = dir.join(&name);
        if path.is_dir() {
            files.extend(tree(&path).into_iter().map(|(below, hash)| (format!("{name}/{below}"), hash)));
        } else {
            files.insert(name, format!("{:x}", Sha256::digest(fs::read(path).unwrap())));
        }
    }
    files
}

pub fn read_json(path: &Path) -> Value {
    let text = fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Flips one bit of a file.
pub fn flip_bit(path: &Path, at: u64) {
    use std::os::unix::fs::FileExt;
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0u8];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

/// ServerlessLLM's own files, where this checkout has them beside it.
pub fn upstream() -> Option<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/upstream/checkpoint-tiny");
    if !dir.is_dir() {
        eprintln!("skipped: {} is not here", dir.display());
        return None;
    }
    Some(dir)
}

/// A tensor of the odd model: name, type, shape.
type OddTensor = (String, Dtype, Vec<usize>);

/// Tensors as they come in the wild, and worse: scalars, empty ones, odd sizes, names that sort wrongly.
fn odd_tensors() -> Vec<OddTensor> {
    let mut tensors: Vec<OddTensor> = vec![
        ("model.embed_tokens.weight".into(), Dtype::BF16, vec![97, 40]),
        ("model.norm.weight".into(), Dtype::F32, vec![40]),
        ("model.scale".into(), Dtype::F64, vec![]),
        ("model.nothing".into(), Dtype::F16, vec![0, 40]),
        ("lm_head.weight".into(), Dtype::F16, vec![97, 40]),
        ("größe 'β' \"x\"".into(), Dtype::U8, vec![13]),
    ];
    for layer in 0..12 {
        let name = |part: &str| format!("model.layers.{layer}.{part}");
        tensors.push((name("mlp.weight"), Dtype::BF16, vec![40, 101]));
        tensors.push((name("mlp.bias"), Dtype::F32, vec![101]));
        tensors.push((name("mask"), Dtype::BOOL, vec![7]));
        tensors.push((name("steps"), Dtype::I64, vec![1]));
    }
    tensors
}

/// Writes the odd model as two safetensors shards with their index, a config and a tokenizer.
pub fn write_odd_model(dir: &Path) {
    write_model(dir, &odd_tensors());
}

/// A model of the types that numpy knows too.
pub fn write_plain_model(dir: &Path) {
    let layer = |i: usize| (format!("layers.{i}.weight"), Dtype::F16, vec![10, 10 + i]);
    let mut tensors: Vec<OddTensor> = (0..4).map(layer).collect();
    tensors.push(("norm.weight".into(), Dtype::F32, vec![3]));
    tensors.push(("mask".into(), Dtype::BOOL, vec![7]));
    write_model(dir, &tensors);
}

fn write_model(dir: &Path, tensors: &[OddTensor]) {
    fs::create_dir_all(dir).unwrap();
    let mut random = fastrand::Rng::with_seed(7);
    let mut weight_map = serde_json::Map::new();
    for (i, shard) in tensors.chunks(tensors.len().div_ceil(2)).enumerate() {
        let file = format!("model-{:05}-of-00002.safetensors", i + 1);
        let bytes: Vec<Vec<u8>> = shard.iter().map(|t| random_bytes(t, &mut random)).collect();
        let views = shard.iter().zip(&bytes).map(|((name, dtype, shape), bytes)| {
            (name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).unwrap())
        });
        let metadata = [("format".to_string(), "pt".to_string())].into();
        safetensors::serialize_to_file(views, Some(metadata), &dir.join(&file)).unwrap();
        weight_map.extend(shard.iter().map(|t| (t.0.clone(), Value::from(file.clone()))));
    }
    let index = serde_json::json!({ "metadata": { "total_size": 1 }, "weight_map": weight_map });
    fs::write(dir.join("model.safetensors.index.json"), index.to_string()).unwrap();
    fs::write(dir.join("config.json"), "{\"model_type\": \"odd\"}\n").unwrap();
    fs::write(dir.join("tokenizer.json"), "{}\n").unwrap();
}

fn random_bytes((_, dtype, shape): &OddTensor, random: &mut fastrand::Rng) -> Vec<u8> {
    let bits: usize = dtype.bitsize() * shape.iter().product::<usize>();
    (0..bits / 8).map(|_| if *dtype == Dtype::BOOL { random.u8(..2) } else { random.u8(..) }).collect()
}

/// Every tensor of a safetensors directory, read by the safetensors crate: type, shape, bytes.
pub fn safetensors_in(dir: &Path) -> BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)> {
    let mut tensors = BTreeMap::new();
    for name in names_in(dir).iter().filter(|n| n.ends_with(".safetensors")) {
        let bytes = fs::read(dir.join(name)).unwrap();
        for (name, view) in SafeTensors::deserialize(&bytes).unwrap().iter() {
            let tensor = (view.dtype(), view.shape().to_vec(), view.data().to_vec());
            assert!(tensors.insert(name.to_string(), tensor).is_none(), "'{name}' stands in two shards");
        }
    }
    tensors
}

/// The bytes of every tensor of a checkpoint in ServerlessLLM's layout, by its index alone.
pub fn partitioned_tensors(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = Vec::new();
    for i in 0.. {
        match fs::read(dir.join(format!("tensor.data_{i}"))) {
            Ok(bytes) => all.extend(bytes),
            Err(_) => break,
        }
    }
    let index = read_json(&dir.join("tensor_index.json"));
    let entries = index.as_object().unwrap().iter();
    let bytes = |entry: &Value| {
        let number = |i: usize| entry[i].as_u64().unwrap() as usize;
        all[number(0)..number(0) + number(1)].to_vec()
    };
    entries.map(|(name, entry)| (name.clone(), bytes(entry))).collect()
}

/// What ServerlessLLM's offsets find: the bytes of each entry of the index in the served files laid end to end.
pub fn served_tensors(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let found = sllm_gds::checkpoint::served::served(dir, None).unwrap();
    let mut all = Vec::new();
    for file in &found.files {
        assert_eq!(file.base, all.len() as u64);
        all.extend(fs::read(&file.path).unwrap());
    }
    assert_eq!(all.len() as u64, found.total_bytes);
    let index = read_json(&dir.join("tensor_index.json"));
    let slice = |entry: &Value| {
        let [offset, bytes] = [0, 1].map(|i| entry[i].as_u64().unwrap() as usize);
        all[offset..offset + bytes].to_vec()
    };
    index.as_object().unwrap().iter().map(|(name, entry)| (name.clone(), slice(entry))).collect()
}

/// The records of one result file of the model `odd`.
pub fn records(results: &Path, format: &str, count: usize, mode: &str) -> Vec<Value> {
    let records = read_json(&results.join(format!("odd_{format}_{count}_{mode}.json")));
    records.as_array().unwrap().clone()
}
