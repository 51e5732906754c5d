//! Sizes and numbers of the packed layout, as `docs/packed.md` has them.

use crate::checkpoint::dtype::DType;

/// What a manifest of packed weights requires of its reader.
pub const REQUIREMENT: &str = "packed-1";

/// Bytes of a partition that are packed together.
pub const WINDOW_BYTES: u64 = 1 << 20;

/// Values of a coded block.
pub const BLOCK_VALUES: usize = 4096;
/// Bytes of a block that is not of values.
pub const BYTES_BLOCK: usize = 8192;

pub const MAGIC: [u8; 4] = *b"SPK1";
pub const HEADER_BYTES: usize = 16;
pub const SEGMENT_BYTES: usize = 32;
pub const ENTRY_BYTES: usize = 8;
/// Where a block's data may begin.
pub const DATA_ALIGN: usize = 16;
/// Zeros at a chunk's end: whole words may be read past the last block.
pub const SLACK_BYTES: usize = 16;
/// A chunk's length is a multiple of this.
pub const CHUNK_ALIGN: usize = 64;
/// `n1` of a block that is stored as it is, and of one that is all zeros.
pub const STORED: u16 = 65535;
pub const ZEROS: u16 = 65534;

/// Places in a segment's table of exponents.
pub const TABLE: usize = 22;

/// How the values of a segment are taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Not at all.
    Bytes,
    Bf16,
    F16,
    F8E4M3,
    F8E5M2,
}

impl Form {
    const ALL: [Form; 5] = [Form::Bytes, Form::Bf16, Form::F16, Form::F8E4M3, Form::F8E5M2];

    /// The form of a type's values; `Bytes` of types that gain nothing, or are not tried.
    pub fn of(dtype: DType) -> Form {
        match dtype {
            DType::BF16 => Form::Bf16,
            DType::F16 => Form::F16,
            DType::F8E4M3 | DType::F8E4M3FNUZ => Form::F8E4M3,
            DType::F8E5M2 | DType::F8E5M2FNUZ => Form::F8E5M2,
            _ => Form::Bytes,
        }
    }

    pub(super) fn from_number(number: u8) -> Option<Form> {
        Form::ALL.get(usize::from(number)).copied()
    }

    pub(super) fn number(self) -> u8 {
        self as u8
    }

    /// Bytes of a block before it is packed.
    pub(super) fn block_bytes(self) -> usize {
        match self {
            Form::Bytes | Form::Bf16 | Form::F16 => BYTES_BLOCK,
            Form::F8E4M3 | Form::F8E5M2 => BLOCK_VALUES,
        }
    }

    /// Bits of a value beside its exponent: a plane each, in this order.
    pub(super) fn rest_bits(self) -> &'static [usize] {
        match self {
            Form::Bytes => &[],
            Form::Bf16 => &[8],
            Form::F16 => &[8, 2, 1],
            Form::F8E4M3 => &[4],
            Form::F8E5M2 => &[2, 1],
        }
    }

    /// Bytes of those planes in a block.
    pub(super) fn rest_bytes(self) -> usize {
        self.rest_bits().iter().sum::<usize>() * BLOCK_VALUES / 8
    }
}

/// How exponents are coded: bits of each tier's codes. What no tier has stands as a byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tiers {
    /// 2/2/4/8
    Four,
    /// 3/4/8
    Three,
}

impl Tiers {
    pub(super) const ALL: [Tiers; 2] = [Tiers::Four, Tiers::Three];

    pub(super) fn number(self) -> u8 {
        match self {
            Tiers::Four => 1,
            Tiers::Three => 2,
        }
    }

    pub(super) fn from_number(number: u8) -> Option<Tiers> {
        Tiers::ALL.into_iter().find(|tiers| tiers.number() == number)
    }

    /// Bits of a code of each tier.
    pub(super) fn bits(self) -> &'static [u32] {
        match self {
            Tiers::Four => &[2, 2, 4],
            Tiers::Three => &[3, 4],
        }
    }

    /// Bytes of the planes that `n1` and `n2` give: all but `c3` of 2/2/4/8.
    pub(super) fn counted_bytes(self, n1: usize, n2: usize) -> usize {
        match self {
            Tiers::Four => BLOCK_VALUES / 4 + n1.div_ceil(4) + n2.div_ceil(2),
            Tiers::Three => BLOCK_VALUES * 3 / 8 + n1.div_ceil(2) + n2,
        }
    }
}
