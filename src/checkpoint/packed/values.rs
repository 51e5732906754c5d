//! Values taken apart into their exponents, a byte each, and planes of the rest; and put together again.

use crate::checkpoint::packed::format::{BLOCK_VALUES, Form};
use crate::checkpoint::packed::planes::{Items, pack, unpack};
use crate::checkpoint::packed::tiers::Symbols;

/// Fills the exponents of a block's values.
pub fn exponents(form: Form, block: &[u8], symbols: &mut Symbols) {
    let wide = |shift: u32, symbols: &mut Symbols| {
        let (values, _) = block.as_chunks::<2>();
        for (symbol, value) in symbols.iter_mut().zip(values) {
            *symbol = (u16::from_le_bytes(*value) >> shift) as u8;
        }
    };
    match form {
        Form::Bytes => {}
        Form::Bf16 => wide(7, symbols),
        Form::F16 => {
            wide(10, symbols);
            symbols[..BLOCK_VALUES].iter_mut().for_each(|symbol| *symbol &= 0x1f);
        }
        Form::F8E4M3 => each(block, symbols, |value| value >> 3 & 0xf),
        Form::F8E5M2 => each(block, symbols, |value| value >> 2 & 0x1f),
    }
}

fn each(block: &[u8], symbols: &mut Symbols, of: impl Fn(u8) -> u8) {
    symbols.iter_mut().zip(block).for_each(|(symbol, value)| *symbol = of(*value));
}

/// Appends the planes of the rest of a block's values.
pub fn split(form: Form, block: &[u8], out: &mut Vec<u8>) {
    let (wide, _) = block.as_chunks::<2>();
    match form {
        Form::Bytes => {}
        Form::Bf16 => add(&items(wide, |[low, high]| low & 0x7f | high & 0x80), out),
        Form::F16 => {
            add(&items(wide, |[low, _]| low), out);
            pack::<2>(&items(wide, |[_, high]| high & 3), out);
            pack::<1>(&items(wide, |[_, high]| high >> 7), out);
        }
        Form::F8E4M3 => pack::<4>(&items(block, |value| value & 7 | value >> 4 & 8), out),
        Form::F8E5M2 => {
            pack::<2>(&items(block, |value| value & 3), out);
            pack::<1>(&items(block, |value| value >> 7), out);
        }
    }
}

fn add(items: &Items, out: &mut Vec<u8>) {
    out.extend_from_slice(items);
}

fn items<T: Copy>(values: &[T], of: impl Fn(T) -> u8) -> Items {
    let mut items = [0; BLOCK_VALUES];
    items.iter_mut().zip(values).for_each(|(item, value)| *item = of(*value));
    items
}

/// Puts a block's values together: `rest` are the planes that [`split`] made, `out` is as long as the block.
pub fn join(form: Form, rest: &[u8], symbols: &Symbols, out: &mut [u8]) {
    let empty = || [0; BLOCK_VALUES];
    match form {
        Form::Bytes => {}
        Form::Bf16 => {
            let (values, _) = out.as_chunks_mut::<2>();
            for ((value, rest), symbol) in values.iter_mut().zip(rest).zip(symbols) {
                *value = [rest & 0x7f | symbol << 7, rest & 0x80 | symbol >> 1];
            }
        }
        Form::F16 => {
            let (low, rest) = rest.split_at(BLOCK_VALUES);
            let (mut first, mut second) = (empty(), empty());
            unpack::<2>(rest, &mut first);
            unpack::<1>(&rest[BLOCK_VALUES / 4..], &mut second);
            let (values, _) = out.as_chunks_mut::<2>();
            let highs = first.iter().zip(&second).zip(symbols);
            let highs = highs.map(|((two, sign), symbol)| two | (symbol & 0x1f) << 2 | sign << 7);
            values.iter_mut().zip(low).zip(highs).for_each(|((value, low), high)| *value = [*low, high]);
        }
        Form::F8E4M3 => {
            let mut first = empty();
            unpack::<4>(rest, &mut first);
            for ((value, rest), symbol) in out.iter_mut().zip(&first).zip(symbols) {
                *value = rest & 7 | (symbol & 0xf) << 3 | (rest & 8) << 4;
            }
        }
        Form::F8E5M2 => {
            let (mut first, mut second) = (empty(), empty());
            unpack::<2>(rest, &mut first);
            unpack::<1>(&rest[BLOCK_VALUES / 4..], &mut second);
            for (((value, two), sign), symbol) in out.iter_mut().zip(&first).zip(&second).zip(symbols) {
                *value = two | (symbol & 0x1f) << 2 | sign << 7;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::packed::tiers::no_symbols;

    /// Every value of 16 bits, and every one of 8, comes back.
    #[test]
    fn every_value_comes_back() {
        let wide: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        let narrow: Vec<u8> = (0..=u8::MAX).cycle().take(BLOCK_VALUES).collect();
        for (form, all) in
            [(Form::Bf16, &wide), (Form::F16, &wide), (Form::F8E4M3, &narrow), (Form::F8E5M2, &narrow)]
        {
            for block in all.chunks(form.block_bytes()) {
                let (mut symbols, mut rest) = (no_symbols(), Vec::new());
                exponents(form, block, &mut symbols);
                split(form, block, &mut rest);
                assert_eq!(rest.len(), form.rest_bytes());
                let mut out = vec![0xa5; block.len()];
                join(form, &rest, &symbols, &mut out);
                assert!(out == block, "{form:?}");
            }
        }
    }

    #[test]
    fn the_example_of_the_document() {
        let block = [0x23, 0x3c].repeat(BLOCK_VALUES);
        let (mut symbols, mut rest) = (no_symbols(), Vec::new());
        exponents(Form::Bf16, &block, &mut symbols);
        split(Form::Bf16, &block, &mut rest);
        assert_eq!((symbols[0], rest[0]), (0x78, 0x23));
    }
}
