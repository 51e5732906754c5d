//! The PTX that is checked in is what nvcc makes of the source beside it.

use std::path::Path;
use std::process::Command;

const SCRIPT: &str = "cuda/make-ptx.sh";
/// The script's exit code where there is no nvcc.
const NO_NVCC: i32 = 3;

/// The compiler's release, as its comment in the PTX gives it: another release writes other PTX.
fn release(ptx: &str) -> &str {
    ptx.lines().find_map(|l| l.strip_prefix("// Cuda compilation tools, ")).unwrap_or("unknown")
}

/// Everything but comment lines, which hold build numbers of the compiler.
fn code(ptx: &str) -> Vec<&str> {
    ptx.lines().map(str::trim_end).filter(|l| !l.trim_start().starts_with("//")).collect()
}

#[test]
fn the_checked_in_ptx_is_what_the_source_gives() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let made = dir.path().join("kernels.ptx");
    let output = Command::new("sh").arg(root.join(SCRIPT)).arg(&made).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(NO_NVCC) {
        eprintln!("skipped: {}", stderr.trim());
        return;
    }
    assert!(output.status.success(), "{SCRIPT}: {stderr}");
    let made = std::fs::read_to_string(made).unwrap();
    let checked_in = std::fs::read_to_string(root.join("cuda/kernels.ptx")).unwrap();
    if release(&made) != release(&checked_in) {
        eprintln!("skipped: kernels.ptx is by {}, this nvcc is {}", release(&checked_in), release(&made));
        return;
    }
    assert!(
        code(&made) == code(&checked_in),
        "cuda/kernels.ptx is not what cuda/kernels.cu and cuda/body.h give: run {SCRIPT} and commit what it writes"
    );
}

#[test]
fn the_checked_in_ptx_suits_old_drivers_and_has_all_kernels() {
    let ptx =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda/kernels.ptx")).unwrap();
    let code = code(&ptx);
    let kernels =
        ["sg_digest", "sg_fill", "sg_scatter", "sg_unpack"].map(|name| format!(".visible .entry {name}("));
    for line in [".version 7.0", ".target sm_80"].into_iter().chain(kernels.iter().map(String::as_str)) {
        assert!(code.contains(&line), "kernels.ptx has no line '{line}'");
    }
    assert!(!ptx.contains('\0'), "build.rs ends the PTX with NUL, which must be its only one");
}
