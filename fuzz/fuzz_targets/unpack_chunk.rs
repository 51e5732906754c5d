//! Packed chunks from strangers: whatever they hold, they are refused or unpack to something, and nothing else is touched.
//! And windows of any bytes, as values of any form, come back as they were.
//!
//! The first byte picks which, the second the window's length and form; the rest is the chunk, or the window.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sllm_gds::checkpoint::packed::{Chunk, Decoder, Encoder, Form, Span};

const FORMS: [Form; 5] = [Form::Bytes, Form::Bf16, Form::F16, Form::F8E4M3, Form::F8E5M2];

/// A chunk as it comes: nothing is put right but its length.
fn unpack(pick: u8, chunk: &[u8]) {
    let window = 4096 * (1 + usize::from(pick));
    let mut chunk = chunk.to_vec();
    chunk.resize(chunk.len().next_multiple_of(64), 0);
    // With the header that belongs here, so that more than its check is reached.
    if pick & 1 == 1 && chunk.len() >= 16 {
        chunk[..4].copy_from_slice(b"SPK1");
        chunk[4..8].copy_from_slice(&(window as u32).to_le_bytes());
        chunk[8..12].fill(0);
    }
    let Ok(parsed) = Chunk::parse(&chunk, 0, window as u64) else { return };
    let mut decoder = Decoder::default();
    let mut whole = vec![0; window];
    if decoder.decode(&parsed, 0, &mut whole).is_ok() {
        let (from, to) = (window / 3, window / 2 + 7);
        let mut part = vec![0xa5; to - from];
        decoder.decode(&parsed, from, &mut part).expect("a part of what unpacks whole");
        assert!(part == whole[from..to], "a part is other than the whole");
    }
}

fn come_back(pick: u8, bytes: &[u8]) {
    let form = FORMS[usize::from(pick) % FORMS.len()];
    // Repeated up to a few blocks: the fuzzer's inputs are short.
    let length = (4096 * (1 + usize::from(pick) / 8)).max(bytes.len().next_multiple_of(4096));
    let window: Vec<u8> = bytes.iter().copied().cycle().take(length).collect();
    if window.len() != length || length > 1 << 20 {
        return;
    }
    let start = 256 * usize::from(pick % 4);
    let spans = [Span { range: start..length, form }];
    let chunk = Encoder::default().encode(&window, 3, &spans).chunk.to_vec();
    let parsed = Chunk::parse(&chunk, 3, length as u64).expect("what was packed is in order");
    let mut out = vec![0xa5; length];
    Decoder::default().decode(&parsed, 0, &mut out).expect("what was packed unpacks");
    assert!(out == window, "a window came back otherwise");
}

fuzz_target!(|data: &[u8]| {
    let [which, pick, rest @ ..] = data else { return };
    match which % 2 {
        0 => unpack(*pick, rest),
        _ => come_back(*pick, rest),
    }
});
