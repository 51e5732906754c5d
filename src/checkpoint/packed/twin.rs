//! The body of the GPU's kernel (`cuda/packed.h`), built for the host, against the decoder here: bit for bit, on damaged chunks, too, and with pages
//! around the chunk that nobody may touch.

use proptest::prelude::*;

use crate::checkpoint::packed::{Chunk as Parsed, Decoder, Encoder, Form, Span};

/// `SgChunk` of cuda/packed.h.
#[repr(C)]
struct Chunk {
    from: u64,
    to: u64,
    bytes: u32,
    window: u32,
    clip_from: u32,
    clip_to: u32,
}

unsafe extern "C" {
    fn sg_host_unpack(chunk: *const u8, to: *const Chunk, out: *mut u8) -> u32;
}

const PAGE: usize = 4096;

/// Memory between two pages whose touch ends the test.
struct Guarded {
    start: *mut u8,
    bytes: usize,
}

impl Guarded {
    fn new(bytes: usize) -> Guarded {
        let bytes = bytes.next_multiple_of(PAGE);
        let all = bytes + 2 * PAGE;
        // SAFETY: new memory, whose inner part alone is opened.
        unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let start = libc::mmap(std::ptr::null_mut(), all, libc::PROT_NONE, flags, -1, 0);
            assert_ne!(start, libc::MAP_FAILED);
            let start = start.cast::<u8>().add(PAGE);
            assert_eq!(libc::mprotect(start.cast(), bytes, libc::PROT_READ | libc::PROT_WRITE), 0);
            Guarded { start, bytes }
        }
    }

    /// A chunk at the beginning or at the end.
    fn put(&mut self, chunk: &[u8], at_end: bool) -> *const u8 {
        assert!(chunk.len().is_multiple_of(64) && chunk.len() <= self.bytes);
        let at = if at_end { self.bytes - chunk.len() } else { 0 };
        // SAFETY: it fits between the guards.
        unsafe {
            let to = self.start.add(at);
            std::ptr::copy_nonoverlapping(chunk.as_ptr(), to, chunk.len());
            to
        }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and used by nobody any more.
        unsafe { libc::munmap(self.start.sub(PAGE).cast(), self.bytes + 2 * PAGE) };
    }
}

/// A window of several forms: values whose exponents spread as `spread` says, between others that are stored.
fn window(parts: &[(u8, u8, usize)], seed: u64) -> (Vec<u8>, Vec<Span>) {
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut window, mut spans) = (Vec::new(), Vec::new());
    for (form, spread, blocks) in parts {
        let form = [Form::Bytes, Form::Bf16, Form::F16, Form::F8E4M3, Form::F8E5M2][usize::from(form % 5)];
        let bytes = blocks * 8192;
        let start = window.len();
        let mut exponent = |span: u32| {
            let deep = (0..24).take_while(|_| random.u8(..) < 16 * (spread % 16)).count() as u32;
            (span.saturating_sub(2 + deep), random.u32(..))
        };
        match form {
            Form::Bytes => window.extend((0..bytes).map(|i| if *spread == 0 { 0 } else { (i * 7) as u8 })),
            Form::Bf16 => (0..bytes / 2).for_each(|_| {
                let (e, noise) = exponent(124);
                window.extend(((noise as u16) & 0x807f | (e as u16) << 7).to_le_bytes());
            }),
            Form::F16 => (0..bytes / 2).for_each(|_| {
                let (e, noise) = exponent(26);
                window.extend(((noise as u16) & 0x83ff | (e as u16) << 10).to_le_bytes());
            }),
            Form::F8E4M3 => (0..bytes).for_each(|_| {
                let (e, noise) = exponent(15);
                window.push(noise as u8 & 0x87 | (e as u8) << 3);
            }),
            Form::F8E5M2 => (0..bytes).for_each(|_| {
                let (e, noise) = exponent(31);
                window.push(noise as u8 & 0x83 | (e as u8) << 2);
            }),
        }
        spans.push(Span { range: start..window.len(), form });
    }
    window.resize(window.len().max(1).next_multiple_of(4096), 0);
    (window, spans)
}

fn any_parts() -> impl Strategy<Value = Vec<(u8, u8, usize)>> {
    prop::collection::vec((0u8..5, 0u8..14, 0usize..3), 1..6)
}

/// Unpacks by the kernel's body: what came of it, and how many blocks it says to be damaged.
fn by_body(chunk: &[u8], window: usize, clip: std::ops::Range<usize>, at_end: bool) -> (Vec<u8>, u32) {
    let mut memory = Guarded::new(chunk.len());
    let at = memory.put(chunk, at_end);
    let mut out = vec![0xa5u8; window];
    let to = Chunk {
        from: 0,
        to: 0,
        bytes: chunk.len() as u32,
        window: window as u32,
        clip_from: clip.start as u32,
        clip_to: clip.end as u32,
    };
    // SAFETY: the chunk lies at a multiple of 16 in memory of its own, and `out` has all of the window.
    let damaged = unsafe { sg_host_unpack(at, &to, out.as_mut_ptr()) };
    (out, damaged)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_unpacking_kernels_body_is_the_decoders_twin(
        parts in any_parts(), seed in any::<u64>(), clip in any::<(u32, u32)>(), at_end in any::<bool>(),
    ) {
        let (window, spans) = window(&parts, seed);
        let packed = Encoder::default().encode(&window, 0, &spans).chunk.to_vec();
        let bytes = window.len() + 1;
        let (a, b) = (clip.0 as usize % bytes, clip.1 as usize % bytes);
        for clip in [0..window.len(), a.min(b)..a.max(b)] {
            let (out, damaged) = by_body(&packed, window.len(), clip.clone(), at_end);
            prop_assert_eq!(damaged, 0);
            prop_assert!(out[clip.clone()] == window[clip.clone()]);
            let others = out[..clip.start].iter().chain(&out[clip.end..]);
            prop_assert!(others.copied().all(|byte| byte == 0xa5), "bytes that nobody asked for were written");
        }
    }

    /// The same blocks are refused by both; where none is, both unpack to the same.
    #[test]
    fn damage_is_seen_by_both_and_read_by_neither_past_the_chunk(
        parts in any_parts(), seed in any::<u64>(), flips in prop::collection::vec((any::<u32>(), 0u8..8), 1..7),
        reach in prop::sample::select(vec![48usize, 400, usize::MAX]), at_end in any::<bool>(),
        cut in prop::option::of(any::<u32>()),
    ) {
        let (window, spans) = window(&parts, seed);
        let mut packed = Encoder::default().encode(&window, 0, &spans).chunk.to_vec();
        let reach = reach.min(packed.len());
        for (at, bit) in flips {
            packed[at as usize % reach] ^= 1 << bit;
        }
        if let Some(cut) = cut {
            packed.truncate((cut as usize % (packed.len() / 64) + 1) * 64);
        }
        let (out, damaged) = by_body(&packed, window.len(), 0..window.len(), at_end);
        let mut wanted = vec![0xa5; window.len()];
        match Parsed::parse(&packed, 0, window.len() as u64) {
            Err(_) => {}
            Ok(chunk) => match Decoder::default().decode(&chunk, 0, &mut wanted) {
                Ok(()) => {
                    prop_assert_eq!(damaged, 0);
                    prop_assert!(out == wanted);
                }
                Err(_) => prop_assert!(damaged > 0),
            },
        }
    }
}
