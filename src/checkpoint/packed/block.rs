//! One block of values, packed and unpacked; by the fastest code that this processor runs.

use crate::checkpoint::packed::format::{BLOCK_VALUES, Form};
use crate::checkpoint::packed::tiers::{self, Escapes, Scheme, Work};
use crate::checkpoint::packed::values;
#[cfg(target_arch = "x86_64")]
use crate::checkpoint::packed::{planes_x86, tiers_x86};

/// Below four times as many every block is counted.
const FEW_BLOCKS: usize = 8;

/// Counts the exponents of whole blocks: of every fourth where there are many, which tells as much.
pub fn count(form: Form, values: &[u8], work: &mut Work) -> [u64; 256] {
    let blocks = values.len() / form.block_bytes();
    let every = if blocks < 4 * FEW_BLOCKS { 1 } else { 4 };
    // Four at a time: neighbours are often equal, and one counter would wait for itself.
    let mut counts = [[0u32; 256]; 4];
    for block in values.chunks_exact(form.block_bytes()).step_by(every) {
        values::exponents(form, block, &mut work.symbols);
        let (groups, _) = work.symbols[..BLOCK_VALUES].as_chunks::<4>();
        for group in groups {
            for (counts, symbol) in counts.iter_mut().zip(group) {
                counts[usize::from(*symbol)] += 1;
            }
        }
    }
    std::array::from_fn(|symbol| counts.iter().map(|counts| u64::from(counts[symbol])).sum())
}

/// Appends a block's planes.
pub fn encode(form: Form, scheme: &Scheme, block: &[u8], work: &mut Work, out: &mut Vec<u8>) -> Escapes {
    values::exponents(form, block, &mut work.symbols);
    values::split(form, block, out);
    #[cfg(target_arch = "x86_64")]
    if planes_x86::is_here() {
        // SAFETY: this processor has the features that the function is compiled for.
        return unsafe { tiers_x86::encode(scheme, work, out) };
    }
    tiers::encode(scheme, work, out)
}

/// Fills a block's values from its planes; what lies behind them is not looked at. `None` where they are damaged.
pub fn decode(
    form: Form,
    scheme: &Scheme,
    planes: &[u8],
    found: Escapes,
    work: &mut Work,
    out: &mut [u8],
) -> Option<()> {
    let (rest, codes) = planes.split_at_checked(form.rest_bytes())?;
    decode_tiers(scheme, codes, found, work)?;
    values::join(form, rest, &work.symbols, out);
    Some(())
}

fn decode_tiers(scheme: &Scheme, codes: &[u8], found: Escapes, work: &mut Work) -> Option<()> {
    #[cfg(target_arch = "x86_64")]
    if planes_x86::is_here() {
        // SAFETY: this processor has the features that the function is compiled for.
        return unsafe { tiers_x86::decode(scheme, codes, found, work) };
    }
    tiers::decode(scheme, codes, found, work)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::checkpoint::packed::format::{SLACK_BYTES, Tiers};

    /// Exponents of a block: from a few symbols, most of them common, to all of them alike.
    fn any_symbols() -> impl Strategy<Value = Vec<u8>> {
        let spread = (1u32..257, 0u32..40, any::<u64>());
        spread.prop_map(|(kinds, skew, seed)| {
            let mut random = fastrand::Rng::with_seed(seed);
            let one = |random: &mut fastrand::Rng| {
                let at = random.f64().powi(1 + skew as i32) * f64::from(kinds);
                (at as u32).wrapping_mul(37).wrapping_add(seed as u32) as u8
            };
            (0..BLOCK_VALUES).map(|_| one(&mut random)).collect()
        })
    }

    fn planes(scheme: &Scheme, symbols: &[u8]) -> (Vec<u8>, Escapes) {
        let (mut work, mut out) = (Work::new(), Vec::new());
        work.symbols[..BLOCK_VALUES].copy_from_slice(symbols);
        let escapes = tiers::encode(scheme, &mut work, &mut out);
        (out, escapes)
    }

    fn count_of(symbols: &[u8]) -> [u64; 256] {
        let mut counts = [0; 256];
        symbols.iter().for_each(|symbol| counts[usize::from(*symbol)] += 1);
        counts
    }

    proptest! {
        #[test]
        fn symbols_come_back_and_both_codes_agree(symbols in any_symbols(), force in any::<bool>()) {
            let counts = count_of(&symbols);
            let (mut scheme, bits) = Scheme::choose(&counts);
            if force {
                scheme.tiers = if scheme.tiers == Tiers::Four { Tiers::Three } else { Tiers::Four };
            }
            let (mut out, escapes) = planes(&scheme, &symbols);
            if !force {
                // But for the rest of the last byte of each plane.
                prop_assert!((out.len() as u64 * 8).abs_diff(bits) < 24, "{} {bits}", out.len() * 8);
            }
            let mut work = Work::new();
            prop_assert_eq!(tiers::decode(&scheme, &out, escapes, &mut work), Some(()));
            prop_assert!(work.symbols[..BLOCK_VALUES] == symbols[..]);
            #[cfg(target_arch = "x86_64")]
            if planes_x86::is_here() {
                let (mut work, mut fast) = (Work::new(), vec![7]);
                work.symbols[..BLOCK_VALUES].copy_from_slice(&symbols);
                // SAFETY: the processor has what it takes.
                let found = unsafe { tiers_x86::encode(&scheme, &mut work, &mut fast) };
                prop_assert_eq!(found, escapes);
                prop_assert!(fast[1..] == out[..]);
                for end in [&[][..], &[0xff; SLACK_BYTES]] {
                    out.extend_from_slice(end);
                    let mut work = Work::new();
                    // SAFETY: as above.
                    prop_assert_eq!(unsafe { tiers_x86::decode(&scheme, &out, escapes, &mut work) }, Some(()));
                    prop_assert!(work.symbols[..BLOCK_VALUES] == symbols[..]);
                }
            }
        }

        /// Whatever is flipped, cut or told wrongly: both codes say the same, and read nothing else.
        #[test]
        fn both_codes_judge_damage_alike(
            symbols in any_symbols(), flips in prop::collection::vec((any::<prop::sample::Index>(), 0u8..8), 0..6),
            cut in prop::option::of(any::<prop::sample::Index>()), lies in prop::option::of((0usize..4097, 0usize..4097)),
        ) {
            let (scheme, _) = Scheme::choose(&count_of(&symbols));
            let (mut out, mut escapes) = planes(&scheme, &symbols);
            for (at, bit) in flips {
                let at = at.index(out.len());
                out[at] ^= 1 << bit;
            }
            out.truncate(cut.map_or(out.len(), |at| at.index(out.len())));
            if let Some((n1, n2)) = lies {
                escapes = Escapes { n1, n2: n2.min(n1) };
            }
            let mut plain = Work::new();
            let said = tiers::decode(&scheme, &out, escapes, &mut plain);
            #[cfg(target_arch = "x86_64")]
            if planes_x86::is_here() {
                let mut fast = Work::new();
                // SAFETY: the processor has what it takes.
                prop_assert_eq!(unsafe { tiers_x86::decode(&scheme, &out, escapes, &mut fast) }, said);
                if said.is_some() {
                    prop_assert!(plain.symbols[..BLOCK_VALUES] == fast.symbols[..BLOCK_VALUES]);
                }
            }
            prop_assert!(said.is_some() || lies.is_some() || cut.is_some() || !symbols.is_empty());
        }
    }
}
