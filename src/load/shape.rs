//! How large copies to a GPU and the ring of pinned slots are.

use anyhow::{Result, bail};

use crate::load::settings::Settings;
use crate::os::sys::{DIRECT_ALIGN, align_up};

/// How a load goes through the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub chunk_bytes: u64,
    pub threads: usize,
    pub copy_bytes: u64,
    pub slots: usize,
}

/// Each copy costs some 3 µs beside its bytes, which is 4 % of one of 4 MiB and 1 % of this.
const COPY_BYTES: u64 = 16 << 20;
/// Of each destination: what is filled and what is under way should stay in the processor's cache. Twice as much cost
/// up to 6 %.
const RING_BYTES: u64 = 64 << 20;

/// With several links: of threads, chunk, copy and ring sizes those that were fastest on two H200s (`benchmarks/links.sh`).
const LINKS_CHUNK_BYTES: u64 = 1 << 20;
const LINKS_COPY_BYTES: u64 = 4 << 20;

/// One request to the kernel or the driver; 1 GiB is already far past where it matters.
pub const MOST_BYTES_AT_ONCE: u64 = 1 << 30;
const MOST_SLOTS: u64 = 65_536;

/// The shape of each link's share where several feed one load, for what was not asked for: `None` for a single link, whose
/// defaults are others.
pub fn over_links(asked: &Settings, links: usize, cores: usize) -> Option<Shape> {
    if links < 2 {
        return None;
    }
    let chunk_bytes = align_up(asked.chunk_bytes.unwrap_or(LINKS_CHUNK_BYTES), DIRECT_ALIGN);
    let copy_bytes = asked.copy_bytes.unwrap_or(LINKS_COPY_BYTES);
    let share_bytes = (RING_BYTES / links as u64).max(2 * copy_bytes.next_multiple_of(chunk_bytes));
    let sized = Settings {
        copy_bytes: Some(copy_bytes),
        ring_bytes: asked.ring_bytes.or(Some(share_bytes)),
        ..Settings::default()
    };
    let (copy_bytes, slots) = ring(&sized, chunk_bytes).ok()?;
    let threads = asked.threads.unwrap_or((cores * 3 / 4 / links).clamp(2, 16));
    Some(Shape { chunk_bytes, threads, copy_bytes, slots })
}

/// Bytes of a copy, and how many of them the ring holds. `chunk_bytes` is a multiple of 4 KiB, up to a GiB.
pub fn ring(settings: &Settings, chunk_bytes: u64) -> Result<(u64, usize)> {
    let copy_bytes = settings.copy_bytes.unwrap_or(COPY_BYTES);
    if copy_bytes > MOST_BYTES_AT_ONCE {
        bail!("a copy size of {copy_bytes} bytes is more than 1 GiB; 8MB to 32MB are usual");
    }
    if copy_bytes == 0 {
        bail!("a copy size of 0 bytes would copy nothing; 8MB to 32MB are usual");
    }
    let copy_bytes = copy_bytes.next_multiple_of(chunk_bytes);
    // Whoever asks for large chunks and no more gets a ring that works: one copy filled, another under way.
    let ring_bytes = settings.ring_bytes.unwrap_or(RING_BYTES.max(2 * copy_bytes));
    let slots = ring_bytes / copy_bytes;
    if slots == 0 {
        bail!(
            "a ring size of {ring_bytes} bytes holds no copy of {copy_bytes}: raise it, or lower the copy size or the chunk size"
        );
    }
    if slots > MOST_SLOTS {
        bail!(
            "a ring size of {ring_bytes} bytes holds {slots} copies of {copy_bytes}, and {MOST_SLOTS} are the most"
        );
    }
    Ok((copy_bytes, slots as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn shape(chunk: u64, copy_size: Option<u64>, ring_size: Option<u64>) -> Result<(u64, usize), String> {
        let settings = Settings { copy_bytes: copy_size, ring_bytes: ring_size, ..Settings::default() };
        ring(&settings, chunk).map_err(|e| format!("{e:#}"))
    }

    #[test]
    fn copies_are_whole_chunks_and_the_ring_is_whole_copies() {
        assert_eq!(shape(2 * MIB, None, None), Ok((16 * MIB, 4)));
        assert_eq!(shape(4 * MIB, Some(MIB), None), Ok((4 * MIB, 16)), "less than a chunk");
        assert_eq!(shape(4 * MIB, Some(9 * MIB), Some(50 * MIB)), Ok((12 * MIB, 4)));
        assert_eq!(shape(1 << 30, None, None), Ok((1 << 30, 2)), "large chunks, and no more was said");
        assert_eq!(shape(4096, Some(1), Some(4096)), Ok((4096, 1)));
    }

    #[test]
    fn links_share_one_rings_budget_and_leave_what_was_asked() {
        let shape = |asked: &Settings, links, cores| over_links(asked, links, cores).unwrap();
        assert_eq!(over_links(&Settings::default(), 1, 32), None, "one link has its own defaults");
        for links in 2..=8usize {
            let shape = shape(&Settings::default(), links, 128);
            assert!(shape.slots as u64 * shape.copy_bytes * links as u64 <= RING_BYTES, "{shape:?}");
            assert!(shape.slots >= 2 && shape.copy_bytes.is_multiple_of(shape.chunk_bytes), "{shape:?}");
        }
        assert!((2..=16).contains(&shape(&Settings::default(), 8, 4).threads), "few cores");
        let asked = Settings {
            chunk_bytes: Some(4 * MIB),
            copy_bytes: Some(16 * MIB),
            ring_bytes: Some(32 * MIB),
            threads: Some(5),
            ..Settings::default()
        };
        let expected = Shape { chunk_bytes: 4 * MIB, threads: 5, copy_bytes: 16 * MIB, slots: 2 };
        assert_eq!(shape(&asked, 2, 32), expected);
        let only_chunk = Settings { chunk_bytes: Some(64 * MIB), ..Settings::default() };
        assert_eq!(shape(&only_chunk, 8, 32).slots, 2, "one copy filled, another under way");
    }

    #[test]
    fn a_ring_without_room_for_a_copy_or_for_far_too_many_is_refused() {
        let refused = |chunk, copy, ring, parts: [&str; 2]| {
            let error = shape(chunk, copy, ring).unwrap_err();
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        };
        refused(4 * MIB, None, Some(4 * MIB), ["ring size of 4194304", "no copy of 16777216"]);
        refused(16 * MIB, Some(MIB), Some(8 * MIB), ["no copy of 16777216", "chunk size"]);
        refused(4096, Some(u64::MAX), None, ["copy size", "1 GiB"]);
        refused(4096, Some(1), Some(u64::MAX), ["ring size", "65536 are the most"]);
    }
}
