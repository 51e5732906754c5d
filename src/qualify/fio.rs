//! The same reads by fio, from the job file that users run themselves.

use std::fs::File;
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

use crate::os::cancel::{Cancel, Interrupted};
use crate::qualify::measure::{ROUNDS_MIN, Rounds, repeat};
use crate::qualify::raw::RawFile;

/// As it lies at the top of the source tree: `fio fio-config.ini` works as it is.
const JOB_FILE: &str = include_str!("../../fio-config.ini");
/// As in the file; each job reads a part of its own.
const JOBS: u64 = 4;
/// Beyond its run time: starting, and ending a slow device's last reads.
const GRACE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The program, where one of that name is on PATH.
pub fn program() -> Option<PathBuf> {
    let dirs = std::env::var_os("PATH")?;
    std::env::split_paths(&dirs).map(|dir| dir.join("fio")).find(|path| is_program(path))
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

/// Runs fio over the file a few times, each for its part of that time (whole seconds, at least one), and says how in words.
pub fn read(program: &Path, file: &RawFile, share: Duration, cancel: &Cancel) -> Result<(Rounds, String)> {
    let runtime_s = (share / ROUNDS_MIN as u32).as_secs().max(1);
    let job = job_file(file, runtime_s)?;
    let mut version = String::new();
    let rounds = repeat(ROUNDS_MIN, Duration::ZERO, cancel, || {
        let text = run(program, &file.checkpoint, &job, runtime_s, cancel)?;
        let (said, bytes, elapsed_s) = parse(&text)?;
        version = said;
        Ok((bytes, elapsed_s))
    })?;
    Ok((rounds, format!("{version}, fio-config.ini: libaio, 4 jobs, 16 reads of 1 MiB each")))
}

/// The job file for this file. Its name stands relative to the directory that fio runs in: a `:` in a path would be
/// two files to fio.
fn job_file(file: &RawFile, runtime_s: u64) -> Result<String> {
    let name = file.path.file_name().and_then(|name| name.to_str()).context("the raw file has no name")?;
    let part = file.bytes / JOBS;
    let new = [
        ("filename", name.to_string()),
        ("size", part.to_string()),
        ("offset_increment", part.to_string()),
        ("runtime", runtime_s.to_string()),
    ];
    let mut lines: Vec<String> = Vec::new();
    for line in JOB_FILE.lines().filter(|line| !line.starts_with(';')) {
        let key = line.split('=').next().unwrap_or_default();
        match new.iter().find(|(name, _)| *name == key) {
            Some((name, value)) => lines.push(format!("{name}={value}")),
            None => lines.push(line.to_string()),
        }
    }
    Ok(lines.join("\n") + "\n")
}

/// Runs fio with the job on its standard input; what it says goes to files that have no name.
fn run(program: &Path, dir: &Path, job: &str, runtime_s: u64, cancel: &Cancel) -> Result<String> {
    let unnamed = || tempfile::tempfile_in(dir).context("make a file for what fio says");
    let (mut input, mut output, mut errors) = (unnamed()?, unnamed()?, unnamed()?);
    input.write_all(job.as_bytes()).and_then(|()| input.rewind()).context("write fio's job")?;
    let child = Command::new(program)
        .args(["--output-format=json", "-"])
        .current_dir(dir)
        .stdin(Stdio::from(input))
        .stdout(output.try_clone()?)
        .stderr(errors.try_clone()?)
        .spawn()
        .with_context(|| format!("start {}", program.display()))?;
    let status = wait(child, Duration::from_secs(runtime_s).saturating_add(GRACE), cancel)?;
    let text = text_of(&mut output)?;
    if !status.success() {
        let said = format!("{}{}", text_of(&mut errors)?, text);
        let first = said.lines().find(|line| !line.trim().is_empty()).unwrap_or("it says nothing");
        bail!("fio failed ({status}): {first}");
    }
    Ok(text)
}

fn text_of(file: &mut File) -> Result<String> {
    file.rewind().and_then(|()| std::io::read_to_string(file)).context("read what fio says")
}

/// Waits for the child; ends it when the time is up or the run is interrupted.
fn wait(mut child: Child, longest: Duration, cancel: &Cancel) -> Result<std::process::ExitStatus> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().context("wait for fio")? {
            // A Ctrl-C on a terminal reaches fio, too.
            return if cancel.is_set() { Err(anyhow!(Interrupted)) } else { Ok(status) };
        }
        if cancel.is_set() || started.elapsed() > longest {
            let _ = child.kill();
            let _ = child.wait();
            return match cancel.is_set() {
                true => Err(anyhow!(Interrupted)),
                false => Err(anyhow!("fio did not end within {} s", longest.as_secs())),
            };
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Version, bytes and seconds of fio's JSON; lines of warnings may stand before it.
fn parse(text: &str) -> Result<(String, u64, f64)> {
    let start = text.find('{').context("fio wrote no JSON")?;
    let value: Value = serde_json::from_str(&text[start..]).context("fio's JSON does not parse")?;
    let jobs = value["jobs"].as_array().context("fio's JSON names no jobs")?;
    if let Some(code) = jobs.iter().filter_map(|job| job["error"].as_i64()).find(|code| *code != 0) {
        let error = std::io::Error::from_raw_os_error(i32::try_from(code).unwrap_or(libc::EIO));
        return Err(anyhow!(error).context("fio's reads failed"));
    }
    let bytes = jobs.iter().filter_map(|job| job["read"]["io_bytes"].as_u64()).sum::<u64>();
    let milliseconds = jobs.iter().filter_map(|job| job["read"]["runtime"].as_u64()).max().unwrap_or(0);
    if bytes == 0 || milliseconds == 0 {
        bail!("fio read nothing");
    }
    let version = value["fio version"].as_str().unwrap_or("fio").to_string();
    Ok((version, bytes, milliseconds as f64 / 1e3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> RawFile {
        RawFile { checkpoint: "/d".into(), path: "/d/tensor.data_0".into(), bytes: 64 << 20 }
    }

    #[test]
    fn the_job_file_is_the_users_own_but_for_four_lines() {
        let job = job_file(&file(), 7).unwrap();
        for line in [
            "filename=tensor.data_0",
            "size=16777216",
            "offset_increment=16777216",
            "runtime=7",
            "ioengine=libaio",
            "numjobs=4",
            "time_based",
        ] {
            assert_eq!(job.lines().filter(|l| *l == line).count(), 1, "{line} in\n{job}");
        }
        assert!(!job.contains("./models"), "{job}");
    }

    #[test]
    fn json_is_read_and_failures_show() {
        let text = r#"note: both iodepth >= 1
{"fio version":"fio-3.33","jobs":[{"error":0,"read":{"io_bytes":2000000000,"runtime":500}}]}"#;
        assert_eq!(parse(text).unwrap(), ("fio-3.33".to_string(), 2_000_000_000, 0.5));
        let failed = format!("{:#}", parse(r#"{"jobs":[{"error":5,"read":{}}]}"#).unwrap_err());
        assert!(failed.contains("Input/output error"), "{failed}");
        for bad in ["", "fio: nothing", "{", "{}", r#"{"jobs":[]}"#, r#"{"jobs":[{"read":{"runtime":1}}]}"#] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
