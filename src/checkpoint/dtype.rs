//! Element types, and what safetensors and torch call them.

use serde::{Deserialize, Serialize};

/// Element types, named as safetensors names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum DType {
    BOOL,
    U8,
    I8,
    #[serde(rename = "F8_E4M3")]
    F8E4M3,
    #[serde(rename = "F8_E5M2")]
    F8E5M2,
    #[serde(rename = "F8_E8M0")]
    F8E8M0,
    #[serde(rename = "F8_E4M3FNUZ")]
    F8E4M3FNUZ,
    #[serde(rename = "F8_E5M2FNUZ")]
    F8E5M2FNUZ,
    U16,
    I16,
    F16,
    BF16,
    U32,
    I32,
    F32,
    U64,
    I64,
    F64,
    C64,
}

/// One row a dtype: ours, bytes an element, safetensors' name, torch's name.
const DTYPES: [(DType, u64, &str, &str); 19] = [
    (DType::BOOL, 1, "BOOL", "torch.bool"),
    (DType::U8, 1, "U8", "torch.uint8"),
    (DType::I8, 1, "I8", "torch.int8"),
    (DType::F8E4M3, 1, "F8_E4M3", "torch.float8_e4m3fn"),
    (DType::F8E5M2, 1, "F8_E5M2", "torch.float8_e5m2"),
    (DType::F8E8M0, 1, "F8_E8M0", "torch.float8_e8m0fnu"),
    (DType::F8E4M3FNUZ, 1, "F8_E4M3FNUZ", "torch.float8_e4m3fnuz"),
    (DType::F8E5M2FNUZ, 1, "F8_E5M2FNUZ", "torch.float8_e5m2fnuz"),
    (DType::U16, 2, "U16", "torch.uint16"),
    (DType::I16, 2, "I16", "torch.int16"),
    (DType::F16, 2, "F16", "torch.float16"),
    (DType::BF16, 2, "BF16", "torch.bfloat16"),
    (DType::U32, 4, "U32", "torch.uint32"),
    (DType::I32, 4, "I32", "torch.int32"),
    (DType::F32, 4, "F32", "torch.float32"),
    (DType::U64, 8, "U64", "torch.uint64"),
    (DType::I64, 8, "I64", "torch.int64"),
    (DType::F64, 8, "F64", "torch.float64"),
    (DType::C64, 8, "C64", "torch.complex64"),
];

impl DType {
    fn row(self) -> &'static (DType, u64, &'static str, &'static str) {
        // Every variant has a row: a test walks them.
        DTYPES.iter().find(|row| row.0 == self).unwrap_or(&DTYPES[0])
    }

    /// Bytes of one element.
    pub fn bytes(self) -> u64 {
        self.row().1
    }

    /// `BF16`: the name in a safetensors header.
    pub fn safetensors_name(self) -> &'static str {
        self.row().2
    }

    /// `torch.bfloat16`: the name in ServerlessLLM's index.
    pub fn torch_name(self) -> &'static str {
        self.row().3
    }

    pub fn from_safetensors(name: &str) -> Option<DType> {
        DTYPES.iter().find(|row| row.2 == name).map(|row| row.0)
    }

    pub fn from_torch(name: &str) -> Option<DType> {
        DTYPES.iter().find(|row| row.3 == name).map(|row| row.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dtype_has_a_row_and_names_that_lead_back() {
        for (dtype, bytes, safetensors, torch) in DTYPES {
            assert_eq!(
                (dtype.bytes(), dtype.safetensors_name(), dtype.torch_name()),
                (bytes, safetensors, torch)
            );
            assert_eq!(DType::from_safetensors(safetensors), Some(dtype));
            assert_eq!(DType::from_torch(torch), Some(dtype));
            assert_eq!(serde_json::to_value(dtype).unwrap(), safetensors);
        }
    }
}
