//! Loaders in their own language: safetensors and its peers, each in a Python process of its own that is started,
//! and has imported everything, before the clock runs.

use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};
use thiserror::Error;

use crate::bench::done::{Done, InPlace};
use crate::bench::format::Format;
use crate::load::Destination;
use crate::load::phases::Phases;
use crate::load::verify;
use crate::load::verify::Digests;
use crate::os::cancel::Cancel;

/// Between two looks at whether to stop.
const PATIENCE: Duration = Duration::from_millis(50);

const LOADERS: &str = include_str!("../../benchmarks/peers/loaders.py");
const SERVE: &str = include_str!("serve.py");

/// A format that can't load into host memory was to do so.
#[derive(Debug, Error)]
#[error("{0} loads to GPUs only")]
pub struct WantsGpu(&'static str);

/// A format's Python does not come up.
#[derive(Debug, Error)]
#[error("no Python for {}", .0.name())]
pub struct NoPython(pub Format);

pub struct Python {
    pub format: Format,
    child: Child,
    to: UnixStream,
    /// Its answers, line by line.
    from: Receiver<io::Result<String>>,
    /// Of Python, the loader's package, numpy and torch.
    pub versions: Value,
}

/// Starts a process for each of these formats, and waits until all have imported what they need. They load to the
/// same destinations as ours; those that know GPUs only are refused for host memory.
pub fn start(formats: &[Format], to: &Destination, cancel: &Cancel) -> Result<Vec<Python>> {
    if let (Destination::Host, Some(format)) = (to, formats.iter().find(|f| f.wants_gpu())) {
        bail!(WantsGpu(format.name()));
    }
    // All at once: an import of torch takes seconds.
    let spawn = |format: &Format| Python::spawn(*format, to).context(NoPython(*format));
    let mut pythons = formats.iter().map(spawn).collect::<Result<Vec<_>>>()?;
    pythons.iter_mut().try_for_each(|python| python.hello(cancel).context(NoPython(python.format)))?;
    Ok(pythons)
}

/// The environment variable that names a format's own Python, before `PYTHON`: SLLM_GDS_PYTHON_FASTSAFETENSORS, …
fn own_python(format: Format) -> String {
    format!("SLLM_GDS_PYTHON_{}", format.name().replace('-', "_").to_uppercase())
}

/// The Python that runs a format.
fn program(format: Format) -> String {
    let named = [own_python(format), "PYTHON".into()].iter().find_map(|name| std::env::var(name).ok());
    named.unwrap_or_else(|| "python3".into())
}

impl Python {
    fn spawn(format: Format, to: &Destination) -> Result<Python> {
        let program = program(format);
        let devices: Vec<String> = match to {
            Destination::Host => vec!["cpu".into()],
            Destination::Gpus(gpus, _) => gpus.iter().map(|gpu| format!("cuda:{}", gpu.index)).collect(),
        };
        // A socket, not a pipe: writing to a process that died is then an error, and not the end of this one. Its
        // own process group: Ctrl-C is for us, and we end it.
        let (to, its_end) = UnixStream::pair().context("make a socket for the Python process")?;
        let mut child = Command::new(&program)
            .args(["-u", "-c", &format!("{LOADERS}\n{SERVE}"), format.name()])
            .args(&devices)
            .stdin(Stdio::from(OwnedFd::from(its_end)))
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .with_context(|| {
                let own = own_python(format);
                format!("start {program} (set {own} or PYTHON to name another)")
            })?;
        let lines = BufReader::new(child.stdout.take().context("the Python process has no output")?).lines();
        let (told, from) = channel();
        // Ends with the process.
        std::thread::spawn(move || {
            lines.map(|line| told.send(line)).take_while(Result::is_ok).for_each(drop)
        });
        Ok(Python { format, child, to, from, versions: Value::Null })
    }

    /// Waits for its first word: the versions, or what is missing.
    fn hello(&mut self, cancel: &Cancel) -> Result<()> {
        let said = self.read(cancel);
        cancel.check()?;
        let said = said.unwrap_or_else(|error| json!({ "error": format!("{error:#}") }));
        if let Some(error) = said["error"].as_str() {
            bail!(
                "{} can't serve: {error}. pip install {}, or set {} or PYTHON to a Python that has it",
                program(self.format),
                said["install"].as_str().unwrap_or(match self.format {
                    Format::Safetensors => "safetensors, and torch or numpy",
                    _ => "what benchmarks/peers/requirements.txt names",
                }),
                own_python(self.format),
            );
        }
        self.versions = said;
        Ok(())
    }

    /// Loads safetensors files in the Python process. With `keep` the tensors stay until `mismatches` has digested them.
    pub(super) fn load(
        &mut self,
        shards: &[PathBuf],
        cold: bool,
        keep: bool,
        cancel: &Cancel,
    ) -> Result<Done> {
        let answer = self.ask(json!({ "load": shards, "cold": cold, "keep": keep }), cancel)?;
        let elapsed_s = answer["elapsed_s"].as_f64().context("the Python process gave no time")?;
        Ok(Done {
            elapsed_s,
            phases: Phases { transfer_s: elapsed_s, ..Phases::default() },
            bytes: answer["bytes"].as_u64().unwrap_or(0),
            read_bytes: None,
            path: answer["path"].as_str().unwrap_or("python").into(),
            path_reason: answer["reason"].as_str().unwrap_or_default().into(),
            chunk_bytes: 0,
            threads: 0,
            links: Vec::new(),
            bytes_in_place: InPlace::Python,
        })
    }

    /// Compares digests that Python computed of its own tensors.
    pub fn mismatches(&mut self, expected: &Digests, cancel: &Cancel) -> Result<Vec<String>> {
        let answer = self.ask(json!({ "digests": true }), cancel)?;
        let found: Digests = serde_json::from_value(answer["digests"].clone()).context("Python's digests")?;
        let differs = |name: &String| match found.get(name) {
            Some(found) => verify::differs(name, *found, expected),
            None => Some(format!("tensor '{name}' is missing")),
        };
        Ok(expected.keys().filter_map(differs).collect())
    }

    fn ask(&mut self, question: Value, cancel: &Cancel) -> Result<Value> {
        cancel.check()?;
        writeln!(self.to, "{question}").context("write to the Python process")?;
        let answer = self.read(cancel)?;
        match answer["error"].as_str() {
            Some(error) => Err(anyhow!("Python: {error}")),
            None => Ok(answer),
        }
    }

    /// Its next word. Once `cancel` is set nobody waits for it any more: the process then ends with this one.
    fn read(&mut self, cancel: &Cancel) -> Result<Value> {
        let line = loop {
            match self.from.recv_timeout(PATIENCE) {
                Ok(line) => break line.context("read from the Python process")?,
                Err(RecvTimeoutError::Timeout) => cancel.check()?,
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("the Python process ended; its own message stands above")
                }
            }
        };
        serde_json::from_str(&line).with_context(|| format!("Python said: {line}"))
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        // It holds nothing worth a clean end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
