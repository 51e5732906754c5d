//! Loads, kernels and memory on a real GPU. Without one, each test says what is missing.
//!
//! The binary runs alone, too, in any directory: it needs neither cargo nor the source. For the tests of the
//! command line, SLLM_GDS_BIN may name the program.

#[allow(dead_code, reason = "it makes more than these tests need")]
#[path = "faults/fixture.rs"]
mod fixture;

#[path = "gpu/cli.rs"]
mod cli;
#[path = "gpu/faults.rs"]
mod faults;
#[path = "gpu/gds.rs"]
mod gds;
#[path = "gpu/kernels.rs"]
mod kernels;
#[path = "gpu/loads.rs"]
mod loads;
#[path = "gpu/memory.rs"]
mod memory;
#[path = "gpu/pool.rs"]
mod pool;
#[path = "gpu/rig.rs"]
mod rig;
