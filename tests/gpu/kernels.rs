//! The kernels against the CPU.

use sllm_gds::gpu::kernels::{POISON, digests, poison};
use sllm_gds::gpu::memory::DeviceBuffer;
use sllm_gds::os::digest;
use sllm_gds::os::digest::{Digest, digest};

use crate::rig::{Session, session};

/// Bytes that one thread block takes.
const PART_BYTES: u64 = 256 << 10;

/// A buffer of random bytes, and the same bytes here.
fn random(session: &Session, bytes: u64) -> (DeviceBuffer, Vec<u8>) {
    let mut host = vec![0u8; bytes as usize];
    fastrand::Rng::with_seed(bytes).fill(&mut host);
    let mut buffer = DeviceBuffer::new(&session.gpu, bytes).unwrap();
    buffer.as_mut_slice().write(&session.gpu, 0, &host).unwrap();
    (buffer, host)
}

fn assert_digests(buffer: &DeviceBuffer, host: &[u8], ranges: &[(u64, u64)]) {
    let (found, _) = digests(buffer, ranges).unwrap();
    assert_eq!(found.len(), ranges.len());
    for ((offset, bytes), found) in ranges.iter().zip(found) {
        let wanted = digest(&host[*offset as usize..][..*bytes as usize]);
        assert_eq!(found, wanted, "{bytes} bytes at {offset}");
    }
}

#[test]
fn short_ranges_at_every_alignment() {
    let Some(session) = session() else { return };
    let (buffer, host) = random(&session, 4096);
    let ranges: Vec<(u64, u64)> =
        (0..=70).flat_map(|bytes| (0..32).map(move |offset| (offset, bytes))).collect();
    assert_digests(&buffer, &host, &ranges);
    let last: Vec<(u64, u64)> = (0..=70).map(|bytes| (4096 - bytes, bytes)).collect();
    assert_digests(&buffer, &host, &last);
}

#[test]
fn ranges_of_several_parts_and_about_their_limits() {
    let Some(session) = session() else { return };
    let (buffer, host) = random(&session, 3 << 20);
    let limits = [PART_BYTES, 2 * PART_BYTES, 5 * PART_BYTES];
    let about = limits.into_iter().flat_map(|limit| limit - 9..=limit + 9);
    let ranges: Vec<(u64, u64)> =
        about.flat_map(|bytes| [0, 1, 8, 13, 16].map(|offset| (offset, bytes))).collect();
    assert_digests(&buffer, &host, &ranges);
    for seed in 0..50 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let range = |_| {
            let offset = rng.u64(..host.len() as u64);
            let most = (host.len() as u64 - offset).min([64, 5000, 3 << 20][rng.usize(..3)]);
            (offset, rng.u64(..=most))
        };
        let ranges: Vec<(u64, u64)> = (0..40).map(range).collect();
        assert_digests(&buffer, &host, &ranges);
    }
}

#[test]
fn one_bit_shows_on_the_gpu_too() {
    let Some(session) = session() else { return };
    let (mut buffer, mut host) = random(&session, 1 << 20);
    let whole = [(0, 1u64 << 20)];
    let mut rng = fastrand::Rng::with_seed(3);
    for _ in 0..20 {
        let at = rng.usize(..host.len());
        host[at] ^= 1 << rng.u32(..8);
        let before = digests(&buffer, &whole).unwrap().0;
        buffer.as_mut_slice().write(&session.gpu, at as u64, &host[at..=at]).unwrap();
        assert_ne!(digests(&buffer, &whole).unwrap().0, before);
        assert_digests(&buffer, &host, &whole);
    }
}

#[test]
fn ranges_outside_the_buffer_are_refused_and_none_is_none() {
    let Some(session) = session() else { return };
    let (buffer, _) = random(&session, 4096);
    for range in [(4096, 1), (0, 4097), (u64::MAX, 2), (1, u64::MAX)] {
        let error = digests(&buffer, &[(0, 8), range]).err().unwrap().to_string();
        assert!(error.contains("the buffer has 4096 bytes"), "{error}");
    }
    assert_eq!(digests(&buffer, &[]).unwrap().0, []);
    assert_eq!(digests(&buffer, &[(4096, 0)]).unwrap().0, [digest(b"")]);
}

/// Poison as it should be at `offset`.
fn pattern(offset: u64, bytes: usize) -> Vec<u8> {
    POISON.to_le_bytes().into_iter().cycle().skip((offset % 8) as usize).take(bytes).collect()
}

/// The digest of `bytes` bytes of pattern that begin at a multiple of 8, on all cores.
fn pattern_digest(bytes: u64) -> Digest {
    const CHUNK: u64 = 16 << 20;
    let chunk = pattern(0, CHUNK as usize);
    let cores = std::thread::available_parallelism().map_or(2, |n| n.get() as u64);
    let sum = |first: u64| {
        let starts = (first * CHUNK..bytes).step_by((cores * CHUNK) as usize);
        let parts = starts.map(|at| digest::partial(&chunk[..CHUNK.min(bytes - at) as usize], at));
        parts.fold(0u64, u64::wrapping_add)
    };
    let sum = std::thread::scope(|scope| {
        let sums: Vec<_> = (0..cores).map(|first| scope.spawn(move || sum(first))).collect();
        sums.into_iter().map(|s| s.join().unwrap()).fold(0u64, u64::wrapping_add)
    });
    digest::finish(sum, bytes)
}

#[test]
fn poison_covers_all_of_a_buffer_past_4_gib() {
    const GIB: u64 = 1 << 30;
    let Some(session) = session() else { return };
    let bytes = 5 * GIB + 13;
    if session.free_bytes() < bytes + GIB {
        eprintln!("skipped: {} bytes of device memory are free, {} are needed", session.free_bytes(), bytes);
        return;
    }
    let mut buffer = DeviceBuffer::new(&session.gpu, bytes).unwrap();
    let places = [(0, 64), (4 * GIB - 32, 64), (bytes - 61, 61), (2 * GIB + 5, 100)];
    for (offset, length) in places {
        buffer.as_mut_slice().write(&session.gpu, offset, &vec![0u8; length]).unwrap();
    }
    poison(&mut buffer).unwrap();
    for (offset, length) in places {
        let mut found = vec![0u8; length];
        buffer.read(offset, &mut found).unwrap();
        assert_eq!(found, pattern(offset, length), "at {offset}");
    }
    let past = (4 * GIB + 123, 3_000_001);
    let astride = (4 * GIB - 70_003, 1_000_000);
    let found = digests(&buffer, &[past, astride, (0, bytes)]).unwrap().0;
    assert_eq!(found[0], digest(&pattern(past.0, past.1 as usize)));
    assert_eq!(found[1], digest(&pattern(astride.0, astride.1 as usize)));
    assert_eq!(found[2], pattern_digest(bytes));
}
