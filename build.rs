//! Compiles the kernels: with nvcc to a fat binary where there is one, else takes the PTX checked in
//! beside the source. Their bodies are compiled for the host too, for tests.
//!
//! Makes the bindings to cuFile from our own header: with libclang where there is one, else takes those checked in.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Machine code for A100, H100/H200 and B200; PTX for what comes between and after.
const TARGETS: [&str; 4] = [
    "arch=compute_80,code=sm_80",
    "arch=compute_90,code=sm_90",
    "arch=compute_100,code=sm_100",
    "arch=compute_80,code=compute_80",
];

/// All that the program is made of.
const SOURCE: [&str; 10] = [
    "src",
    "cuda",
    "ffi",
    "profiles",
    "benchmarks/peers/loaders.py",
    "fio-config.ini",
    "build.rs",
    "Cargo.toml",
    "Cargo.lock",
    "rust-toolchain.toml",
];

const CUFILE_HEADER: &str = "ffi/cufile.h";
const CUFILE_BINDINGS: &str = "ffi/bindings.rs";

fn main() {
    for path in
        ["build.rs", "cuda/body.h", "cuda/packed.h", "cuda/kernels.cu", "cuda/kernels.ptx", "cuda/host.c"]
    {
        println!("cargo::rerun-if-changed={path}");
    }
    for path in [CUFILE_HEADER, CUFILE_BINDINGS] {
        println!("cargo::rerun-if-changed={path}");
    }
    for name in ["CUDA_HOME", "CUDA_PATH", "NVCC", "PATH", "LIBCLANG_PATH"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let image = out.join("kernels.bin");
    let made_by = match nvcc() {
        Some(nvcc) => match compile(&nvcc, &image) {
            Ok(()) => format!("nvcc ({})", version(&nvcc)),
            Err(why) => {
                println!("cargo::warning=nvcc failed, embedding the checked-in PTX: {why}");
                embed_ptx(&image)
            }
        },
        None => embed_ptx(&image),
    };
    println!("cargo::rustc-env=SLLM_GDS_KERNELS={made_by}");
    println!("cargo::rustc-env=SLLM_GDS_COMMIT={}", commit());
    println!("cargo::rustc-env=SLLM_GDS_CUFILE_BINDINGS={}", bind_cufile(&out.join("cufile.rs")));
    cc::Build::new().file("cuda/host.c").include("cuda").opt_level(2).compile("sllm_gds_host_kernels");
}

/// The commit that is built, for records: SLLM_GDS_COMMIT where a build without .git sets it (the Dockerfile),
/// else git's, with `-changed` where the source differs from it; `unknown` outside a checkout. `-debug` behind that of a
/// debug build, whose figures are none, and for which all this is not looked at again for every edit.
fn commit() -> String {
    println!("cargo::rerun-if-env-changed=SLLM_GDS_COMMIT");
    if let Some(given) = env::var("SLLM_GDS_COMMIT").ok().filter(|given| !given.is_empty()) {
        return given;
    }
    let git = |words: &[&str]| -> Option<String> {
        let output = Command::new("git").arg("--no-optional-locks").args(words).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_string())
    };
    // It changes with every commit; cargo would build for ever on a path that is not there.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]).filter(|log| Path::new(log).exists()) {
        println!("cargo::rerun-if-changed={log}");
    }
    let Some(head) = git(&["rev-parse", "--short=12", "HEAD"]) else { return "unknown".into() };
    if env::var("PROFILE").is_ok_and(|profile| profile != "release") {
        return head + "-debug";
    }
    for path in SOURCE {
        println!("cargo::rerun-if-changed={path}");
    }
    match git(&[&["status", "--porcelain", "--"][..], &SOURCE].concat()) {
        Some(changes) if changes.is_empty() => head,
        _ => head + "-changed",
    }
}

/// nvcc by NVCC, CUDA_HOME, CUDA_PATH, then PATH.
fn nvcc() -> Option<PathBuf> {
    let named = env::var_os("NVCC").map(PathBuf::from);
    let homes = ["CUDA_HOME", "CUDA_PATH"]
        .iter()
        .filter_map(env::var_os)
        .map(|home| Path::new(&home).join("bin/nvcc"));
    let on_path =
        env::var_os("PATH").map(|p| env::split_paths(&p).map(|d| d.join("nvcc")).collect::<Vec<_>>());
    named.into_iter().chain(homes).chain(on_path.into_iter().flatten()).find(|path| path.is_file())
}

fn compile(nvcc: &Path, image: &Path) -> Result<(), String> {
    let mut command = Command::new(nvcc);
    command.args(["-O3", "-fatbin", "-o"]).arg(image).arg("cuda/kernels.cu");
    for target in TARGETS {
        command.args(["-gencode", target]);
    }
    let output = command.output().map_err(|e| format!("{}: {e}", nvcc.display()))?;
    match output.status.success() {
        true => Ok(()),
        false => {
            Err(String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or("no message").to_string())
        }
    }
}

fn version(nvcc: &Path) -> String {
    let output = Command::new(nvcc).arg("--version").output().ok();
    let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    text.lines().find_map(|l| l.split_once("release ")).map_or("unknown".into(), |(_, v)| v.to_string())
}

/// The driver wants PTX as a string that ends in NUL.
fn embed_ptx(image: &Path) -> String {
    let mut ptx = fs::read("cuda/kernels.ptx").expect("cuda/kernels.ptx is part of the source");
    ptx.push(0);
    fs::write(image, ptx).expect("OUT_DIR can be written");
    "checked-in PTX".into()
}

/// Bindings whose every function is looked up by itself, so that a library that lacks one still loads.
/// Returns how they came about; a test compares the two ways.
fn bind_cufile(bindings: &Path) -> &'static str {
    // bindgen panics where libclang is missing. The message is dropped: the fallback is as good.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    let made = std::panic::catch_unwind(|| {
        bindgen::Builder::default()
            .header(CUFILE_HEADER)
            .allowlist_file(CUFILE_HEADER)
            .allowlist_recursively(true)
            .dynamic_library_name("CuFile")
            .dynamic_link_require_all(false)
            .default_enum_style(bindgen::EnumVariation::Consts)
            .wrap_unsafe_ops(true)
            .formatter(bindgen::Formatter::Prettyplease)
            .rust_edition(bindgen::RustEdition::Edition2024)
            .disable_header_comment()
            .generate()
    });
    std::panic::set_hook(hook);
    match made {
        Ok(Ok(made)) => {
            made.write_to_file(bindings).expect("OUT_DIR can be written");
            "bindgen"
        }
        _ => {
            fs::copy(CUFILE_BINDINGS, bindings).expect("ffi/bindings.rs is part of the source");
            "checked in"
        }
    }
}
