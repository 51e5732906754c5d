//! Plain reads of packed files: each chunk is held against its digest before anything of it is unpacked.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result};

use crate::checkpoint::error::{CheckpointError, malformed};
use crate::checkpoint::packed::chunk::{Chunk, Damaged};
use crate::checkpoint::packed::decode::Decoder;
use crate::checkpoint::packed::map::{PackedFile, Within};
use crate::os::digest;

/// Fills `out` with unpacked bytes from `at` on.
pub fn read(file: &PackedFile, path: &Path, handle: &File, at: u64, out: &mut [u8]) -> Result<()> {
    let (mut decoder, mut chunk) = (Decoder::default(), Vec::new());
    let mut rest = out;
    for window in file.windows(at, at + rest.len() as u64) {
        chunk.resize((window.stored.end - window.stored.start) as usize, 0);
        handle.read_exact_at(&mut chunk, window.stored.start).with_context(|| {
            format!("read {} bytes at {} of {}", chunk.len(), window.stored.start, path.display())
        })?;
        check_digest(file, path, &window, &chunk)?;
        let (now, later) = rest.split_at_mut((window.bytes.end - window.bytes.start) as usize);
        decode(&mut decoder, &window, &chunk, now).map_err(|why| damaged(path, &window, &why.to_string()))?;
        rest = later;
    }
    match rest.is_empty() {
        true => Ok(()),
        false => Err(malformed(path, format!("{} bytes too short for what is asked of it", rest.len()))),
    }
}

/// Refuses a chunk that is not what was written.
fn check_digest(file: &PackedFile, path: &Path, window: &Within, chunk: &[u8]) -> Result<()> {
    let (found, wanted) = (digest::digest(chunk), file.digests[window.number as usize]);
    match found == wanted {
        true => Ok(()),
        false => Err(damaged(path, window, &format!("digest {found}, expected {wanted}")).into()),
    }
}

/// Fills `out` with the bytes of a window that are asked for.
///
/// # Errors
/// [`Damaged`]: the chunk does not hold that window.
pub fn decode(decoder: &mut Decoder, window: &Within, chunk: &[u8], out: &mut [u8]) -> Result<(), Damaged> {
    let chunk = Chunk::parse(chunk, window.number, window.window_bytes)?;
    decoder.decode(&chunk, window.bytes.start as usize, out)
}

/// What to say of a damaged chunk.
pub fn damaged(path: &Path, window: &Within, why: &str) -> CheckpointError {
    let what = format!(
        "chunk {} (bytes {} to {}) is damaged: {why}; copy the file anew, or pack the model again",
        window.number, window.stored.start, window.stored.end
    );
    CheckpointError::Malformed { path: path.to_path_buf(), what }
}
