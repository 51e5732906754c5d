//! The exponents of a block as codes of several tiers: the commonest few in a code of two or three bits, the next in a
//! second code, and so on. This is the plain code; what it does is what `docs/packed.md` says.

use crate::checkpoint::packed::format::{BLOCK_VALUES, TABLE, Tiers};

/// Room behind the values of a tier, for code that handles several at once.
pub const MARGIN: usize = 32;
/// The exponents of a block, or those that escaped from a tier.
pub type Symbols = [u8; BLOCK_VALUES + MARGIN];

pub fn no_symbols() -> Symbols {
    [0; BLOCK_VALUES + MARGIN]
}

/// A segment's codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scheme {
    pub tiers: Tiers,
    pub table: [u8; TABLE],
}

/// How many exponents escaped from the first tier, and of those from the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Escapes {
    pub n1: usize,
    pub n2: usize,
}

impl Scheme {
    /// The shorter scheme for exponents that come so often, and how many bits they take by it.
    pub fn choose(counts: &[u64; 256]) -> (Scheme, u64) {
        let mut order: Vec<u8> = (0..=255).collect();
        order.sort_by_key(|symbol| (std::cmp::Reverse(counts[usize::from(*symbol)]), *symbol));
        let of = |tiers: Tiers| {
            let mut table = [0; TABLE];
            let places = places(tiers);
            // What never comes needs no place.
            for (place, symbol) in table[..places].iter_mut().zip(&order) {
                *place = if counts[usize::from(*symbol)] > 0 { *symbol } else { 0 };
            }
            (Scheme { tiers, table }, bits(tiers, &order, counts))
        };
        let [four, three] = Tiers::ALL.map(of);
        if four.1 <= three.1 { four } else { three }
    }

    /// The places of the table that are a tier's.
    pub fn tier(&self, number: usize) -> &[u8] {
        let bits = self.tiers.bits();
        let start: usize = bits[..number].iter().map(|bits| (1 << bits) - 1).sum();
        &self.table[start..start + (1 << bits[number]) - 1]
    }
}

fn places(tiers: Tiers) -> usize {
    tiers.bits().iter().map(|bits| (1 << bits) - 1).sum()
}

/// Bits that exponents take: each tier's code for all that came so far, a byte for what no tier has.
fn bits(tiers: Tiers, order: &[u8], counts: &[u64; 256]) -> u64 {
    let mut left: u64 = counts.iter().sum();
    let (mut sum, mut first) = (0, 0);
    for bits in tiers.bits() {
        sum += left * u64::from(*bits);
        let places = (1 << bits) - 1;
        left -= order[first..first + places].iter().map(|symbol| counts[usize::from(*symbol)]).sum::<u64>();
        first += places;
    }
    sum + 8 * left
}

/// A tier's code for each exponent, the escape for those that it has not.
fn codes(tier: &[u8]) -> [u8; 256] {
    let mut codes = [tier.len() as u8; 256];
    // Of a symbol that stands twice the first place counts.
    for (code, symbol) in tier.iter().enumerate().rev() {
        codes[usize::from(*symbol)] = code as u8;
    }
    codes
}

/// Room for what escapes from each tier.
pub struct Work {
    pub symbols: Symbols,
    pub escaped: [Symbols; 2],
}

impl Work {
    pub fn new() -> Work {
        Work { symbols: no_symbols(), escaped: [no_symbols(), no_symbols()] }
    }
}

/// Appends the planes of `work.symbols`, and says how many escaped.
pub fn encode(scheme: &Scheme, work: &mut Work, out: &mut Vec<u8>) -> Escapes {
    let Work { symbols, escaped: [first, second] } = work;
    let n1 = narrow(&symbols[..BLOCK_VALUES], scheme.tier(0), scheme.tiers.bits()[0], first, out);
    let n2 = narrow(&first[..n1], scheme.tier(1), scheme.tiers.bits()[1], second, out);
    match scheme.tiers {
        Tiers::Three => out.extend_from_slice(&second[..n2]),
        Tiers::Four => {
            let n3 = narrow(&second[..n2], scheme.tier(2), scheme.tiers.bits()[2], first, out);
            out.extend_from_slice(&first[..n3]);
        }
    }
    Escapes { n1, n2 }
}

/// Appends one tier's codes; what escapes goes on. How many did.
fn narrow(symbols: &[u8], tier: &[u8], bits: u32, escaped: &mut Symbols, out: &mut Vec<u8>) -> usize {
    let (codes, escape) = (codes(tier), tier.len() as u8);
    let (mut word, mut held, mut count) = (0u32, 0, 0);
    for symbol in symbols {
        let code = codes[usize::from(*symbol)];
        word |= u32::from(code) << held;
        held += bits;
        if held >= 8 {
            out.push(word as u8);
            (word, held) = (word >> 8, held - 8);
        }
        escaped[count] = *symbol;
        count += usize::from(code == escape);
    }
    if held > 0 {
        out.push(word as u8);
    }
    count
}

/// Fills `work.symbols` from planes that begin with `c0`; what lies behind them is not looked at. `None` where the codes
/// have other numbers of escapes than `found`, or bytes past the end of `planes` would be needed.
pub fn decode(scheme: &Scheme, planes: &[u8], found: Escapes, work: &mut Work) -> Option<()> {
    let Work { symbols, escaped: [first, second] } = work;
    let Escapes { n1, n2 } = found;
    let bits = scheme.tiers.bits();
    let (c0, rest) = planes.split_at_checked(BLOCK_VALUES * bits[0] as usize / 8)?;
    let (c1, rest) = rest.split_at_checked((n1 * bits[1] as usize).div_ceil(8))?;
    match scheme.tiers {
        Tiers::Three => second[..n2].copy_from_slice(rest.get(..n2)?),
        Tiers::Four => {
            let (c2, c3) = rest.split_at_checked((n2 * bits[2] as usize).div_ceil(8))?;
            widen(c2, n2, scheme.tier(2), bits[2], c3, second)?;
        }
    }
    let more = widen(c1, n1, scheme.tier(1), bits[1], &second[..n2], first)?;
    let most = widen(c0, BLOCK_VALUES, scheme.tier(0), bits[0], &first[..n1], symbols)?;
    (more == n2 && most == n1).then_some(())
}

/// Fills `count` symbols from a tier's codes and what escaped from it; how many did. `None` where more did than there are.
fn widen(
    codes: &[u8],
    count: usize,
    tier: &[u8],
    bits: u32,
    escaped: &[u8],
    out: &mut Symbols,
) -> Option<usize> {
    let (mut word, mut held, mut used) = (0u32, 0, 0);
    let mut codes = codes.iter();
    for symbol in &mut out[..count] {
        if held < bits {
            word |= u32::from(*codes.next()?) << held;
            held += 8;
        }
        let code = word & ((1 << bits) - 1);
        (word, held) = (word >> bits, held - bits);
        *symbol = match tier.get(code as usize) {
            Some(symbol) => *symbol,
            None => {
                used += 1;
                *escaped.get(used - 1)?
            }
        };
    }
    Some(used)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commonest_come_first_and_equals_by_their_value() {
        let mut counts = [0; 256];
        for (symbol, count) in [(9, 5), (7, 5), (3, 8), (200, 1)] {
            counts[symbol] = count;
        }
        let (scheme, bits) = Scheme::choose(&counts);
        assert_eq!(scheme.tiers, Tiers::Four);
        assert_eq!(scheme.table[..5], [3, 7, 9, 200, 0]);
        assert_eq!(bits, 19 * 2 + 2);
        let flat: [u64; 256] = std::array::from_fn(|i| u64::from(i < 7));
        assert_eq!(Scheme::choose(&flat).0.tiers, Tiers::Three, "7 of one frequency fit 3 bits");
        assert_eq!(Scheme::choose(&[0; 256]).1, 0);
    }

    #[test]
    fn tiers_share_the_table() {
        let table = std::array::from_fn(|i| i as u8);
        let four = Scheme { tiers: Tiers::Four, table };
        assert_eq!([four.tier(0), four.tier(1)], [&[0, 1, 2], &[3, 4, 5]]);
        assert_eq!((four.tier(2)[0], four.tier(2)[14]), (6, 20));
        let three = Scheme { tiers: Tiers::Three, table };
        assert_eq!((three.tier(0).len(), three.tier(1)[0], three.tier(1)[14]), (7, 7, 21));
        assert_eq!((places(Tiers::Four), places(Tiers::Three)), (21, TABLE));
    }
}
