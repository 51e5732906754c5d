//! This program again, as a child with a time limit: for calls into libraries that may hang or crash.

use std::io::{self, Read};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// What a child came to.
pub struct Ended {
    /// Whether it ended by itself, within the limit.
    pub in_time: bool,
    pub status: Option<ExitStatus>,
    /// What it wrote to standard output; of one that was stopped, until then.
    pub text: String,
    pub elapsed_s: f64,
}

/// In a child's environment: a program that has this crate built in and does not know the hidden subcommands must not
/// start itself again and again.
const MARK: &str = "SLLM_GDS_CHILD";

/// Runs this program with these arguments, hidden subcommands of `sllm-gds`, and stops it at the limit. What it leaves
/// in its temporary directory is removed. Its standard input is open as long as this process lives.
pub fn run(args: &[&str], limit: Duration) -> io::Result<Ended> {
    run_program(&std::env::current_exe()?, args, limit)
}

/// The same with a program that knows those subcommands: `sllm-gds`, where this one does not.
pub fn run_program(program: &Path, args: &[&str], limit: Duration) -> io::Result<Ended> {
    if is_child() {
        return Err(io::Error::other("this is such a child already"));
    }
    let directory = tempfile::tempdir()?;
    let started = Instant::now();
    let mut child = Command::new(program)
        .args(args)
        .env("TMPDIR", directory.path())
        .env(MARK, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    // Open until the end of this function, or of this process, whichever comes first.
    let _stdin = child.stdin.take();
    let (done, waiting) = mpsc::channel();
    let stdout = child.stdout.take();
    // The child's end closes its output; a thread reads until then, so that the wait here can have a limit.
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = stdout.map(|mut out| out.read_to_end(&mut bytes));
        let _ = done.send(bytes);
    });
    let in_time = waiting.recv_timeout(limit);
    let elapsed_s = started.elapsed().as_secs_f64();
    let ended = in_time.is_ok();
    if !ended {
        let _ = child.kill();
    }
    // Stopped or not, it must be waited for; what it had said by then counts.
    let status = child.wait().ok();
    let bytes = in_time.or_else(|_| waiting.recv()).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Ok(Ended { in_time: ended, status, text, elapsed_s })
}

/// Whether this process is such a child.
pub fn is_child() -> bool {
    std::env::var_os(MARK).is_some()
}
