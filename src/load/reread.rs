//! A second, plain read of what was loaded: no engine, no cleverness, so that it can judge one.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, bail};

use crate::checkpoint::{Checkpoint, packed};
use crate::load::parts::Part;
use crate::os::cancel::Cancel;
use crate::os::digest::{self, Digest};
use crate::os::{parallel, sys};

/// Bytes that one thread reads at a time: a multiple of 8.
const PART_BYTES: u64 = 16 << 20;

/// Rows of a part, as one thread digests them: so many bytes of a row, from one byte on, or whole rows.
struct Block {
    part: usize,
    first_row: u64,
    rows: u64,
    from: u64,
    bytes: u64,
}

/// Digests of these parts of a checkpoint.
pub fn digests(checkpoint: &Checkpoint, parts: &[&Part], cancel: &Cancel) -> Result<Vec<Digest>> {
    let files = Files::open(checkpoint)?;
    let blocks: Vec<Block> = parts.iter().enumerate().flat_map(|(i, part)| blocks(i, part)).collect();
    let sums: Vec<AtomicU64> = parts.iter().map(|_| AtomicU64::new(0)).collect();
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get());
    let digest = |read: &mut Vec<u8>, number: usize| -> Result<()> {
        let Block { part: i, first_row, rows, from, bytes } = blocks[number];
        let part = parts[i];
        let start = part.tensor.offset + first_row * part.stride_bytes + from;
        read.resize(((rows - 1) * part.stride_bytes + bytes) as usize, 0);
        files.read(start, read).with_context(|| format!("tensor '{}'", part.tensor.name))?;
        // Rows move together, in place: each goes to where it is or before that.
        for row in 1..rows as usize {
            let at = row * part.stride_bytes as usize;
            read.copy_within(at..at + bytes as usize, row * bytes as usize);
        }
        let sum = digest::partial(&read[..(rows * bytes) as usize], first_row * part.row_bytes + from);
        sums[i].fetch_add(sum, Ordering::Relaxed);
        Ok(())
    };
    parallel::for_each(blocks.len(), threads, cancel, || Ok(Vec::new()), digest)?;
    let finish = |(sum, part): (AtomicU64, &&Part)| digest::finish(sum.into_inner(), part.tensor.bytes);
    Ok(sums.into_iter().zip(parts).map(finish).collect())
}

/// Cuts a part so that each block begins at a whole word of what is delivered.
fn blocks(number: usize, part: &Part) -> Vec<Block> {
    if part.tensor.bytes == 0 {
        return Vec::new();
    }
    if part.rows == 1 {
        let starts = (0..part.row_bytes).step_by(PART_BYTES as usize);
        let block = |from: u64| {
            let bytes = PART_BYTES.min(part.row_bytes - from);
            Block { part: number, first_row: 0, rows: 1, from, bytes }
        };
        return starts.map(block).collect();
    }
    let rows_each = (PART_BYTES / part.stride_bytes.max(1)).max(8) & !7;
    let starts = (0..part.rows).step_by(rows_each as usize);
    let block = |first_row: u64| {
        let rows = rows_each.min(part.rows - first_row);
        Block { part: number, first_row, rows, from: 0, bytes: part.row_bytes }
    };
    starts.map(block).collect()
}

struct Files<'c> {
    checkpoint: &'c Checkpoint,
    files: Vec<File>,
}

impl<'c> Files<'c> {
    fn open(checkpoint: &'c Checkpoint) -> Result<Files<'c>> {
        let mut files = Vec::new();
        for file in &checkpoint.files {
            files.push(
                sys::open_regular(&file.path).with_context(|| format!("open {}", file.path.display()))?,
            );
        }
        Ok(Files { checkpoint, files })
    }

    /// Fills `out` from a byte of the checkpoint on; across files, where they meet.
    fn read(&self, mut start: u64, mut out: &mut [u8]) -> Result<()> {
        while !out.is_empty() {
            let Some(index) = self.checkpoint.file_at(start) else {
                bail!("byte {start} lies past the end of the files")
            };
            let file = &self.checkpoint.files[index];
            let (at, bytes) = (start - file.base, (file.end() - start).min(out.len() as u64));
            let (now, later) = std::mem::take(&mut out).split_at_mut(bytes as usize);
            if let Some(packed) = self.checkpoint.packed_file(index) {
                packed::read(packed, &file.path, &self.files[index], at, now)?;
                (start, out) = (start + bytes, later);
                continue;
            }
            self.files[index]
                .read_exact_at(now, at)
                .map_err(sys::at(&file.path))
                .with_context(|| format!("read {bytes} bytes at {at} of {}", file.path.display()))?;
            (start, out) = (start + bytes, later);
        }
        Ok(())
    }
}
