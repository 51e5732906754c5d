//! cuFile's log: sent to a file of our own, and read after a failure.
//!
//! Every known version opens the log before it obeys its parameters, so that they come too late. All obey the
//! variable `CUFILE_LOGFILE_PATH`, and without it the log is opened in the working directory of the thread that
//! opens the driver: so that thread gets a working directory of its own.

use std::env;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, IntoRawFd, RawFd};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use tempfile::TempDir;

const VARIABLE: &str = "CUFILE_LOGFILE_PATH";
const CONFIGURATION: &str = "CUFILE_ENV_PATH_JSON";
const DEFAULT_NAME: &str = "cufile.log";
/// Lines attached to one error.
const MAX_LINES: usize = 8;
/// Read at most this much of a log's end.
const MAX_BYTES: u64 = 256 << 10;

/// Sends cuFile's log of this process to a file that is gone when the process ends. For the first lines of `main`:
/// the environment may only be changed while there is no other thread, and nothing is done where there is one, or
/// where the user set `CUFILE_LOGFILE_PATH`. Returns whether it was done. Without it the log still stays out of
/// the working directory, except where a sandbox forbids `unshare`, as Docker's does.
pub fn claim_log() -> io::Result<bool> {
    if env::var_os(VARIABLE).is_some() || fs::read_dir("/proc/self/task")?.count() != 1 {
        return Ok(false);
    }
    // Open until the process ends.
    let fd = tempfile::tempfile()?.into_raw_fd();
    // SAFETY: the process has one thread, and it is here: nobody reads the environment meanwhile.
    unsafe { env::set_var(VARIABLE, path_of(fd)) };
    Ok(true)
}

/// A path to a file without a name. By process, so that a child that inherits it does not take a file of its own.
fn path_of(fd: RawFd) -> PathBuf {
    format!("/proc/{}/fd/{fd}", std::process::id()).into()
}

/// One line of cuFile's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// `ERROR`, `WARN`, `NOTICE`, …
    pub level: String,
    pub text: String,
}

/// Where the log goes, and how much of it was there before or is reported already. One for each library: cuFile
/// opens its log once, however often the driver is opened.
#[derive(Debug)]
pub(super) struct Log {
    target: Target,
    start: u64,
    reported: AtomicU64,
}

#[derive(Debug)]
enum Target {
    /// A file without a name, so that nothing is left behind.
    Own(File),
    Named(PathBuf),
}

impl Log {
    /// A file of our own, unless the user said where the log goes.
    pub(super) fn choose() -> Self {
        let target = match env::var_os(VARIABLE) {
            Some(path) => Target::Named(path.into()),
            None => match own_file() {
                Some(file) => Target::Own(file),
                None => Target::Named(env::current_dir().unwrap_or_default().join(DEFAULT_NAME)),
            },
        };
        let mut log = Self { target, start: 0, reported: 0.into() };
        log.start = log.read_from(u64::MAX).map_or(0, |(_, end)| end);
        log.reported = log.start.into();
        log
    }

    /// Makes this thread's working directory, and no other's, one where `cufile.log` is a link to our file. The
    /// directory is removed when what is returned drops. For a thread of its own.
    pub(super) fn enter(&self) -> io::Result<Option<TempDir>> {
        let Target::Own(file) = &self.target else { return Ok(None) };
        let directory = tempfile::Builder::new().prefix("sllm-gds-cufile-").tempdir()?;
        symlink(path_of(file.as_raw_fd()), directory.path().join(DEFAULT_NAME))?;
        unshare_working_directory()?;
        env::set_current_dir(directory.path())?;
        Ok(Some(directory))
    }

    pub(super) fn path(&self) -> PathBuf {
        match &self.target {
            Target::Own(file) => path_of(file.as_raw_fd()),
            Target::Named(path) => path.clone(),
        }
    }

    /// All that this process logged since the driver was to be opened.
    pub(super) fn lines(&self) -> Vec<LogLine> {
        self.read_from(self.start).map(|(text, _)| parse(&text, std::process::id())).unwrap_or_default()
    }

    /// The last errors that are not reported yet. Of threads that fail at once, one reports for all.
    pub(super) fn new_errors(&self) -> Vec<String> {
        let Ok((text, end)) = self.read_from(self.reported.load(Ordering::Relaxed)) else {
            return Vec::new();
        };
        self.reported.store(end, Ordering::Relaxed);
        let lines = parse(&text, std::process::id());
        let mut errors: Vec<String> = Vec::new();
        for line in lines.into_iter().filter(|line| line.level == "ERROR") {
            if !errors.contains(&line.text) {
                errors.push(line.text);
            }
        }
        errors.split_off(errors.len().saturating_sub(MAX_LINES))
    }

    /// The log's text from an offset on, or its last part, and where it ends.
    fn read_from(&self, offset: u64) -> io::Result<(String, u64)> {
        match &self.target {
            Target::Own(file) => read_end(file, offset),
            Target::Named(path) => read_end(&File::open(path)?, offset),
        }
    }
}

fn read_end(file: &File, offset: u64) -> io::Result<(String, u64)> {
    let end = file.metadata()?.len();
    // An offset past the end: cuFile cut a log that grew too long.
    let offset = if offset > end { 0 } else { offset };
    let offset = offset.max(end.saturating_sub(MAX_BYTES));
    let mut bytes = vec![0; usize::try_from(end - offset).unwrap_or(0)];
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], offset + filled as u64)? {
            0 => break,
            read => filled += read,
        }
    }
    bytes.truncate(filled);
    Ok((String::from_utf8_lossy(&bytes).into_owned(), end))
}

/// A file without a name, if the thread that opens the driver will be able to send the log there.
fn own_file() -> Option<File> {
    // A configuration named relative to the working directory is only found from there.
    let relative = |path: std::ffi::OsString| !path.is_empty() && Path::new(&path).is_relative();
    if env::var_os(CONFIGURATION).is_some_and(relative) {
        return None;
    }
    // A sandbox may forbid it; tried where it does no harm.
    thread::Builder::new().spawn(unshare_working_directory).ok()?.join().ok()?.ok()?;
    tempfile::tempfile().ok()
}

/// From here on this thread's working directory is its own.
fn unshare_working_directory() -> io::Result<()> {
    // SAFETY: takes flags, and concerns this thread alone.
    match unsafe { libc::unshare(libc::CLONE_FS) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Lines such as ` 24-11-2026 08:35:55:801 [pid=1 tid=1] ERROR  cufio-cuda:140 unable to load` of one process;
/// others write to the same file where the user named one.
fn parse(text: &str, pid: u32) -> Vec<LogLine> {
    let ours = format!("[pid={pid} ");
    let line = |line: &str| {
        let (_, rest) = line.split_once(&ours)?;
        let (_, rest) = rest.split_once("] ")?;
        let (level, text) = rest.trim_start().split_once(char::is_whitespace)?;
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        Some(LogLine { level: level.into(), text })
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_lines_of_one_process_and_leaves_the_rest() {
        let text = " 24-11-2026 08:35:55:801 [pid=12 tid=13] ERROR  cufio-cuda:140 unable to load,  libcuda.so.1 \n\n\
                    24-11-2026 08:35:55:801 [pid=99 tid=99] ERROR  cufio:1 another's\nnoise [pid=12 \n[pid=12 tid=1] X\n\
                    \u{fffd} 24-11-2026 08:35:56:1 [pid=12 tid=12] NOTICE  cufio-drv:1257 running in compatible mode";
        let lines = parse(text, 12);
        let line = |level: &str, text: &str| LogLine { level: level.into(), text: text.into() };
        assert_eq!(
            lines,
            [
                line("ERROR", "cufio-cuda:140 unable to load, libcuda.so.1"),
                line("NOTICE", "cufio-drv:1257 running in compatible mode")
            ]
        );
    }

    #[test]
    fn reports_each_error_once_and_survives_a_cut_log() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let error = |text: &str| format!(" 1 2 [pid={} tid=1] ERROR  here:1 {text}\n", std::process::id());
        let log = Log { target: Target::Named(path.clone()), start: 0, reported: 0.into() };
        assert!(log.new_errors().is_empty());
        fs::write(&path, error("one") + &error("two") + &error("one")).unwrap();
        assert_eq!(log.new_errors(), ["here:1 one", "here:1 two"]);
        assert!(log.new_errors().is_empty());
        fs::write(&path, error("3")).unwrap();
        assert_eq!(log.new_errors(), ["here:1 3"]);
        fs::write(&path, (0..100).map(|n| error(&n.to_string())).collect::<String>()).unwrap();
        assert_eq!(log.new_errors().len(), MAX_LINES);
        assert_eq!(log.lines().len(), 100);
    }

    #[test]
    fn our_file_is_written_under_its_usual_name_and_leaves_nothing() {
        let log = Log { target: Target::Own(tempfile::tempfile().unwrap()), start: 0, reported: 0.into() };
        let here = env::current_dir().unwrap();
        let written = thread::scope(|scope| {
            let write = || {
                let directory = log.enter().unwrap().unwrap();
                let text = format!(" 1 2 [pid={} tid=1] ERROR  here:1 text\n", std::process::id());
                fs::write(DEFAULT_NAME, text).unwrap();
                directory.path().to_path_buf()
            };
            scope.spawn(write).join().unwrap()
        });
        assert_eq!(log.new_errors(), ["here:1 text"]);
        assert!(!written.exists() && !Path::new(DEFAULT_NAME).exists());
        assert_eq!(env::current_dir().unwrap(), here);
    }

    #[test]
    fn a_process_with_threads_keeps_its_environment() {
        let other = std::thread::spawn(std::thread::park);
        assert!(!claim_log().unwrap());
        other.thread().unpark();
        other.join().unwrap();
    }
}
