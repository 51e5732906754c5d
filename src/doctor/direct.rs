//! `O_DIRECT`, by a real read and by what `statx` says of alignment.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::doctor::check::{Check, Status};
use crate::doctor::check_id::CheckId;
use crate::doctor::finding::Finding;
use crate::load::gds::ways::{Assessment, Reason, Requirement, State};
use crate::node::source::{Source, Unread};
use crate::os::memory::HostBuffer;
use crate::os::sys;

/// Of a directory, this many names are looked at for a file to read.
const NAMES_MAX: usize = 1000;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Direct {
    /// `None`: it read. Else the system's words.
    error: Option<String>,
    /// Bytes; absent where neither kernel nor file system tell.
    memory_align: Option<u32>,
    offset_align: Option<u32>,
}

pub fn findings(source: &Source, path: &str) -> Vec<Finding> {
    let name = format!("direct{}", path.trim_end_matches('/').replace('/', "-"));
    let call = "open(O_DIRECT), read";
    let direct = match source.fact(&name, || probe(Path::new(path))) {
        Ok(direct) => direct,
        Err(Unread::Missing) => return Vec::new(),
        Err(why) => {
            // It decides nothing: what was not tried may well work.
            let check =
                Check::new(CheckId::Gds(Requirement::Direct), path, Status::Unknown, why.to_string(), call)
                    .why("O_DIRECT was not tried: no file to read, and none can be made here")
                    .remedy(format!("give this user a readable file of 4 KiB in {path}"));
            return vec![Finding::beside(check)];
        }
    };
    let found = |state, value: &str| Assessment::new(Requirement::Direct, state, value, call).of(path);
    let read = match &direct.error {
        None => Finding::of(found(State::Met, "4096 bytes read")),
        Some(error) => {
            let why = Reason::ByTrial(format!("reads with O_DIRECT fail here: {error}"));
            Finding::tried(found(State::Unmet(why), error), "keep the models on ext4 or xfs")
        }
    };
    vec![read, Finding::beside(alignment(path, &direct))]
}

fn alignment(path: &str, direct: &Direct) -> Check {
    let call = "statx(STATX_DIOALIGN)";
    let check = |status, value: String| Check::new(CheckId::DirectAlignment, path, status, value, call);
    match (direct.memory_align, direct.offset_align) {
        (Some(memory), Some(offset)) if u64::from(memory.max(offset)) > sys::DIRECT_ALIGN => check(
            Status::Warn,
            format!("memory {memory}, offset {offset} bytes"),
        )
        .why("O_DIRECT wants more than the 4 KiB that loads are aligned to, which go through the page cache"),
        (Some(memory), Some(offset)) => {
            check(Status::Pass, format!("memory {memory}, offset {offset} bytes"))
        }
        _ => check(Status::Unknown, "not told".into()).why("it takes Linux 6.1 and a file system that tells"),
    }
}

fn probe(path: &Path) -> Result<Direct, Unread> {
    let made;
    let file = match existing_file(path) {
        Some(file) => file,
        None => {
            let mut temporary = tempfile::Builder::new().prefix(".sllm-gds-doctor-").tempfile_in(path)?;
            temporary.write_all(&[0; sys::DIRECT_ALIGN as usize])?;
            temporary.as_file().sync_all()?;
            made = temporary;
            made.path().to_path_buf()
        }
    };
    let align = sys::direct_alignment(&fs::File::open(&file)?)?;
    Ok(Direct {
        error: read_direct(&file).err().map(|e| e.to_string()),
        memory_align: align.map(|a| a.memory_bytes),
        offset_align: align.map(|a| a.offset_bytes),
    })
}

fn read_direct(file: &Path) -> Result<(), Unread> {
    let mut buffer =
        HostBuffer::new(sys::DIRECT_ALIGN).map_err(|e| Unread::Other(format!("no memory: {e:#}")))?;
    sys::open_direct(file)?.read_exact(buffer.as_mut_slice())?;
    Ok(())
}

/// The path itself, or a readable file in it, of at least one block.
fn existing_file(path: &Path) -> Option<PathBuf> {
    let serves = |file: &Path| {
        let long = fs::metadata(file).is_ok_and(|m| m.is_file() && m.len() >= sys::DIRECT_ALIGN);
        long && fs::File::open(file).is_ok()
    };
    if serves(path) {
        return Some(path.to_path_buf());
    }
    let entries = fs::read_dir(path).ok()?.take(NAMES_MAX).filter_map(Result::ok);
    // Not through links: they may lead to another file system.
    let files = entries.filter(|e| e.file_type().is_ok_and(|t| t.is_file())).map(|e| e.path());
    files.into_iter().find(|file| serves(file))
}
