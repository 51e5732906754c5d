//! A second signal ends the program where it stands, whatever it waits for.
#![cfg(all(feature = "cli", feature = "hub"))]

use std::fs::{self, File};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{program, temp_dir};

mod common;

/// Longest wait for something that takes milliseconds; past it the test fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// Killed when dropped, should the test fail meanwhile.
struct Waiting(Child);

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Waiting {
    fn interrupt(&self) {
        let id = self.0.id().to_string();
        assert!(Command::new("sh").args(["-c", "kill -s INT $0", &id]).status().unwrap().success());
    }
}

#[test]
fn the_first_signal_is_answered_and_the_second_ends_what_never_would() {
    let dir = temp_dir();
    // A hub that takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let log = dir.path().join("stderr");
    let mut command = program(dir.path(), &["save", "--model", "some/model"]);
    command.env("HF_ENDPOINT", format!("http://{}", silent.local_addr().unwrap()));
    command.stdout(Stdio::null()).stderr(File::create(&log).unwrap());
    let mut save = Waiting(command.spawn().unwrap());
    let _connection = silent.accept().unwrap();
    save.interrupt();
    let started = Instant::now();
    while !fs::read_to_string(&log).unwrap().contains("stopping after the read or write under way") {
        assert!(started.elapsed() < PATIENCE, "no answer");
        std::thread::yield_now();
    }
    assert_eq!(save.0.try_wait().unwrap(), None, "it waits for the hub");
    let status = loop {
        if let Some(status) = save.0.try_wait().unwrap() {
            break status;
        }
        assert!(started.elapsed() < PATIENCE, "it does not end");
        // One that comes too soon after the first counts as the same; the process may end meanwhile.
        let id = save.0.id().to_string();
        let _ = Command::new("sh").args(["-c", "kill -s INT $0 2>&-", &id]).status();
    };
    assert_eq!(status.code(), Some(130));
}
