//! The same as `planes.rs`, eight items at a time by BMI2.

use std::arch::x86_64::{_pdep_u64, _pext_u64};

use crate::checkpoint::packed::format::BLOCK_VALUES;

/// Whether this processor has what the fast code here and in `tiers_x86.rs` needs.
pub fn is_here() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi2") && is_x86_feature_detected!("popcnt")
}

/// The low `BITS` bits of each of eight bytes.
pub const fn low_bits<const BITS: u32>() -> u64 {
    0x0101_0101_0101_0101 * ((1 << BITS) - 1)
}

/// As [`super::planes::pack`].
#[target_feature(enable = "avx2,bmi2,popcnt")]
pub fn pack<const BITS: u32>(items: &[u8; BLOCK_VALUES], out: &mut Vec<u8>) {
    let (groups, _) = items.as_chunks::<8>();
    let mut plane = [0; BLOCK_VALUES / 2 + 8];
    for (number, group) in groups.iter().enumerate() {
        let bits = _pext_u64(u64::from_le_bytes(*group), low_bits::<BITS>());
        let at = number * BITS as usize;
        plane[at..at + 8].copy_from_slice(&bits.to_le_bytes());
    }
    out.extend_from_slice(&plane[..BLOCK_VALUES * BITS as usize / 8]);
}

/// As [`super::planes::unpack`].
#[target_feature(enable = "avx2,bmi2,popcnt")]
pub fn unpack<const BITS: u32>(plane: &[u8], items: &mut [u8; BLOCK_VALUES]) {
    let (groups, _) = items.as_chunks_mut::<8>();
    let plane = &plane[..BLOCK_VALUES * BITS as usize / 8];
    for (group, bits) in groups.iter_mut().zip(plane.chunks_exact(BITS as usize)) {
        let word = bits.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
        *group = _pdep_u64(word, low_bits::<BITS>()).to_le_bytes();
    }
}
