//! Opening cuFile in a child process: some versions never come back, and all write a log where they stand.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::cufile::{Driver, DriverOptions, DriverProperties, Library, What};
use crate::os::child;

use crate::node::source::Unread;

/// What opening cuFile in a child process came to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Probed {
    /// The file that was loaded.
    pub path: Option<String>,
    /// What `cuFileGetVersion` says: 1150 is 1.15.
    pub version: Option<i32>,
    pub driver_open: Option<DriverOpen>,
    /// What cuFile then says it has a direct path to: `NVMe`, `NVMe P2PDMA`, `NFS`, …
    #[serde(default)]
    pub direct: Option<Vec<String>>,
    /// Why it went no further: the linker's words where nothing was loaded, cuFile's error where the driver did not
    /// open, the status of the process where it ended meanwhile.
    #[serde(default)]
    pub error: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DriverOpen {
    /// Whether the call came back within the time limit.
    pub ended: bool,
    /// cuFile's code: 0 is success, which compatibility mode is, too.
    pub code: Option<i64>,
    pub seconds: f64,
}

/// Opening takes 0.2 to 2 seconds where it works.
const LIMIT: Duration = Duration::from_secs(10);

/// Runs `sllm-gds doctor --probe-cufile`, and stops it at the time limit.
pub fn cufile() -> Result<Probed, Unread> {
    let ended = child::run(&["doctor", "--probe-cufile"], LIMIT)
        .map_err(|e| Unread::Other(format!("the probe did not start: {e}")))?;
    let how = ended.status.map_or("its end is not known".to_string(), |status| status.to_string());
    understand(&ended.text, ended.in_time, &how, ended.elapsed_s)
}

/// The last answer counts: the child says what it loaded before it opens the driver, and all of it after. Between and
/// after may stand what cuFile itself has to say. `how` is the status that it ended with.
fn understand(text: &str, ended: bool, how: &str, seconds: f64) -> Result<Probed, Unread> {
    let answer = text.lines().rev().find_map(|line| serde_json::from_str(line).ok());
    match (answer, ended) {
        // It ended while the driver opened.
        (Some(Answer::Probed(probed)), true) if probed.path.is_some() && probed.driver_open.is_none() => {
            Ok(Probed { error: Some(how.to_string()), ..probed })
        }
        (Some(Answer::Probed(probed)), true) => Ok(probed),
        (Some(Answer::NotHere(why)), _) => Err(Unread::Other(why)),
        (None, true) => Err(Unread::Other(format!("the probe crashed or ended without an answer ({how})"))),
        (before, false) => {
            let driver_open = Some(DriverOpen { ended, code: None, seconds });
            let (path, version) = match before {
                Some(Answer::Probed(probed)) => (probed.path, probed.version),
                _ => (None, None),
            };
            Ok(Probed { path, version, driver_open, ..Probed::default() })
        }
    }
}

#[derive(Serialize, Deserialize)]
enum Answer {
    Probed(Probed),
    NotHere(String),
}

/// The child's part: says what was loaded, then all of it.
pub fn answer(say: impl Fn(&str)) {
    let whole = match open(&say) {
        Ok(probed) => Answer::Probed(probed),
        Err(why) => Answer::NotHere(why),
    };
    say(&line(&whole));
}

fn open(say: impl Fn(&str)) -> Result<Probed, String> {
    let mut probed = Probed::default();
    let library = match Library::load() {
        Ok(library) => library,
        Err(e) if e.what == What::NotLoaded => {
            probed.error = Some(e.cause.into_owned());
            return Ok(probed);
        }
        Err(e) => return Err(format!("{e:#}")),
    };
    probed.path = Some(library.path().display().to_string());
    probed.version = library.version().and_then(|v| i32::try_from(v).ok());
    say(&line(&Answer::Probed(probed.clone())));
    // Whether it hangs is what is asked here, so that the look at /proc/modules is left out (/proc is there); the
    // parent has a time limit.
    let options = DriverOptions { proc_modules: "/proc".into(), ..DriverOptions::default() };
    let started = Instant::now();
    let driver = match Driver::open(&library, &options) {
        Ok(driver) => driver,
        Err(e) => {
            let code = e.code().map(i64::from);
            probed.error = Some(e.to_string());
            probed.driver_open =
                Some(DriverOpen { ended: true, code, seconds: started.elapsed().as_secs_f64() });
            return Ok(probed);
        }
    };
    let seconds = started.elapsed().as_secs_f64();
    probed.driver_open = Some(DriverOpen { ended: true, code: Some(0), seconds });
    let direct = |p: DriverProperties| p.file_systems().into_iter().map(str::to_string).collect();
    probed.direct = driver.properties().ok().map(direct);
    Ok(probed)
}

fn line(answer: &Answer) -> String {
    serde_json::to_string(answer).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_through_and_silence_is_no_success() {
        let loaded =
            Probed { path: Some("/x/libcufile.so.0".into()), version: Some(1150), ..Probed::default() };
        let driver_open = Some(DriverOpen { ended: true, code: Some(5033), seconds: 0.5 });
        let whole = Probed { driver_open, ..loaded.clone() };
        let first = line(&Answer::Probed(loaded.clone()));
        let both = format!("{first}\n{}\ncuFile says bye\n", line(&Answer::Probed(whole.clone())));
        assert_eq!(understand(&both, true, "exit status: 0", 1.0), Ok(whole));
        let stopped = understand(&first, false, "signal: 9 (SIGKILL)", 10.0).unwrap();
        assert_eq!((&stopped.path, stopped.version), (&loaded.path, loaded.version));
        assert_eq!(stopped.driver_open, Some(DriverOpen { ended: false, code: None, seconds: 10.0 }));
        let refused = line(&Answer::NotHere("no".into()));
        assert_eq!(understand(&refused, true, "exit status: 0", 1.0), Err(Unread::Other("no".into())));
        let crash = "signal: 11 (SIGSEGV)";
        let silent = understand("", true, crash, 1.0).unwrap_err().to_string();
        assert!(silent.contains(crash), "{silent}");
        let opening = understand(&first, true, crash, 1.0);
        assert_eq!(opening, Ok(Probed { error: Some(crash.into()), ..loaded }));
        assert!(understand("", false, crash, 10.0).is_ok_and(|p| p.path.is_none()));
    }
}
