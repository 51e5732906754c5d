//! The same as `tiers.rs`, 16 values at a time: BMI2 spreads and gathers bits, SSSE3 looks bytes up.
//!
//! Where `found` does not fit the codes, symbols may differ from what the plain code leaves; both say `None`.

use std::arch::x86_64::{
    __m128i, _mm_cmpeq_epi8, _mm_cvtsi128_si64, _mm_extract_epi64, _mm_set_epi64x, _mm_set1_epi8,
    _mm_shuffle_epi8, _pdep_u64, _pext_u64,
};

use crate::checkpoint::packed::format::{BLOCK_VALUES, Tiers};
use crate::checkpoint::packed::planes_x86::low_bits;
use crate::checkpoint::packed::tiers::{Escapes, MARGIN, Scheme, Symbols, Work, no_symbols};

/// As [`super::tiers::encode`].
#[target_feature(enable = "avx2,bmi2,popcnt")]
pub fn encode(scheme: &Scheme, work: &mut Work, out: &mut Vec<u8>) -> Escapes {
    let Work { symbols, escaped: [first, second] } = work;
    match scheme.tiers {
        Tiers::Four => {
            let n1 = narrow::<2>(symbols, BLOCK_VALUES, scheme.tier(0), first, out);
            let n2 = narrow::<2>(first, n1, scheme.tier(1), second, out);
            let n3 = narrow::<4>(second, n2, scheme.tier(2), first, out);
            out.extend_from_slice(&first[..n3]);
            Escapes { n1, n2 }
        }
        Tiers::Three => {
            let n1 = narrow::<3>(symbols, BLOCK_VALUES, scheme.tier(0), first, out);
            let n2 = narrow::<4>(first, n1, scheme.tier(1), second, out);
            out.extend_from_slice(&second[..n2]);
            Escapes { n1, n2 }
        }
    }
}

/// Appends one tier's codes of `count` symbols; what escapes goes on. How many did. Of `escaped` more is overwritten.
#[target_feature(enable = "avx2,bmi2,popcnt")]
fn narrow<const BITS: u32>(
    symbols: &Symbols,
    count: usize,
    tier: &[u8],
    escaped: &mut Symbols,
    out: &mut Vec<u8>,
) -> usize {
    let (mut coded, mut plane) = (no_symbols(), [0; BLOCK_VALUES / 2 + 8]);
    codes(symbols, count, tier, &mut coded);
    let escape = _mm_set1_epi8(tier.len() as i8);
    let (groups, _) = symbols.as_chunks::<8>();
    let (coded, _) = coded.as_chunks::<8>();
    let mut used = 0;
    for number in 0..count.div_ceil(8) {
        let coded = u64::from_le_bytes(coded[number]);
        let bits = _pext_u64(coded, low_bits::<BITS>());
        let at = number * BITS as usize;
        plane[at..at + 8].copy_from_slice(&bits.to_le_bytes());
        let mask = _mm_cvtsi128_si64(_mm_cmpeq_epi8(_mm_set_epi64x(0, coded as i64), escape)) as u64;
        let gone = _pext_u64(u64::from_le_bytes(groups[number]), mask);
        escaped[used..used + 8].copy_from_slice(&gone.to_le_bytes());
        used += mask.count_ones() as usize / 8;
    }
    out.extend_from_slice(&plane[..(count * BITS as usize).div_ceil(8)]);
    used
}

/// A tier's code for each of the first `count` symbols, its length for those that it has not; 0 behind them, so that padding
/// bits are zero and nothing escapes there.
#[target_feature(enable = "avx2,bmi2,popcnt")]
fn codes(symbols: &Symbols, count: usize, tier: &[u8], coded: &mut Symbols) {
    coded[..count].fill(tier.len() as u8);
    // Of a symbol that stands twice the first place counts.
    for (code, symbol) in tier.iter().enumerate().rev() {
        for (to, from) in coded[..count].iter_mut().zip(&symbols[..count]) {
            *to = if from == symbol { code as u8 } else { *to };
        }
    }
}

/// A mask of the first `count` of eight bytes.
fn bytes_below(count: usize) -> u64 {
    if count >= 8 { u64::MAX } else { (1 << (8 * count)) - 1 }
}

/// As [`super::tiers::decode`].
#[target_feature(enable = "avx2,bmi2,popcnt")]
pub fn decode(scheme: &Scheme, planes: &[u8], found: Escapes, work: &mut Work) -> Option<()> {
    let Work { symbols, escaped: [first, second] } = work;
    let Escapes { n1, n2 } = found;
    match scheme.tiers {
        Tiers::Four => {
            let c1 = planes.get(BLOCK_VALUES / 4..)?;
            let c2 = c1.get(n1.div_ceil(4)..)?;
            let c3 = c2.get(n2.div_ceil(2)..)?;
            let n3 = widen::<4>(c2, n2, scheme.tier(2), c3, second)?;
            c3.get(..n3)?;
            let more = widen::<2>(c1, n1, scheme.tier(1), second, first)?;
            let most = widen::<2>(planes, BLOCK_VALUES, scheme.tier(0), first, symbols)?;
            (more == n2 && most == n1).then_some(())
        }
        Tiers::Three => {
            let c1 = planes.get(BLOCK_VALUES * 3 / 8..)?;
            let c2 = c1.get(n1.div_ceil(2)..)?;
            second[..n2].copy_from_slice(c2.get(..n2)?);
            let more = widen::<4>(c1, n1, scheme.tier(1), second, first)?;
            let most = widen::<3>(planes, BLOCK_VALUES, scheme.tier(0), first, symbols)?;
            (more == n2 && most == n1).then_some(())
        }
    }
}

/// Fills `count` symbols from a tier's codes and what escaped from it; how many did. Of `out` more is overwritten. `None`
/// where the codes go past the end of `planes`, whose first plane they are.
#[target_feature(enable = "avx2,bmi2,popcnt")]
fn widen<const BITS: u32>(
    planes: &[u8],
    count: usize,
    tier: &[u8],
    escaped: &[u8],
    out: &mut Symbols,
) -> Option<usize> {
    planes.get(..(count * BITS as usize).div_ceil(8))?;
    let escape = _mm_set1_epi8(tier.len() as i8);
    let table = looked_up(tier);
    let (groups, _) = out.as_chunks_mut::<16>();
    let mut used = 0;
    for (number, group) in groups[..count.div_ceil(16)].iter_mut().enumerate() {
        let word = word_at(planes, number * 2 * BITS as usize);
        let low = _pdep_u64(word, low_bits::<BITS>());
        let high = _pdep_u64(word >> (8 * BITS), low_bits::<BITS>());
        let coded = _mm_set_epi64x(high as i64, low as i64);
        let symbols = _mm_shuffle_epi8(table, coded);
        let masks = _mm_cmpeq_epi8(coded, escape);
        let left = count - 16 * number;
        let mask = _mm_cvtsi128_si64(masks) as u64 & bytes_below(left);
        let low = _mm_cvtsi128_si64(symbols) as u64 | _pdep_u64(word_at(escaped, used), mask);
        used += mask.count_ones() as usize / 8;
        let mask = _mm_extract_epi64::<1>(masks) as u64 & bytes_below(left.saturating_sub(8));
        let high = _mm_extract_epi64::<1>(symbols) as u64 | _pdep_u64(word_at(escaped, used), mask);
        used += mask.count_ones() as usize / 8;
        group[..8].copy_from_slice(&low.to_le_bytes());
        group[8..].copy_from_slice(&high.to_le_bytes());
    }
    Some(used)
}

/// A tier's symbols by their codes, zero for the escape.
#[target_feature(enable = "avx2")]
fn looked_up(tier: &[u8]) -> __m128i {
    let mut table = [0; 16];
    table[..tier.len()].copy_from_slice(tier);
    let [low, high] = [0, 8].map(|at| i64::from_le_bytes(std::array::from_fn(|i| table[at + i])));
    _mm_set_epi64x(high, low)
}

/// Eight bytes, zeros past the end.
#[inline(always)]
fn word_at(bytes: &[u8], at: usize) -> u64 {
    match bytes.get(at..at + 8) {
        Some(word) => u64::from_le_bytes(std::array::from_fn(|i| word[i])),
        None => word_at_end(bytes, at),
    }
}

#[cold]
fn word_at_end(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| bytes.get(at + i).copied().unwrap_or(0)))
}

// Groups of 16 reach past the last value by less than this, and a word of escapes by 8.
const _: () = assert!(MARGIN >= 24 && BLOCK_VALUES.is_multiple_of(16));
