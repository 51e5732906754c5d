//! Planes of 1, 2 or 4 bits an item, packed from a byte an item, and back.

use crate::checkpoint::packed::format::BLOCK_VALUES;
#[cfg(target_arch = "x86_64")]
use crate::checkpoint::packed::planes_x86;

/// A byte for each value of a block.
pub type Items = [u8; BLOCK_VALUES];

/// Appends a plane of the low `BITS` bits of each item; their other bits are zero.
pub fn pack<const BITS: u32>(items: &Items, out: &mut Vec<u8>) {
    #[cfg(target_arch = "x86_64")]
    if planes_x86::is_here() {
        // SAFETY: this processor has the features that the function is compiled for.
        return unsafe { planes_x86::pack::<BITS>(items, out) };
    }
    pack_plain::<BITS>(items, out);
}

/// Fills the items from a plane, which is long enough for all of them.
pub fn unpack<const BITS: u32>(plane: &[u8], items: &mut Items) {
    #[cfg(target_arch = "x86_64")]
    if planes_x86::is_here() {
        // SAFETY: this processor has the features that the function is compiled for.
        return unsafe { planes_x86::unpack::<BITS>(plane, items) };
    }
    unpack_plain::<BITS>(plane, items);
}

fn pack_plain<const BITS: u32>(items: &Items, out: &mut Vec<u8>) {
    let groups = items.chunks_exact(8 / BITS as usize);
    out.extend(groups.map(|group| group.iter().rev().fold(0, |byte, item| byte << BITS | item)));
}

fn unpack_plain<const BITS: u32>(plane: &[u8], items: &mut Items) {
    for (group, byte) in items.chunks_exact_mut(8 / BITS as usize).zip(plane) {
        let mut left = *byte;
        for item in group {
            *item = left & ((1 << BITS) - 1);
            left >>= BITS;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both_ways<const BITS: u32>(random: &mut fastrand::Rng) {
        let items: Items = std::array::from_fn(|_| random.u8(..1 << BITS));
        let (mut plain, mut out) = (vec![9], vec![9]);
        pack_plain::<BITS>(&items, &mut plain);
        pack::<BITS>(&items, &mut out);
        assert_eq!(out.len(), 1 + BLOCK_VALUES * BITS as usize / 8);
        assert!(plain == out, "{BITS} bits");
        let mut found = [0xa5; BLOCK_VALUES];
        unpack_plain::<BITS>(&plain[1..], &mut found);
        assert!(found == items);
        // What lies behind a plane changes nothing.
        plain.extend([0xff; 9]);
        found.fill(0xa5);
        unpack::<BITS>(&plain[1..], &mut found);
        assert!(found == items);
    }

    #[test]
    fn items_come_back_and_both_codes_agree() {
        let mut random = fastrand::Rng::with_seed(1);
        both_ways::<1>(&mut random);
        both_ways::<2>(&mut random);
        both_ways::<4>(&mut random);
    }
}
