//! Seeded normal values at any offset: a counter, a mixer, and a table of quantiles.
//!
//! A tensor is a row of 8-byte words. Word `n` is made from 64 random bits, which are a function of the
//! tensor's key and `n` alone, so any range can be made by any thread. In a 16-bit type the word holds four
//! values: each 16 bits choose one of 65536 quantiles of the normal distribution, rounded to the type. In
//! F32 it holds two: 16 bits choose the quantile, 12 more fill the low end of its mantissa.

use std::collections::HashMap;
use std::sync::Arc;

use crate::checkpoint::{DType, TensorSpec};
use crate::origin::synthetic::Model;
use crate::origin::synthetic::normal::{normal_quantile, round_to_half};

const WORD_BYTES: usize = 8;
const QUANTILES: usize = 1 << 16;
/// The bits of an F32 that are random rather than the quantile's: a change below one part in 2000.
const F32_FREE_BITS: u32 = (1 << 12) - 1;

/// The values of a model's tensors. Cheap to share between threads: nothing in it changes.
#[derive(Debug, Clone)]
pub struct Values {
    streams: Vec<Stream>,
}

/// One tensor's values.
#[derive(Debug, Clone)]
struct Stream {
    key: u64,
    table: Arc<Table>,
}

#[derive(Debug)]
enum Table {
    Half(Box<[u16; QUANTILES]>),
    Single(Box<[u32; QUANTILES]>),
    /// Types that have no table get the random bits as they are.
    Raw,
}

/// What a tensor is for, as far as its values' size goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Class {
    Matrix,
    NormWeight,
    Bias,
}

impl Class {
    fn of(tensor: &TensorSpec) -> Class {
        match tensor.shape.len() {
            // In every known family a vector is a bias or a norm's weight.
            0 | 1 if tensor.name.ends_with(".bias") => Class::Bias,
            0 | 1 => Class::NormWeight,
            _ => Class::Matrix,
        }
    }

    /// 0.02 is what these models are initialised with (`initializer_range`); the rest is the right size only.
    fn mean_and_std(self) -> (f64, f64) {
        match self {
            Class::Matrix => (0.0, 0.02),
            Class::NormWeight => (1.0, 0.05),
            Class::Bias => (0.0, 0.005),
        }
    }
}

impl Values {
    /// A tensor's values depend on the seed, the unscaled model's id, and the tensor's name: a scaled model
    /// holds the same bytes as the whole one does under the same names.
    pub fn new(seed: u64, model: &Model) -> Values {
        let id = model.id.split('@').next().unwrap_or_default();
        let mut tables: HashMap<(Class, DType), Arc<Table>> = HashMap::new();
        let mut stream = |tensor: &TensorSpec| {
            let class = Class::of(tensor);
            let table = tables
                .entry((class, tensor.dtype))
                .or_insert_with(|| Arc::new(Table::new(class, tensor.dtype)));
            Stream { key: key(seed, id, &tensor.name), table: Arc::clone(table) }
        };
        Values { streams: model.tensors.iter().map(&mut stream).collect() }
    }

    /// Fills `out` with the bytes `[offset, offset + out.len())` of tensor `index`, little-endian.
    ///
    /// Any offset and any length: however a tensor is cut, its bytes are the same. Values are finite in BF16,
    /// F16 and F32; any other type gets random bits.
    ///
    /// # Panics
    /// When the model that was given to [`Values::new`] has no tensor `index`.
    pub fn fill(&self, index: usize, offset: u64, out: &mut [u8]) {
        let stream = &self.streams[index];
        match &*stream.table {
            Table::Half(table) => fill_words(stream.key, offset, out, |bits| half_word(table, bits)),
            Table::Single(table) => fill_words(stream.key, offset, out, |bits| single_word(table, bits)),
            Table::Raw => fill_words(stream.key, offset, out, |bits| bits),
        }
    }
}

/// Writes the words that meet the range, the first and the last cut to fit.
fn fill_words(key: u64, offset: u64, out: &mut [u8], word: impl Fn(u64) -> u64) {
    let bytes_at = |index: u64| word(random_bits(key, index)).to_le_bytes();
    let mut index = offset / WORD_BYTES as u64;
    let skip = (offset % WORD_BYTES as u64) as usize;
    let head_bytes = if skip == 0 { 0 } else { (WORD_BYTES - skip).min(out.len()) };
    let (head, rest) = out.split_at_mut(head_bytes);
    if !head.is_empty() {
        head.copy_from_slice(&bytes_at(index)[skip..skip + head_bytes]);
        index += 1;
    }
    let mut whole = rest.chunks_exact_mut(WORD_BYTES);
    for bytes in &mut whole {
        bytes.copy_from_slice(&bytes_at(index));
        index += 1;
    }
    let tail = whole.into_remainder();
    tail.copy_from_slice(&bytes_at(index)[..tail.len()]);
}

fn half_word(table: &[u16; QUANTILES], bits: u64) -> u64 {
    let value = |lane: u32| u64::from(table[usize::from((bits >> (16 * lane)) as u16)]) << (16 * lane);
    value(0) | value(1) | value(2) | value(3)
}

fn single_word(table: &[u32; QUANTILES], bits: u64) -> u64 {
    let value = |bits: u32| {
        let quantile = table[usize::from(bits as u16)] & !F32_FREE_BITS;
        u64::from(quantile | (bits >> 16) & F32_FREE_BITS)
    };
    value(bits as u32) | value((bits >> 32) as u32) << 32
}

/// Step of splitmix64's counter: 2^64 over the golden ratio, odd.
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// Output `index` of splitmix64 seeded with `key` (Steele, Lea and Flood, "Fast splittable pseudorandom number
/// generators", 2014; this mixer is Stafford's variant 13). Its state is a counter, so any output is at hand.
fn random_bits(key: u64, index: u64) -> u64 {
    mix(key.wrapping_add(index.wrapping_mul(STEP)))
}

fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

/// A tensor's key: FNV-1a of the names, mixed with the seed.
fn key(seed: u64, id: &str, name: &str) -> u64 {
    let bytes = id.bytes().chain([0]).chain(name.bytes());
    let hash = bytes.fold(0xCBF2_9CE4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
    });
    mix(hash ^ mix(seed.wrapping_add(STEP)))
}

impl Table {
    fn new(class: Class, dtype: DType) -> Table {
        let (mean, std) = class.mean_and_std();
        // The middle of each of 65536 equal shares: never 0 or 1, so every quantile is finite.
        let quantile = |i: usize| mean + std * normal_quantile((i as f64 + 0.5) / QUANTILES as f64);
        match dtype {
            DType::BF16 => Table::Half(filled(|i| round_to_half(quantile(i), 7, 127))),
            DType::F16 => Table::Half(filled(|i| round_to_half(quantile(i), 10, 15))),
            DType::F32 => Table::Single(filled(|i| (quantile(i) as f32).to_bits())),
            _ => Table::Raw,
        }
    }
}

fn filled<T: Copy + Default>(value: impl Fn(usize) -> T) -> Box<[T; QUANTILES]> {
    let mut table = Box::new([T::default(); QUANTILES]);
    for (i, slot) in table.iter_mut().enumerate() {
        *slot = value(i);
    }
    table
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sha2::{Digest, Sha256};

    use super::*;

    const TYPES: [DType; 3] = [DType::BF16, DType::F16, DType::F32];

    /// A matrix, a norm's weight and a bias.
    fn small(id: &str, dtype: DType) -> Model {
        let tensor =
            |name: &str, shape: &[u64]| TensorSpec { name: name.into(), dtype, shape: shape.to_vec() };
        let tensors = vec![
            tensor("a.weight", &[1024, 1024]),
            tensor("norm.weight", &[1024]),
            tensor("a.bias", &[1024]),
        ];
        Model { id: id.into(), tensors, config_json: String::new() }
    }

    fn bytes(values: &Values, index: usize, offset: u64, length: usize) -> Vec<u8> {
        let mut out = vec![0xA5; length];
        values.fill(index, offset, &mut out);
        out
    }

    fn decode_half(bits: u16, mantissa_bits: i32, bias: i32) -> f64 {
        let magnitude = bits & 0x7FFF;
        let (exponent, mantissa) =
            (i32::from(magnitude >> mantissa_bits), f64::from(magnitude & ((1 << mantissa_bits) - 1)));
        let hidden = if exponent == 0 { 0.0 } else { 2f64.powi(mantissa_bits) };
        let value = (hidden + mantissa) * 2f64.powi(exponent.max(1) - bias - mantissa_bits);
        if bits >> 15 == 1 { -value } else { value }
    }

    fn decode(dtype: DType, bytes: &[u8]) -> Vec<f64> {
        match dtype {
            DType::F32 => {
                bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()).into()).collect()
            }
            DType::F16 => halves(bytes).map(|bits| decode_half(bits, 10, 15)).collect(),
            _ => halves(bytes).map(|bits| f32::from_bits(u32::from(bits) << 16).into()).collect(),
        }
    }

    fn halves(bytes: &[u8]) -> impl Iterator<Item = u16> + '_ {
        bytes.chunks_exact(2).map(|b| u16::from_le_bytes(b.try_into().unwrap()))
    }

    fn mean_and_std(values: &[f64]) -> (f64, f64) {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64;
        (mean, variance.sqrt())
    }

    #[test]
    fn the_mixer_is_splitmix64() {
        // The published outputs of splitmix64 seeded with 1234567; its first output is at counter 1.
        let outputs = [1, 2, 3].map(|index| random_bits(1_234_567, index));
        assert_eq!(
            outputs,
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]
        );
    }

    #[test]
    fn every_quantile_is_finite_and_in_order() {
        for class in [Class::Matrix, Class::NormWeight, Class::Bias] {
            for dtype in TYPES {
                let values: Vec<f64> = match Table::new(class, dtype) {
                    Table::Half(table) => {
                        table.iter().flat_map(|bits| decode(dtype, &bits.to_le_bytes())).collect()
                    }
                    Table::Single(table) => table.iter().map(|bits| f32::from_bits(*bits).into()).collect(),
                    Table::Raw => Vec::new(),
                };
                let (mean, std) = class.mean_and_std();
                assert_eq!(values.len(), QUANTILES, "{class:?} {dtype:?}");
                assert!(values.is_sorted(), "{class:?} {dtype:?}");
                // The outermost of 65536 shares is centred at 4.3 deviations.
                let reach = values.iter().map(|v| (v - mean).abs() / std).fold(0.0, f64::max);
                assert!((4.2..4.5).contains(&reach), "{class:?} {dtype:?} {reach}");
            }
        }
    }

    #[test]
    fn matrices_are_normal() {
        for dtype in TYPES {
            let values = decode(dtype, &bytes(&Values::new(7, &small("m", dtype)), 0, 0, 1 << 22));
            let (mean, std) = mean_and_std(&values);
            assert!(values.iter().all(|v| v.is_finite()));
            // Each bound is six standard errors or more over a million values.
            assert!(mean.abs() < 0.02 * 0.006, "{dtype:?} mean {mean}");
            assert!((std / 0.02 - 1.0).abs() < 0.006, "{dtype:?} std {std}");
            let kurtosis = values.iter().map(|v| (v / std).powi(4)).sum::<f64>() / values.len() as f64;
            assert!((kurtosis - 3.0).abs() < 0.04, "{dtype:?} kurtosis {kurtosis}");
            let (low, high) = values.iter().fold((0f64, 0f64), |(l, h), v| (l.min(*v), h.max(*v)));
            assert!(
                (-0.092..-0.08).contains(&low) && (0.08..0.092).contains(&high),
                "{dtype:?} {low} {high}"
            );
            for lag in [1, 2, 4] {
                let products = values.iter().zip(&values[lag..]).map(|(a, b)| a * b).sum::<f64>();
                let correlation = products / (values.len() - lag) as f64 / (std * std);
                assert!(correlation.abs() < 0.006, "{dtype:?} lag {lag}: {correlation}");
            }
        }
    }

    #[test]
    fn norms_lie_near_one_and_biases_near_zero() {
        for dtype in TYPES {
            let values = Values::new(7, &small("m", dtype));
            let (mean, std) = mean_and_std(&decode(dtype, &bytes(&values, 1, 0, 1 << 16)));
            assert!((mean - 1.0).abs() < 0.003 && (std - 0.05).abs() < 0.002, "{dtype:?} {mean} {std}");
            let (mean, std) = mean_and_std(&decode(dtype, &bytes(&values, 2, 0, 1 << 16)));
            assert!(mean.abs() < 0.0003 && (std - 0.005).abs() < 0.0002, "{dtype:?} {mean} {std}");
        }
    }

    #[test]
    fn single_precision_has_far_more_values_than_quantiles() {
        let values = bytes(&Values::new(0, &small("m", DType::F32)), 0, 0, 4 << 16);
        let distinct: std::collections::HashSet<&[u8]> = values.chunks_exact(4).collect();
        // With the quantiles alone, 65536 draws would give about 41000.
        assert!(distinct.len() > 65_000, "{}", distinct.len());
    }

    #[test]
    fn seeds_models_and_tensors_differ_and_scales_do_not() {
        let model = crate::origin::synthetic::model("opt-125m@0.5").unwrap();
        let whole = crate::origin::synthetic::model("opt-125m").unwrap();
        let place = |model: &Model, name: &str| model.tensors.iter().position(|t| t.name == name).unwrap();
        let names = ["fc1.weight", "fc2.weight"].map(|name| format!("model.decoder.layers.5.{name}"));
        let [first, second] = names.map(|name| (place(&model, &name), place(&whole, &name)));
        let (values, all) = (Values::new(1, &model), Values::new(1, &whole));
        assert_eq!(bytes(&values, first.0, 0, 4096), bytes(&all, first.1, 0, 4096));
        assert_ne!(bytes(&values, first.0, 0, 4096), bytes(&values, second.0, 0, 4096));
        assert_ne!(bytes(&values, first.0, 0, 4096), bytes(&Values::new(2, &model), first.0, 0, 4096));
        let other = Values::new(1, &Model { id: "other".into(), ..model });
        assert_ne!(bytes(&values, first.0, 0, 4096), bytes(&other, first.0, 0, 4096));
    }

    #[test]
    fn types_without_a_table_get_random_bits() {
        let values = Values::new(0, &small("m", DType::U8));
        assert_ne!(bytes(&values, 0, 0, 64), bytes(&values, 0, 64, 64));
    }

    /// Checkpoints that were made once, and their digests, must stay valid: this may change only on purpose.
    /// A second implementation, in Python with another quantile function, gave the same three digests.
    #[test]
    fn the_bytes_are_those_they_always_were() {
        let digests = TYPES.map(|dtype| {
            let values = Values::new(0, &small("m", dtype));
            let digest =
                (0..3).fold(Sha256::new(), |sha, index| sha.chain_update(bytes(&values, index, 3, 1 << 16)));
            digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect::<String>()
        });
        assert_eq!(digests, ["6535eb54cde0ce23", "099b4fa501e5738b", "58280fddb78f5f50"]);
    }

    proptest! {
        #[test]
        fn however_it_is_cut_a_tensor_has_the_same_bytes(
            dtype in prop::sample::select(TYPES.to_vec()),
            start in prop_oneof![0u64..64, any::<u32>().prop_map(u64::from), (u64::MAX - 4096)..(u64::MAX - 2048)],
            cuts in prop::collection::vec(0usize..40, 1..40),
        ) {
            let values = Values::new(3, &small("m", dtype));
            let whole = bytes(&values, 0, start, cuts.iter().sum());
            let mut done = 0;
            for length in cuts {
                let piece = bytes(&values, 0, start + done as u64, length);
                prop_assert_eq!(&piece[..], &whole[done..done + length]);
                done += length;
            }
        }
    }
}
