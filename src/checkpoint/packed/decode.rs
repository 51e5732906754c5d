//! Chunks unpacked to windows, or to parts of them.

use crate::checkpoint::packed::block;
use crate::checkpoint::packed::chunk::{Chunk, Damaged, Kind, Segment};
use crate::checkpoint::packed::format::SLACK_BYTES;
use crate::checkpoint::packed::tiers::Work;

/// Unpacks windows; keeps its memory from one to the next.
pub struct Decoder {
    work: Work,
    block: Vec<u8>,
}

impl Default for Decoder {
    fn default() -> Decoder {
        Decoder { work: Work::new(), block: Vec::new() }
    }
}

impl Decoder {
    /// Fills `out` with the window's bytes from `from` on. Only the blocks that hold some of them are looked at.
    ///
    /// # Errors
    /// [`Damaged`]: a block does not hold what its entry says, or the window ends before `out` does.
    pub fn decode(&mut self, chunk: &Chunk<'_>, from: usize, out: &mut [u8]) -> Result<(), Damaged> {
        let window = chunk.segments.last().map_or(0, |last| last.range.end);
        let to = from.saturating_add(out.len());
        if to > window {
            return Err(Damaged(format!("bytes {from} to {to} of a window of {window}")));
        }
        let first = chunk.segments.partition_point(|segment| segment.range.end <= from);
        for segment in chunk.segments[first..].iter().take_while(|segment| segment.range.start < to) {
            let size = segment.form.block_bytes();
            let skipped = from.saturating_sub(segment.range.start) / size;
            for i in skipped..segment.blocks() {
                let start = segment.range.start + i * size;
                if start >= to {
                    break;
                }
                let end = (start + size).min(segment.range.end);
                let (low, high) = (start.max(from), end.min(to));
                let room = &mut out[low - from..high - from];
                let number = segment.first_block + i;
                if (low, high) == (start, end) {
                    self.block(chunk, segment, number, room)?;
                    continue;
                }
                let mut whole = std::mem::take(&mut self.block);
                whole.resize(end - start, 0);
                let decoded = self.block(chunk, segment, number, &mut whole);
                room.copy_from_slice(&whole[low - start..high - start]);
                self.block = whole;
                decoded?;
            }
        }
        Ok(())
    }

    fn block(
        &mut self,
        chunk: &Chunk<'_>,
        segment: &Segment,
        number: usize,
        out: &mut [u8],
    ) -> Result<(), Damaged> {
        let (at, kind) = chunk.blocks[number];
        let end = chunk.bytes.len() - SLACK_BYTES;
        match (kind, &segment.scheme) {
            (Kind::Coded(found), Some(scheme)) => {
                let planes = &chunk.bytes[at..end];
                block::decode(segment.form, scheme, planes, found, &mut self.work, out)
                    .ok_or_else(|| Damaged(format!("block {number} does not hold what its entry says")))?;
            }
            (Kind::Stored, _) => out.copy_from_slice(&chunk.bytes[at..at + out.len()]),
            (Kind::Zeros, _) | (Kind::Coded(_), None) => out.fill(0),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::checkpoint::packed::encode::{Encoder, Span};
    use crate::checkpoint::packed::format::{CHUNK_ALIGN, Form};

    /// Values as a model has them, and others: normals, all alike, noise, zeros, special values.
    fn values(form: Form, bytes: usize, kind: u8, random: &mut fastrand::Rng) -> Vec<u8> {
        let mut normal = || {
            let (a, b) = (random.f32().max(1e-9), random.f32());
            0.02 * (-2.0 * a.ln()).sqrt() * (std::f32::consts::TAU * b).cos()
        };
        match (kind, form) {
            (0..=3, Form::Bf16) => {
                (0..bytes / 2).flat_map(|_| ((normal().to_bits() >> 16) as u16).to_le_bytes()).collect()
            }
            (0..=3, Form::F16) => {
                // Exponents of halves around 2^-6.
                let half = |x: f32| {
                    let bits = x.to_bits();
                    let exponent = ((bits >> 23 & 0xff) as i32 - 127 + 15).clamp(0, 30) as u16;
                    (bits >> 16 & 0x8000) as u16 | exponent << 10 | (bits >> 13 & 0x3ff) as u16
                };
                (0..bytes / 2).flat_map(|_| half(normal()).to_le_bytes()).collect()
            }
            (0..=3, _) => (0..bytes).map(|_| (normal() * 300.0) as i8 as u8).collect(),
            (4, _) => vec![random.u8(..); bytes],
            (5, _) => vec![0; bytes],
            (6, _) => [0x80, 0x7f, 0, 0, 0xff, 0xff, 0x80, 0xff].into_iter().cycle().take(bytes).collect(),
            _ => (0..bytes).map(|_| random.u8(..)).collect(),
        }
    }

    /// A window of spans of values with gaps, and those spans.
    fn window(parts: &[(u8, u8, usize, usize)], seed: u64) -> (Vec<u8>, Vec<Span>) {
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut window, mut spans) = (Vec::new(), Vec::new());
        for (form, kind, blocks, tail) in parts {
            let form =
                [Form::Bytes, Form::Bf16, Form::F16, Form::F8E4M3, Form::F8E5M2][usize::from(form % 5)];
            let start = window.len();
            let bytes = blocks * form.block_bytes() + tail * 16;
            window.extend(values(form, bytes, *kind, &mut random));
            spans.push(Span { range: start..window.len(), form });
            window.resize(window.len().next_multiple_of(256) + 256 * (tail % 3), 0);
        }
        window.resize(window.len().max(1).next_multiple_of(4096), 0);
        (window, spans)
    }

    fn any_parts() -> impl Strategy<Value = Vec<(u8, u8, usize, usize)>> {
        prop::collection::vec((0u8..5, 0u8..9, 0usize..4, 0usize..20), 0..6)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn windows_come_back_whole_and_in_part(
            parts in any_parts(), seed in any::<u64>(), ranges in prop::collection::vec(any::<(u32, u32)>(), 0..6),
        ) {
            let (window, spans) = window(&parts, seed);
            let mut encoder = Encoder::default();
            let packed = encoder.encode(&window, 7, &spans).chunk.to_vec();
            prop_assert!(packed.len().is_multiple_of(CHUNK_ALIGN) && packed.ends_with(&[0; SLACK_BYTES]));
            prop_assert!(packed.len() < window.len() + window.len() / 50 + 1024, "{} of {}", packed.len(), window.len());
            let chunk = Chunk::parse(&packed, 7, window.len() as u64).unwrap();
            let mut decoder = Decoder::default();
            let mut out = vec![0xa5; window.len()];
            decoder.decode(&chunk, 0, &mut out).unwrap();
            prop_assert!(out == window);
            for (a, b) in ranges {
                let (a, b) = (a as usize % (window.len() + 1), b as usize % (window.len() + 1));
                let (from, to) = (a.min(b), a.max(b));
                let mut out = vec![0xa5; to - from];
                decoder.decode(&chunk, from, &mut out).unwrap();
                prop_assert!(out == window[from..to], "{from}..{to}");
            }
            prop_assert!(decoder.decode(&chunk, window.len(), &mut [0]).is_err());
            prop_assert!(Chunk::parse(&packed, 8, window.len() as u64).is_err(), "another chunk's place");
        }

        /// No flip, cut or foreign bytes make it panic, or take memory for what is not there.
        #[test]
        fn damage_is_refused_or_decodes_to_something(
            parts in any_parts(), seed in any::<u64>(), flips in prop::collection::vec((any::<u32>(), 0u8..8), 1..9),
            at_front in any::<bool>(), cut in prop::option::of(any::<u32>()),
        ) {
            let (window, spans) = window(&parts, seed);
            let mut packed = Encoder::default().encode(&window, 0, &spans).chunk.to_vec();
            // Half of them hit the tables, which are few of the bytes.
            let reach = if at_front { packed.len().min(400) } else { packed.len() };
            for (at, bit) in flips {
                packed[at as usize % reach] ^= 1 << bit;
            }
            packed.truncate(cut.map_or(packed.len(), |cut| cut as usize % (packed.len() + 1)));
            let mut out = vec![0; window.len()];
            if let Ok(chunk) = Chunk::parse(&packed, 0, window.len() as u64) {
                let _ = Decoder::default().decode(&chunk, 0, &mut out);
            }
        }
    }
}
