//! `sllm-gds serve` as it is started: the line that says it is ready, how it ends, what it refuses.

#![cfg(feature = "serve")]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use common::{program, run, temp_dir};

mod common;

struct Server {
    child: Child,
    said: Option<BufReader<std::process::ChildStdout>>,
}

impl Server {
    fn start(dir: &Path, args: &[&str]) -> Server {
        let mut child = Command::new(env!("CARGO_BIN_EXE_sllm-gds"))
            .current_dir(dir)
            .args(["serve", "--port", "0"])
            .args(args)
            .env_remove("STORAGE_PATH")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = Some(BufReader::new(child.stdout.take().unwrap()));
        Server { child, said }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.said.as_mut().unwrap().read_line(&mut line).unwrap();
        line.trim_end().to_string()
    }

    fn event(&mut self) -> Value {
        serde_json::from_str(&self.line()).unwrap()
    }

    /// Sends a signal, and waits for the end: the code, and all that was said on standard error.
    fn end(mut self, signal: libc::c_int) -> (Option<i32>, String) {
        // SAFETY: our own child, which is not waited for yet.
        assert_eq!(unsafe { libc::kill(self.child.id() as i32, signal) }, 0);
        let code = self.child.wait().unwrap().code();
        let mut errors = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        (code, errors)
    }
}

#[test]
fn it_says_when_it_is_ready_and_ends_when_it_is_asked_to() {
    let dir = temp_dir();
    fs::create_dir(dir.path().join("models")).unwrap();
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let socket = dir.path().join("socket");
        let mut server = Server::start(dir.path(), &["--json", "--unix", socket.to_str().unwrap()]);
        let ready = server.event();
        assert_eq!((ready["event"].as_str(), ready["pool_bytes"].as_u64()), (Some("ready"), Some(4 << 30)));
        let at = ready["at"][0].as_str().unwrap();
        assert!(at.starts_with("127.0.0.1:") && TcpStream::connect(at).is_ok(), "{ready}");
        assert_eq!(ready["at"][1].as_str().unwrap(), format!("unix:{}", socket.display()));
        let (code, errors) = server.end(signal);
        assert_eq!(code, Some(0), "{errors}");
        assert!(!socket.exists());
    }
}

#[test]
fn theirs_switches_are_taken_and_people_are_told_in_words() {
    let dir = temp_dir();
    fs::create_dir(dir.path().join("models")).unwrap();
    let theirs =
        ["--num-thread", "2", "--chunk-size", "16MB", "--mem-pool-size", "64MB", "--disk-size", "128GB"];
    let more = ["--registration-required", "False", "--metrics", "127.0.0.1:0"];
    let mut server = Server::start(dir.path(), &[&theirs[..], &more[..]].concat());
    let ready = server.line();
    assert!(ready.starts_with("ready at 127.0.0.1:") && ready.ends_with("with a pool of 67.1 MB"), "{ready}");
    assert!(ready.contains("/metrics"), "{ready}");
    assert_eq!(server.end(libc::SIGTERM).0, Some(0));
}

#[test]
fn what_can_not_be_served_is_refused_with_a_reason() {
    let dir = temp_dir();
    let refused = |args: &[&str], words: &[&str]| {
        run(dir.path(), &[&["serve"], args].concat()).expect(2).one_error(words);
    };
    refused(&["--port", "0"], &["storage path ./models", "name the one that holds the models"]);
    fs::create_dir(dir.path().join("models")).unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    refused(&["--port", &port], &[&port, "take another port"]);
    refused(&["--port", "0", "--mem-pool-size", "1PB"], &["pool of 1125.9 TB", "lower the pool size"]);
    refused(&["--port", "0", "--mem-pool-size", "1MB"], &["chunk"]);
    fs::write(dir.path().join("file"), "mine").unwrap();
    refused(&["--port", "0", "--unix", "file"], &["something else stands there"]);
    refused(&["--port", "0", "--unix", "none/x"], &["its directory does not exist: make it", "--unix"]);
    refused(&["--port", "0", "--host", "127.0.0.1:1"], &["no name that is known here", "--host"]);
    refused(&["--port", "0", "--metrics", "foo"], &["no HOST:PORT, such as 127.0.0.1:9273", "--metrics"]);
    assert_eq!(fs::read(dir.path().join("file")).unwrap(), b"mine");
    let args = ["--json", "--unix", "socket"];
    let mut first = Server::start(dir.path(), &args);
    first.event();
    refused(&["--port", "0", "--unix", "socket"], &["another server listens there"]);
    // Killed, it leaves its socket, which the next one takes.
    first.end(libc::SIGKILL);
    let mut next = Server::start(dir.path(), &args);
    assert_eq!(next.event()["event"], "ready");
    assert_eq!(next.end(libc::SIGTERM).0, Some(0));
}

#[test]
fn a_model_that_can_not_be_warmed_or_pinned_is_told_once_and_the_others_are_served() {
    let dir = temp_dir();
    fs::create_dir_all(dir.path().join("models/m")).unwrap();
    fs::write(dir.path().join("models/m/tensor.data_0"), vec![7; 1000]).unwrap();
    let first = ["--mem-pool-size", "32MB", "--warm", "", "none", "--pin", "big", "m"];
    let mut server = Server::start(dir.path(), &first);
    while !server.line().starts_with("m is in the pool") {}
    let (code, errors) = server.end(libc::SIGTERM);
    let lines: Vec<&str> = errors.lines().collect();
    let [unnamed, none, big] = lines[..] else { panic!("{errors}") };
    assert!(
        unnamed.starts_with("error: bring into the pool a model without a name: InvalidArgument"),
        "{errors}"
    );
    assert!(
        none.starts_with("error: bring into the pool none: NotFound: there is no model 'none'"),
        "{errors}"
    );
    assert!(big.starts_with("error: pin big: NotFound: there is no model 'big'"), "{errors}");
    assert_eq!(code, Some(0));
}

#[test]
fn status_tells_what_a_server_holds_and_that_none_is_there() {
    let dir = temp_dir();
    fs::create_dir_all(dir.path().join("models/m")).unwrap();
    fs::write(dir.path().join("models/m/tensor.data_0"), vec![7; 100_000]).unwrap();
    let mut server = Server::start(dir.path(), &["--json", "--mem-pool-size", "64MB", "--pin", "m"]);
    let at = server.event()["at"][0].as_str().unwrap().to_string();
    while server.event()["event"] != "warmed" {}
    let status = |args: &[&str]| run(dir.path(), &[&["status", "--server", &at], args].concat());
    let told = status(&["--json"]).expect(0).json();
    assert_eq!((&told["models"][0]["model"], &told["models"][0]["bytes"]), (&"m".into(), &100_000.into()));
    assert_eq!(told["pool"]["bytes"], 64 << 20);
    let said = status(&[]).expect(0).stdout;
    assert!(said.contains("pool: ") && said.contains("100.0 kB  in the pool"), "{said}");
    assert_eq!(server.end(libc::SIGTERM).0, Some(0));
    status(&[]).expect(1).one_error(&["no store server answers", "sllm-gds serve"]);
    run(dir.path(), &["status", "--server", "nowhere"]).expect(2).one_error(&["HOST:PORT"]);
}

#[test]
fn who_hangs_up_ends_neither_the_server_nor_its_own_command() {
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    let dir = temp_dir();
    fs::create_dir(dir.path().join("models")).unwrap();
    let socket = dir.path().join("socket");
    let args = ["--json", "--unix", socket.to_str().unwrap(), "--metrics", "127.0.0.1:0"];
    let mut server = Server::start(dir.path(), &args);
    let ready = server.event();
    let at = ready["at"][0].as_str().unwrap().to_string();
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
    for _ in 0..100 {
        drop(UnixStream::connect(&socket).unwrap());
        UnixStream::connect(&socket).unwrap().write_all(PREFACE).unwrap();
        TcpStream::connect(&at).unwrap().write_all(PREFACE).unwrap();
    }
    let second = run(dir.path(), &["serve", "--port", "0", "--unix", "socket"]);
    second.expect(2).one_error(&["another server listens there"]);
    run(dir.path(), &["status", "--server", &at]).expect(0);
    let page = ready["at"][2].as_str().unwrap().trim_start_matches("http://").trim_end_matches("/metrics");
    let code = run(dir.path(), &["status", "--server", page]).code;
    assert!(matches!(code, Some(1 | 2)), "{code:?}");
    for _ in 0..20 {
        let mut watch = program(dir.path(), &["status", "--server", &at, "--watch"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        BufReader::new(watch.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
        watch.kill().unwrap();
        watch.wait().unwrap();
    }
    // Nobody reads what it says any more.
    server.said = None;
    assert_eq!(server.end(libc::SIGTERM).0, Some(0));
}

#[test]
fn status_ends_at_once_though_the_server_never_answers() {
    let dir = temp_dir();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = silent.local_addr().unwrap().to_string();
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let mut asking = program(dir.path(), &["status", "--server", &at]).spawn().unwrap();
        let mut connection = silent.accept().unwrap().0;
        // It has begun to ask.
        connection.read_exact(&mut [0; 24]).unwrap();
        // SAFETY: our own child, which is not waited for yet.
        assert_eq!(unsafe { libc::kill(asking.id() as i32, signal) }, 0);
        assert_eq!(asking.wait().unwrap().code(), Some(130));
    }
}
