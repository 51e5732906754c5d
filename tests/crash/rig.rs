//! Running the program under the shim (`shim.c` says what it can do), and telling old from new.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;

use crate::common::{
    Ran, Running, names_in, program, run, run_command, start, temp_dir, tree, write_odd_model,
    write_plain_model,
};

/// The files of a checkpoint, with their hashes.
pub type Tree = BTreeMap<String, String>;

/// What writes a checkpoint.
#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    Save,
    Export,
}

/// One command over and over: new, or over an old checkpoint.
pub struct Case {
    kind: Kind,
    pub overwrite: bool,
    /// What the file system lacks, as the shim names it.
    pub lacks: &'static str,
    root: TempDir,
    old: Tree,
    new: Tree,
}

/// A call that the shim saw.
pub struct Call {
    pub kind: String,
    pub may_fail: bool,
    pub path: String,
    pub second: String,
}

/// The library to preload; `None`, with a printed reason, where it can't be built.
fn shim() -> Option<&'static Path> {
    static SHIM: OnceLock<Option<PathBuf>> = OnceLock::new();
    let built = SHIM.get_or_init(|| {
        let path =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("crash-shim-{}.so", std::process::id()));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/crash/shim.c");
        let flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o"];
        match Command::new("cc").args(flags).arg(&path).arg(source).output() {
            Ok(output) => {
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                Some(path)
            }
            Err(e) => {
                eprintln!("skipped: no C compiler: {e}");
                None
            }
        }
    });
    built.as_deref()
}

impl Case {
    /// `None`, with a printed reason, where there is no C compiler.
    pub fn new(kind: Kind, overwrite: bool, lacks: &'static str) -> Option<Case> {
        shim()?;
        let root = temp_dir();
        write_odd_model(&root.path().join("odd"));
        write_plain_model(&root.path().join("plain"));
        for model in ["odd", "plain"] {
            run(root.path(), &["save", "--model", model, "--storage-path", "saved", "--partitions", "2"])
                .expect(0);
        }
        let made = |model: &str| match kind {
            Kind::Save => root.path().join("saved").join(model),
            Kind::Export => root.path().join(model),
        };
        let (old, new) = (tree(&made("plain")), tree(&made("odd")));
        Some(Case { kind, overwrite, lacks, root, old, new })
    }

    /// A new directory `out`, which holds the old checkpoint `x` where that is to be replaced.
    pub fn begin(&self) -> PathBuf {
        let out = self.out();
        let _ = fs::remove_dir_all(&out);
        fs::create_dir(&out).unwrap();
        if self.overwrite {
            let from = self.root.path().join(if self.kind == Kind::Save { "saved/plain" } else { "plain" });
            fs::create_dir(out.join("x")).unwrap();
            for name in names_in(&from) {
                fs::copy(from.join(&name), out.join("x").join(&name)).unwrap();
            }
        }
        out
    }

    pub fn out(&self) -> PathBuf {
        self.root.path().join("out")
    }

    /// The command under the shim, for `x`. The log is a new one.
    pub fn run(&self, settings: &[(&str, &str)]) -> Ran {
        let _ = fs::remove_file(self.log());
        run_command(self.command("x", self.overwrite, settings))
    }

    /// The command, stopped before that call.
    pub fn stopped_at(&self, call: usize) -> Running {
        let _ = fs::remove_file(self.log());
        let mut running = start(self.command("x", self.overwrite, &[("SHIM_STOP_AT", &call.to_string())]));
        let made = || fs::read_to_string(self.log()).map_or(0, |log| log.lines().count());
        running.wait_until("the call to stop at", || made() >= call);
        running
    }

    fn command(&self, name: &str, overwrite: bool, settings: &[(&str, &str)]) -> Command {
        let to = format!("out/{name}");
        let mut args = match self.kind {
            Kind::Save => {
                vec!["save", "--model", "odd", "--storage-path", "out", "--name", name, "--partitions", "2"]
            }
            Kind::Export => vec!["export", "saved/odd", "--to", &to],
        };
        args.extend(overwrite.then_some("--overwrite"));
        let mut command = program(self.root.path(), &args);
        command
            .env("LD_PRELOAD", shim().unwrap())
            .env("SHIM_WITHOUT", self.lacks)
            .env("SHIM_LOG", self.log());
        command.envs(settings.iter().copied());
        command
    }

    /// The command for another name, `y`.
    pub fn next(&self, settings: &[(&str, &str)]) -> Ran {
        run_command(self.command("y", false, settings))
    }

    /// The next save, of another name, puts back and clears what the last one left; says what is at `x` then.
    pub fn next_clears_up(&self, at: &str) -> Option<&'static str> {
        self.next(&[]).expect(0);
        let found = self.found("x", at);
        let names: &[&str] = if found.is_some() { &["x", "y"] } else { &["y"] };
        assert_eq!(names_in(&self.out()), names, "{at}: remains");
        assert!(tree(&self.out().join("y")) == self.new, "{at}: the next one is not whole");
        found
    }

    /// Which of both stands at a name in `out`; fails the test where it is half of one.
    pub fn found(&self, name: &str, at: &str) -> Option<&'static str> {
        let path = self.out().join(name);
        if !path.exists() {
            return None;
        }
        match tree(&path) {
            found if found == self.new => Some("new"),
            found if found == self.old && self.overwrite => Some("old"),
            found => panic!("{at}: neither old nor new: {found:?}"),
        }
    }

    /// Lets the command end, and returns the calls that it made.
    pub fn calls(&self) -> Vec<Call> {
        self.begin();
        self.run(&[]).expect(0);
        assert_eq!(self.found("x", "undisturbed"), Some("new"));
        assert_eq!(names_in(&self.out()), ["x"]);
        let log = fs::read_to_string(self.log()).unwrap();
        let call = |line: &str| {
            let mut parts = line.split('\t').map(str::to_string);
            let mut next = || parts.next().unwrap();
            Call { kind: next(), may_fail: next() == "1", path: next(), second: next() }
        };
        log.lines().map(call).collect()
    }

    fn log(&self) -> PathBuf {
        self.root.path().join("log")
    }
}

/// Any command, with these settings of the shim; `None` where there is no C compiler.
pub fn shimmed(dir: &Path, args: &[&str], settings: &[(&str, &str)]) -> Option<Ran> {
    let mut command = program(dir, args);
    command.env("LD_PRELOAD", shim()?).envs(settings.iter().copied());
    Some(run_command(command))
}
