//! Seeded damage to packed files: each is caught when the checkpoint is opened, or by a digest; a load that verifies gives
//! the very tensors, or fails. 500 cases with a fresh seed, which is printed; as many as SLLM_GDS_CASES says from
//! SLLM_GDS_SEED.

use std::fs;
use std::path::Path;

use sllm_gds::load::stored;
use sllm_gds::os::progress::Progress;
use sllm_gds::{Cancel, Checkpoint, Loader, Request, To};

use crate::{Fixture, model, read};

const CASES: u64 = 500;

/// Where the chunks of a file lie, by the index.
fn chunks(index: &serde_json::Value, file: usize) -> Vec<std::ops::Range<usize>> {
    let lengths = index["files"][file]["chunks"].as_array().unwrap();
    let mut end = 0;
    let range = |length: &serde_json::Value| {
        let start = end;
        end += length[0].as_u64().unwrap() as usize;
        start..end
    };
    lengths.iter().map(range).collect()
}

/// What was done to a file, in words; `None` where the file is the same afterwards.
fn damage(
    bytes: &mut Vec<u8>,
    chunks: &[std::ops::Range<usize>],
    random: &mut fastrand::Rng,
) -> Option<String> {
    let before = bytes.clone();
    let chunk = chunks[random.usize(..chunks.len())].clone();
    let what = match random.u8(..8) {
        0 | 1 => {
            let at = random.usize(chunk.clone());
            bytes[at] ^= 1 << random.u8(..8);
            format!("a bit of byte {at} flipped")
        }
        2 | 3 => {
            // Header, segments and blocks: the first kilobyte or so.
            let at = chunk.start + random.usize(..chunk.len().min(1200));
            bytes[at] = random.u8(..);
            format!("byte {at} of a chunk's tables overwritten")
        }
        4 => {
            let from = random.usize(chunk.clone());
            let to = random.usize(from..chunk.end) + 1;
            bytes[from..to].fill(if random.bool() { 0 } else { 0xff });
            format!("bytes {from} to {to} overwritten by one value")
        }
        5 => {
            let from = random.usize(..bytes.len() / 16) * 16;
            let to = random.usize(..bytes.len() / 16) * 16;
            let length = random.usize(16..9000).min(bytes.len() - from.max(to));
            bytes.copy_within(from..from + length, to);
            format!("{length} bytes at {to} are those at {from}")
        }
        6 => {
            let other = chunks[random.usize(..chunks.len())].clone();
            let length = chunk.len().min(other.len());
            bytes.copy_within(other.start..other.start + length, chunk.start);
            format!("the chunk at {} in the place of that at {}", other.start, chunk.start)
        }
        _ => {
            let length = random.usize(..bytes.len());
            bytes.truncate(length);
            if random.bool() {
                bytes.resize(before.len(), 0);
            }
            format!("nothing behind byte {length}")
        }
    };
    (*bytes != before).then_some(what)
}

/// Index or manifest with a byte that is another, or cut short: refused, or a load gives the very tensors or fails. Whether it was
/// refused.
fn damaged_text(fixture: &Fixture, loader: &Loader, seed: u64, random: &mut fastrand::Rng) -> bool {
    let name = ["packed_index.json", "sllm_gds.json"][random.usize(..2)];
    let path = fixture.packed().join(name);
    let before = read(&path);
    let mut bytes = before.clone();
    let at = random.usize(..bytes.len());
    match random.u8(..3) {
        0 => bytes[at] ^= 1 << random.u8(..8),
        // A digit or a letter for another: JSON as good as before.
        1 => bytes[at] = b"0123456789abcdef"[random.usize(..16)],
        _ => bytes.truncate(at),
    }
    fs::write(&path, &bytes).unwrap();
    let what = format!("seed {seed}: {name}: byte {at}");
    let opened = Checkpoint::open(fixture.packed());
    if name == "packed_index.json" && bytes != before {
        assert!(opened.is_err(), "{what}: it is under a digest");
    }
    let refused = opened.is_err();
    if let Ok(Ok(model)) = opened.map(|found| loader.load(&found, &Request::to(To::Host).verify(true))) {
        for (name, bytes) in &fixture.pristine {
            assert!(model.get(name).unwrap().host_bytes().unwrap() == bytes, "{what}: {name}");
        }
    }
    fs::write(&path, before).unwrap();
    refused
}

#[test]
fn no_damage_is_silent() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let cases = number("SLLM_GDS_CASES").unwrap_or(CASES);
    let first = number("SLLM_GDS_SEED").unwrap_or_else(|| fastrand::u64(..1 << 40));
    println!("SLLM_GDS_SEED={first} SLLM_GDS_CASES={cases}");
    // In memory where that can be: thousands of files would wait for a disk.
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() { memory } else { Path::new(env!("CARGO_TARGET_TMPDIR")) };
    let fixture = Fixture::new_in(place, &model::SMALL);
    let index: serde_json::Value =
        serde_json::from_slice(&read(&fixture.packed().join("packed_index.json"))).unwrap();
    let loader = Loader::builder().threads(2).build().unwrap();
    let (mut refused, mut by_digest, mut loads_failed, mut right) = (0u64, 0, 0, 0);
    for seed in first..first + cases {
        let mut random = fastrand::Rng::with_seed(seed);
        if random.u8(..6) == 0 {
            refused += u64::from(damaged_text(&fixture, &loader, seed, &mut random));
            continue;
        }
        let file = random.usize(..index["files"].as_array().unwrap().len());
        let path = fixture.packed().join(format!("packed.data_{file}"));
        let before = read(&path);
        let mut bytes = before.clone();
        let Some(what) = damage(&mut bytes, &chunks(&index, file), &mut random) else { continue };
        let what = format!("seed {seed}: packed.data_{file}: {what}");
        fs::write(&path, &bytes).unwrap();
        match Checkpoint::open(fixture.packed()) {
            Err(_) => refused += 1,
            Ok(checkpoint) => {
                let manifest = checkpoint.manifest.clone().unwrap();
                let problems =
                    stored::digests(&checkpoint, &manifest, &Cancel::new(), &Progress::silent()).unwrap();
                let named = format!("packed.data_{file} chunk");
                assert!(problems.iter().any(|problem| problem.contains(&named)), "{what}: {problems:?}");
                by_digest += 1;
                match loader.load(&checkpoint, &Request::to(To::Host).verify(true)) {
                    Err(_) => loads_failed += 1,
                    Ok(model) => {
                        for (name, bytes) in &fixture.pristine {
                            assert!(
                                model.get(name).unwrap().host_bytes().unwrap() == bytes,
                                "{what}: {name}"
                            );
                        }
                        right += 1;
                    }
                }
            }
        }
        fs::write(&path, before).unwrap();
    }
    println!(
        "{refused} refused when opened, {by_digest} named by a chunk's digest; of those {loads_failed} loads failed, and \
         {right} brought the very bytes (padding, and tables that nobody reads)"
    );
    assert!(refused > 0 && by_digest > 0 && loads_failed > 0);
}
