//! Loads, kernels and memory on a real GPU. Without one, each test says what is missing.
//!
//! The binary runs alone, too, in any directory: it needs neither cargo nor the source. For the tests of the
//! command line, SLLM_GDS_BIN may name the program.

#[allow(dead_code, reason = "it makes more than these tests need")]
#[path = "faults/fixture.rs"]
mod fixture;

#[cfg(feature = "cli")]
#[path = "gpu/cli.rs"]
mod cli;
#[path = "gpu/faults.rs"]
mod faults;
#[path = "gpu/gds.rs"]
mod gds;
#[path = "gpu/kernels.rs"]
mod kernels;
#[path = "gpu/links.rs"]
mod links;
#[path = "gpu/loader.rs"]
mod loader;
#[path = "gpu/loads.rs"]
mod loads;
#[path = "gpu/memory.rs"]
mod memory;
#[path = "gpu/pool.rs"]
mod pool;
#[cfg(feature = "cli")]
#[path = "gpu/qualify.rs"]
mod qualify;
#[path = "gpu/rig.rs"]
mod rig;
#[cfg(feature = "serve")]
#[path = "gpu/serve.rs"]
mod serve;
#[path = "cufile/standin.rs"]
mod standin;

/// Whoever says that there must be a GPU learns that there is none.
#[test]
fn a_gpu_that_is_needed_and_absent_is_a_failure() {
    let one_of_them = "memory::";
    let mut again = std::process::Command::new(std::env::current_exe().unwrap());
    let output = again.args([one_of_them, "--test-threads=1"]).env(rig::NEED, "1").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("running ") && !text.contains("running 0 tests"), "{text}");
    assert_eq!(output.status.success(), sllm_gds::gpu::count().is_ok(), "{text}");
}
