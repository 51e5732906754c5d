//! Where tensors lie in memory that they were packed into: each at a multiple of 256 bytes, as kernels want it.

use std::collections::HashMap;

/// What every tensor's place is a multiple of.
pub const ALIGN: u64 = 256;

/// Places of tensors, from the first byte of one memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// One for each tensor; those that share their bytes in the model share a place.
    pub places: Vec<u64>,
    /// What all of them take.
    pub bytes: u64,
}

/// Packs tensors that lie at these (offset, bytes) of a model. `None` where they would take more than 2^64 bytes.
pub fn pack(tensors: impl IntoIterator<Item = (u64, u64)>) -> Option<Packed> {
    let mut known: HashMap<(u64, u64), u64> = HashMap::new();
    let mut packed = Packed { places: Vec::new(), bytes: 0 };
    for (offset, bytes) in tensors {
        if let Some(place) = known.get(&(offset, bytes)) {
            packed.places.push(*place);
            continue;
        }
        let place = packed.bytes.checked_next_multiple_of(ALIGN)?;
        known.insert((offset, bytes), place);
        packed.places.push(place);
        packed.bytes = place.checked_add(bytes)?;
    }
    Some(packed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tied_tensors_share_a_place_and_too_much_is_none() {
        let packed = pack([(0, 10), (10, 300), (0, 10), (310, 1)]).unwrap();
        assert_eq!(packed, Packed { places: vec![0, 256, 0, 768], bytes: 769 });
        assert_eq!(pack([]), Some(Packed { places: Vec::new(), bytes: 0 }));
        assert_eq!(pack([(0, 1), (1, u64::MAX - 200)]), None);
    }

    proptest! {
        #[test]
        fn places_are_aligned_and_share_no_byte(sizes in prop::collection::vec(0u64..2000, 0..40)) {
            let mut at = 0;
            let tensors: Vec<(u64, u64)> = sizes.iter().map(|bytes| { at += bytes + 1; (at, *bytes) }).collect();
            let packed = pack(tensors.iter().copied()).unwrap();
            let mut end = 0;
            for (place, (_, bytes)) in packed.places.iter().zip(&tensors) {
                prop_assert!(place % ALIGN == 0 && *place >= end && place + bytes <= packed.bytes);
                end = place + bytes;
            }
        }
    }
}
