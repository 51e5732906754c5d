//! A model that packs: values as training leaves them, in types that pack and some that do not, over several windows.

#![allow(dead_code, reason = "every test file uses its own part")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::TensorView;

/// What each tensor must hold, by name: made without any code of the program.
pub type Pristine = BTreeMap<String, Vec<u8>>;

/// Normals with a scale of their own, as bits of an f32.
fn normals(count: usize, scale: f32, random: &mut fastrand::Rng) -> impl Iterator<Item = u32> + '_ {
    (0..count).map(move |_| {
        let (a, b) = (random.f32().max(1e-9), random.f32());
        (scale * (-2.0 * a.ln()).sqrt() * (std::f32::consts::TAU * b).cos()).to_bits()
    })
}

/// A float of fewer bits from one of 32, cut off: sign, exponent and the first bits of the mantissa.
fn narrow(bits: u32, exponent_bits: u32, mantissa_bits: u32) -> u32 {
    let bias = (1 << (exponent_bits - 1)) - 1;
    let exponent = ((bits >> 23 & 0xff) as i32 - 127 + bias).clamp(0, (1 << exponent_bits) - 2) as u32;
    let mantissa = (bits & 0x7f_ffff) >> (23 - mantissa_bits);
    bits >> 31 << (exponent_bits + mantissa_bits) | exponent << mantissa_bits | mantissa
}

fn values(dtype: Dtype, count: usize, random: &mut fastrand::Rng) -> Vec<u8> {
    let narrowed = |scale, exponent, mantissa, random: &mut fastrand::Rng| -> Vec<u32> {
        normals(count, scale, random).map(|bits| narrow(bits, exponent, mantissa)).collect()
    };
    match dtype {
        Dtype::BF16 => {
            narrowed(0.02, 8, 7, random).into_iter().flat_map(|v| (v as u16).to_le_bytes()).collect()
        }
        Dtype::F16 => {
            narrowed(0.02, 5, 10, random).into_iter().flat_map(|v| (v as u16).to_le_bytes()).collect()
        }
        Dtype::F8_E4M3 => narrowed(1.0, 4, 3, random).into_iter().map(|v| v as u8).collect(),
        Dtype::F8_E5M2 => narrowed(1.0, 5, 2, random).into_iter().map(|v| v as u8).collect(),
        _ => (0..count * dtype.bitsize() / 8).map(|_| random.u8(..)).collect(),
    }
}

/// Name, type, shape.
pub type Named = (&'static str, Dtype, &'static [usize]);

/// Enough to find faults in: two windows and a bit.
pub const SMALL: [Named; 4] = [
    ("a.weight", Dtype::BF16, &[600, 1024]),
    ("b.weight", Dtype::F16, &[300, 700]),
    ("c.weight", Dtype::F8_E4M3, &[300, 777]),
    ("d.bias", Dtype::F32, &[700]),
];

/// All sorts.
pub const TENSORS: [Named; 12] = [
    ("model.embed.weight", Dtype::BF16, &[1300, 1031]),
    ("model.norm.weight", Dtype::BF16, &[1031]),
    ("model.layers.0.up.weight", Dtype::F16, &[700, 513]),
    ("model.layers.0.up.bias", Dtype::F32, &[513]),
    ("model.layers.1.up.weight", Dtype::F8_E4M3, &[700, 513]),
    ("model.layers.1.scale", Dtype::F32, &[]),
    ("model.layers.2.up.weight", Dtype::F8_E5M2, &[650, 517]),
    ("model.layers.2.steps", Dtype::I64, &[3]),
    ("model.layers.3.up.weight", Dtype::BF16, &[129, 64, 33]),
    ("model.layers.3.nothing", Dtype::BF16, &[0, 7]),
    ("model.layers.3.noise", Dtype::U8, &[300, 1000]),
    ("lm_head.weight", Dtype::BF16, &[700, 1031]),
];

/// Writes all sorts. What each tensor holds.
pub fn write(dir: &Path) -> Pristine {
    write_these(dir, &TENSORS)
}

/// Writes tensors as two safetensors shards with their index and a config. What each holds.
pub fn write_these(dir: &Path, tensors: &[Named]) -> Pristine {
    fs::create_dir_all(dir).unwrap();
    let mut random = fastrand::Rng::with_seed(16);
    let mut all = Pristine::new();
    let mut weight_map = serde_json::Map::new();
    for (number, shard) in tensors.chunks(tensors.len().div_ceil(2)).enumerate() {
        let file = format!("model-{:05}-of-00002.safetensors", number + 1);
        let bytes: Vec<Vec<u8>> = shard
            .iter()
            .map(|(_, dtype, shape)| values(*dtype, shape.iter().product(), &mut random))
            .collect();
        let views = shard.iter().zip(&bytes).map(|((name, dtype, shape), bytes)| {
            (*name, TensorView::new(*dtype, shape.to_vec(), bytes).unwrap())
        });
        let metadata = [("format".to_string(), "pt".to_string())].into();
        safetensors::serialize_to_file(views, Some(metadata), &dir.join(&file)).unwrap();
        for ((name, ..), bytes) in shard.iter().zip(bytes) {
            weight_map.insert(name.to_string(), file.clone().into());
            all.insert(name.to_string(), bytes);
        }
    }
    let index = serde_json::json!({ "metadata": { "total_size": 1 }, "weight_map": weight_map });
    fs::write(dir.join("model.safetensors.index.json"), index.to_string()).unwrap();
    fs::write(dir.join("config.json"), "{\"model_type\": \"odd\"}\n").unwrap();
    all
}
