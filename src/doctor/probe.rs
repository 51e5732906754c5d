//! Opening cuFile in a child process: some versions never come back, and all write a log where they stand.

use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::libcufile::{DriverOpen, Probed};
use super::source::Unread;

/// Opening takes 0.2 to 2 seconds where it works.
const LIMIT: Duration = Duration::from_secs(20);

/// Runs `sllm-gds doctor --probe-cufile`, and stops it at the time limit.
pub fn cufile() -> Result<Probed, Unread> {
    let trouble = |e: std::io::Error| Unread::Other(format!("the probe did not start: {e}"));
    let program = std::env::current_exe().map_err(trouble)?;
    let log_dir = tempfile::tempdir().map_err(trouble)?;
    let started = Instant::now();
    let mut child = Command::new(program)
        .args(["doctor", "--probe-cufile"])
        .current_dir(log_dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(trouble)?;
    let (done, waiting) = mpsc::channel();
    let stdout = child.stdout.take();
    // The child's end closes its output; a thread reads until then, so that the wait here can have a limit.
    std::thread::spawn(move || {
        let mut text = String::new();
        let read = stdout.map(|mut out| out.read_to_string(&mut text));
        let _ = done.send(read.is_some_and(|r| r.is_ok()).then_some(text));
    });
    let text = waiting.recv_timeout(LIMIT);
    let seconds = started.elapsed().as_secs_f64();
    // Stopped or not, it must be waited for.
    if text.is_err() {
        let _ = child.kill();
    }
    let _ = child.wait();
    understand(text.ok().flatten().as_deref(), seconds)
}

/// No text: the time limit came first.
fn understand(text: Option<&str>, seconds: f64) -> Result<Probed, Unread> {
    let Some(text) = text else {
        let driver_open = Some(DriverOpen { ended: false, code: None, seconds });
        return Ok(Probed { path: None, version: None, driver_open });
    };
    let last = text.lines().last().unwrap_or_default();
    let answer: Answer = serde_json::from_str(last)
        .map_err(|_| Unread::Other("the probe ended without an answer: it may have crashed".into()))?;
    match answer {
        Answer::Probed(probed) => Ok(probed),
        Answer::NotHere(why) => Err(Unread::Other(why)),
    }
}

#[derive(serde::Serialize, serde::Deserialize)]
enum Answer {
    Probed(Probed),
    NotHere(String),
}

/// The child's part: prints one line of JSON. `open` loads the library and opens its driver.
pub fn answer(open: impl FnOnce() -> Result<Probed, String>) -> String {
    let answer = match open() {
        Ok(probed) => Answer::Probed(probed),
        Err(why) => Answer::NotHere(why),
    };
    serde_json::to_string(&answer).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_through_and_silence_is_no_success() {
        let driver_open = Some(DriverOpen { ended: true, code: Some(5033), seconds: 0.5 });
        let probed = Probed { path: Some("/x/libcufile.so.0".into()), version: Some(1150), driver_open };
        let line = answer(|| Ok(probed.clone()));
        assert_eq!(understand(Some(&line), 1.0), Ok(probed));
        let refused = answer(|| Err("no".into()));
        assert_eq!(understand(Some(&refused), 1.0), Err(Unread::Other("no".into())));
        assert!(matches!(understand(Some(""), 1.0), Err(Unread::Other(_))));
        assert_eq!(understand(None, 20.0).unwrap().driver_open.map(|o| o.ended), Some(false));
    }
}
