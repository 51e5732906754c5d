//! Block digests: 64 bits that tell whether bytes arrived, fast enough to check every load.
//!
//! A digest is a sum over little-endian 64-bit words (the last one padded with zeros):
//! `finish(Σ mix(word[i] + (i + 1)·G mod 2^64), bytes)`, where `mix` is a bijection. So a change within one
//! word always shows, any other change is missed once in 2^64, and parts can be summed in any order, on
//! any number of threads, on a GPU. It is no defence against a forger.
//!
//! `mix` is variant 13 of D. Stafford's 64-bit finalizers, known from SplitMix64 (Steele, Lea, Flood 2014).

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes of a partition that share one digest in the manifest.
pub const CHUNK_BYTES: u64 = 16 << 20;

/// The manifest's name for this digest.
pub const NAME: &str = "sum-mix13-64";

const G: u64 = 0x9e37_79b9_7f4a_7c15;

/// A finished digest; written as 16 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub u64);

/// The digest of these bytes.
pub fn digest(bytes: &[u8]) -> Digest {
    finish(partial(bytes, 0), bytes.len() as u64)
}

/// The sum over a part that begins at byte `start` of the whole. `start` is a multiple of 8, and so is
/// the length of every part but the last. Add the parts' sums (wrapping) and [`finish`].
pub fn partial(part: &[u8], start: u64) -> u64 {
    debug_assert!(start.is_multiple_of(8), "parts are cut at whole words");
    let mut key = (start / 8).wrapping_mul(G);
    let mut sum = 0u64;
    let (words, rest) = part.as_chunks::<8>();
    for word in words {
        key = key.wrapping_add(G);
        sum = sum.wrapping_add(mix(u64::from_le_bytes(*word).wrapping_add(key)));
    }
    if !rest.is_empty() {
        let mut word = [0u8; 8];
        word[..rest.len()].copy_from_slice(rest);
        sum = sum.wrapping_add(mix(u64::from_le_bytes(word).wrapping_add(key.wrapping_add(G))));
    }
    sum
}

/// Closes a sum over `bytes` bytes.
pub fn finish(sum: u64, bytes: u64) -> Digest {
    Digest(mix(sum ^ bytes.wrapping_mul(G)))
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        let text = String::deserialize(deserializer)?;
        let hex = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let value = hex.then(|| u64::from_str_radix(&text, 16).ok()).flatten();
        value
            .map(Digest)
            .ok_or_else(|| serde::de::Error::custom(format!("'{text}' is not 16 hexadecimal digits")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fixed_values_that_the_gpu_twin_must_match() {
        assert_eq!(digest(b"").to_string(), "0000000000000000");
        assert_eq!(digest(b"a"), finish(mix(97u64.wrapping_add(G)), 1));
        let ramp: Vec<u8> = (0..=255u8).cycle().take(1000).collect();
        assert_eq!(digest(&ramp).to_string(), "9baeb760cf64ee2f");
    }

    #[test]
    fn zeros_of_different_lengths_differ() {
        let zeros = [0u8; 64];
        let all: std::collections::HashSet<Digest> = (0..=64).map(|n| digest(&zeros[..n])).collect();
        assert_eq!(all.len(), 65);
    }

    proptest! {
        #[test]
        fn one_flipped_bit_shows(mut bytes in prop::collection::vec(any::<u8>(), 1..300), at in any::<prop::sample::Index>(), bit in 0..8) {
            let before = digest(&bytes);
            let at = at.index(bytes.len());
            bytes[at] ^= 1u8 << bit;
            prop_assert_ne!(before, digest(&bytes));
        }

        #[test]
        fn parts_sum_to_the_whole(bytes in prop::collection::vec(any::<u8>(), 0..300), cut in 0usize..38) {
            let cut = (cut * 8).min(bytes.len() / 8 * 8);
            let sum = partial(&bytes[cut..], cut as u64).wrapping_add(partial(&bytes[..cut], 0));
            prop_assert_eq!(digest(&bytes), finish(sum, bytes.len() as u64));
        }

        #[test]
        fn swapped_words_show(a in any::<u64>(), b in any::<u64>()) {
            prop_assume!(a != b);
            let join = |x: u64, y: u64| [x.to_le_bytes(), y.to_le_bytes()].concat();
            prop_assert_ne!(digest(&join(a, b)), digest(&join(b, a)));
        }
    }
}
