//! Element types, and what safetensors and torch call them.

use serde::{Deserialize, Serialize};

/// Element types, named as safetensors names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub enum DType {
    /// Two to a byte: floats of 4 bits, E2M1.
    F4,
    /// Floats of 6 bits, E2M3.
    #[serde(rename = "F6_E2M3")]
    F6E2M3,
    /// Floats of 6 bits, E3M2.
    #[serde(rename = "F6_E3M2")]
    F6E3M2,
    /// One byte each, 0 or 1.
    BOOL,
    /// Unsigned integers of 8 bits.
    U8,
    /// Signed integers of 8 bits.
    I8,
    /// Floats of 8 bits, E4M3, finite but for NaN.
    #[serde(rename = "F8_E4M3")]
    F8E4M3,
    /// Floats of 8 bits, E5M2.
    #[serde(rename = "F8_E5M2")]
    F8E5M2,
    /// Powers of two in 8 bits: scales.
    #[serde(rename = "F8_E8M0")]
    F8E8M0,
    /// Floats of 8 bits, E4M3, one zero, no infinity.
    #[serde(rename = "F8_E4M3FNUZ")]
    F8E4M3FNUZ,
    /// Floats of 8 bits, E5M2, one zero, no infinity.
    #[serde(rename = "F8_E5M2FNUZ")]
    F8E5M2FNUZ,
    /// Unsigned integers of 16 bits.
    U16,
    /// Signed integers of 16 bits.
    I16,
    /// Floats of 16 bits, IEEE.
    F16,
    /// Floats of 16 bits with the range of F32.
    BF16,
    /// Unsigned integers of 32 bits.
    U32,
    /// Signed integers of 32 bits.
    I32,
    /// Floats of 32 bits, IEEE.
    F32,
    /// Unsigned integers of 64 bits.
    U64,
    /// Signed integers of 64 bits.
    I64,
    /// Floats of 64 bits, IEEE.
    F64,
    /// Complex numbers: two F32 each.
    C64,
}

/// One row a dtype: ours, bits an element, safetensors' name, and torch's where torch has it.
const DTYPES: [(DType, u64, &str, Option<&str>); 22] = [
    // Torch counts two of these as one element: its last axis is half as long (`sllm.rs`).
    (DType::F4, 4, "F4", Some("torch.float4_e2m1fn_x2")),
    (DType::F6E2M3, 6, "F6_E2M3", None),
    (DType::F6E3M2, 6, "F6_E3M2", None),
    (DType::BOOL, 8, "BOOL", Some("torch.bool")),
    (DType::U8, 8, "U8", Some("torch.uint8")),
    (DType::I8, 8, "I8", Some("torch.int8")),
    (DType::F8E4M3, 8, "F8_E4M3", Some("torch.float8_e4m3fn")),
    (DType::F8E5M2, 8, "F8_E5M2", Some("torch.float8_e5m2")),
    (DType::F8E8M0, 8, "F8_E8M0", Some("torch.float8_e8m0fnu")),
    (DType::F8E4M3FNUZ, 8, "F8_E4M3FNUZ", Some("torch.float8_e4m3fnuz")),
    (DType::F8E5M2FNUZ, 8, "F8_E5M2FNUZ", Some("torch.float8_e5m2fnuz")),
    (DType::U16, 16, "U16", Some("torch.uint16")),
    (DType::I16, 16, "I16", Some("torch.int16")),
    (DType::F16, 16, "F16", Some("torch.float16")),
    (DType::BF16, 16, "BF16", Some("torch.bfloat16")),
    (DType::U32, 32, "U32", Some("torch.uint32")),
    (DType::I32, 32, "I32", Some("torch.int32")),
    (DType::F32, 32, "F32", Some("torch.float32")),
    (DType::U64, 64, "U64", Some("torch.uint64")),
    (DType::I64, 64, "I64", Some("torch.int64")),
    (DType::F64, 64, "F64", Some("torch.float64")),
    (DType::C64, 64, "C64", Some("torch.complex64")),
];

impl DType {
    fn row(self) -> &'static (DType, u64, &'static str, Option<&'static str>) {
        // Every variant has a row: a test walks them.
        DTYPES.iter().find(|row| row.0 == self).unwrap_or(&DTYPES[0])
    }

    /// Bits of one element: 4, 6, or a multiple of 8.
    pub fn bits(self) -> u64 {
        self.row().1
    }

    /// Bytes of so many elements; `None` past 2^64, and where they do not fill whole bytes.
    pub fn bytes_of(self, elements: u64) -> Option<u64> {
        let bits = u128::from(elements) * u128::from(self.bits());
        bits.is_multiple_of(8).then(|| u64::try_from(bits / 8).ok()).flatten()
    }

    /// `BF16`: the name in a safetensors header.
    pub fn safetensors_name(self) -> &'static str {
        self.row().2
    }

    /// `torch.bfloat16`: the name in ServerlessLLM's index. Torch has none for elements of 6 bits.
    pub fn torch_name(self) -> Option<&'static str> {
        self.row().3
    }

    /// The type that safetensors calls so.
    pub fn from_safetensors(name: &str) -> Option<DType> {
        DTYPES.iter().find(|row| row.2 == name).map(|row| row.0)
    }

    /// The type that torch calls so, as in `torch.bfloat16`.
    pub fn from_torch(name: &str) -> Option<DType> {
        DTYPES.iter().find(|row| row.3 == Some(name)).map(|row| row.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dtype_has_a_row_and_names_that_lead_back() {
        for (dtype, bits, safetensors, torch) in DTYPES {
            assert_eq!(
                (dtype.bits(), dtype.safetensors_name(), dtype.torch_name()),
                (bits, safetensors, torch)
            );
            assert_eq!(DType::from_safetensors(safetensors), Some(dtype));
            assert_eq!(torch.and_then(DType::from_torch), torch.map(|_| dtype));
            assert_eq!(serde_json::to_value(dtype).unwrap(), safetensors);
        }
    }

    #[test]
    fn elements_fill_whole_bytes_or_have_no_size() {
        assert_eq!(DType::F4.bytes_of(3), None);
        assert_eq!(DType::F4.bytes_of(6), Some(3));
        assert_eq!(DType::F6E2M3.bytes_of(4), Some(3));
        assert_eq!(DType::F6E3M2.bytes_of(2), None);
        assert_eq!(DType::BF16.bytes_of(3), Some(6));
        assert_eq!(DType::F64.bytes_of(1 << 61), None);
        assert_eq!(DType::F4.bytes_of(u64::MAX - 1), Some(i64::MAX as u64));
    }
}
