//! NVIDIA's own header and library, where the wheel `nvidia-cufile` is installed.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

pub struct Wheel {
    pub header: PathBuf,
    pub library: PathBuf,
}

/// Every wheel in the folder, itself a `pip install --target` or a folder of such. Says so where there is none.
pub fn wheels() -> Vec<Wheel> {
    let folder = env::var_os("SLLM_GDS_CUFILE_WHEEL_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/cufile"), PathBuf::from);
    let entries = fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let wheels: Vec<Wheel> =
        [folder.clone()].into_iter().chain(entries).filter_map(|root| wheel(&root)).collect();
    if wheels.is_empty() {
        eprintln!("skipped: no nvidia-cufile wheel in {}", folder.display());
    }
    wheels
}

/// `cu13` is where wheels of CUDA 13 and later put it, `cufile` where those of 12 did.
fn wheel(root: &Path) -> Option<Wheel> {
    let found = ["nvidia/cu13", "nvidia/cufile"].map(|sub| root.join(sub)).into_iter();
    let wheels =
        found.map(|at| Wheel { header: at.join("include/cufile.h"), library: at.join("lib/libcufile.so.0") });
    wheels.into_iter().find(|wheel| wheel.header.exists() && wheel.library.exists())
}
