//! What is delivered beside the program: the container, Kubernetes manifests, the server's Compose file and unit, fio's job file,
//! completions, man pages.
//! No engine and no cluster runs here: a recording `docker` holds the command lines, schemas hold the manifests.
#![cfg(feature = "cli")]

#[path = "deploy/docker_run.rs"]
mod docker_run;
#[path = "deploy/fio.rs"]
mod fio;
#[path = "deploy/kubernetes.rs"]
mod kubernetes;
#[path = "deploy/lint.rs"]
mod lint;
#[cfg(feature = "serve")]
#[path = "deploy/serve.rs"]
mod serve;
#[path = "deploy/shell.rs"]
mod shell;

use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where `.ci/run` installs linters from PyPI.
fn lint_dir() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("lint")
}

/// A program in `lint_dir` or on the PATH; without it the test says so and is skipped.
fn tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs = vec![lint_dir().join("bin")];
    dirs.extend(std::env::split_paths(&path));
    let found = dirs.into_iter().map(|dir| dir.join(name)).find(|path| path.is_file());
    if found.is_none() {
        eprintln!("skipped: there is no {name} on the PATH or in {}", lint_dir().display());
    }
    found
}

fn read(relative: &str) -> String {
    let path = root().join(relative);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
