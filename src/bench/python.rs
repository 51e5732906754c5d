//! The baseline in its own language: the real safetensors library in a Python process that is started, and
//! has imported everything, before the clock runs.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};

use super::record::Phases;
use super::{Done, InPlace};
use crate::load::Destination;
use crate::load::verify::{self, Digests};

const SCRIPT: &str = include_str!("baseline.py");

pub struct Python {
    child: Child,
    to: UnixStream,
    from: BufReader<ChildStdout>,
    /// Of Python, safetensors, and torch or numpy.
    pub versions: Value,
}

impl Python {
    /// Starts `python3` (or `$PYTHON`) and waits until it has imported what it needs.
    pub fn start(to: &Destination) -> Result<Python> {
        let program = std::env::var("PYTHON").unwrap_or_else(|_| "python3".into());
        let devices: Vec<String> = match to {
            Destination::Host => vec!["cpu".into()],
            Destination::Gpus(gpus, _) => gpus.iter().map(|gpu| format!("cuda:{}", gpu.index)).collect(),
        };
        // A socket, not a pipe: writing to a process that died is then an error, and not the end of this one. Its
        // own process group: Ctrl-C is for us, and ends the run after the load under way.
        let (to, its_end) = UnixStream::pair().context("make a socket for the Python process")?;
        let mut child = Command::new(&program)
            .args(["-u", "-c", SCRIPT])
            .args(&devices)
            .stdin(Stdio::from(OwnedFd::from(its_end)))
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {program} for --baseline python (set PYTHON to name another)"))?;
        let from = BufReader::new(child.stdout.take().context("the Python process has no output")?);
        let mut python = Python { child, to, from, versions: Value::Null };
        let hello = python.answer().with_context(|| {
            format!("{program} can't serve --baseline python: it needs safetensors, and torch or numpy (pip install)")
        })?;
        python.versions = hello;
        Ok(python)
    }

    /// Loads a directory in the Python process, which keeps the tensors until the next load.
    pub fn load(&mut self, dir: &Path) -> Result<Done> {
        let answer = self.ask(json!({ "load": dir }))?;
        let elapsed_s = answer["elapsed_s"].as_f64().context("the Python process gave no time")?;
        Ok(Done {
            elapsed_s,
            phases: Phases { transfer_s: elapsed_s, ..Phases::default() },
            bytes: answer["bytes"].as_u64().unwrap_or(0),
            path: answer["path"].as_str().unwrap_or("python").into(),
            path_reason: answer["reason"].as_str().unwrap_or_default().into(),
            bytes_in_place: InPlace::Python,
        })
    }

    /// Compares digests that Python computed of its own tensors.
    pub fn mismatches(&mut self, expected: &Digests) -> Result<Vec<String>> {
        let answer = self.ask(json!({ "digests": true }))?;
        let found: Digests = serde_json::from_value(answer["digests"].clone()).context("Python's digests")?;
        let differs = |name: &String| match found.get(name) {
            Some(found) => verify::differs(name, *found, expected),
            None => Some(format!("tensor '{name}' is missing")),
        };
        Ok(expected.keys().filter_map(differs).collect())
    }

    fn ask(&mut self, question: Value) -> Result<Value> {
        writeln!(self.to, "{question}").context("write to the Python process")?;
        self.answer()
    }

    fn answer(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.from.read_line(&mut line).context("read from the Python process")? == 0 {
            bail!("the Python process ended; its own message stands above");
        }
        let answer: Value = serde_json::from_str(&line).with_context(|| format!("Python said: {line}"))?;
        match answer["error"].as_str() {
            Some(error) => Err(anyhow!("Python: {error}")),
            None => Ok(answer),
        }
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        // It holds nothing worth a clean end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
