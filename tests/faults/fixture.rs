//! Small checkpoints with known bytes, in every layout, of sizes that are no multiple of anything.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sllm_gds::checkpoint::{DType, contiguous_stride};
use sllm_gds::origin::input;
use sllm_gds::os::cancel::Cancel;
use sllm_gds::os::progress::Progress;
use sllm_gds::write::save::{Layout, save};
use tempfile::TempDir;

/// What every tensor must hold, by name: made without any code of the loader.
pub type Pristine = BTreeMap<String, Vec<u8>>;

pub struct Made {
    pub name: String,
    pub dtype: DType,
    pub shape: Vec<u64>,
    pub bytes: Vec<u8>,
}

/// One model three ways below one directory: about 95 KB each.
pub struct Fixture {
    pub root: TempDir,
    pub pristine: Pristine,
}

impl Fixture {
    /// On a disk, where O_DIRECT works; /tmp may be memory.
    pub fn new() -> Fixture {
        Fixture::new_in(Path::new(env!("CARGO_TARGET_TMPDIR")))
    }

    pub fn new_in(dir: &Path) -> Fixture {
        let root = tempfile::tempdir_in(dir).unwrap();
        let made = model();
        write_shards(&root.path().join("safetensors"), &made);
        write_foreign(&root.path().join("foreign"), &made);
        let input = input::open(
            root.path().join("safetensors").to_str().unwrap(),
            0,
            None,
            &Cancel::new(),
            &Progress::silent(),
        );
        let input = input.unwrap();
        let layout = Layout::new(&input, 3, 20_000).unwrap();
        save(&input, &layout, &root.path().join("ours"), false, &Cancel::new(), &Progress::silent()).unwrap();
        let pristine = made.into_iter().map(|t| (t.name, t.bytes)).collect();
        Fixture { root, pristine }
    }

    /// Two shards and their index.
    pub fn safetensors(&self) -> PathBuf {
        self.root.path().join("safetensors")
    }

    /// Our layout: three groups, partitions of up to 20,000 bytes, a manifest.
    pub fn ours(&self) -> PathBuf {
        self.root.path().join("ours")
    }

    /// ServerlessLLM's layout as another writer leaves it: packed, unpadded, no manifest, a tied tensor.
    pub fn foreign(&self) -> PathBuf {
        self.root.path().join("foreign")
    }
}

fn model() -> Vec<Made> {
    let mut specs = vec![("model.embed.weight".to_string(), DType::BF16, vec![701, 13])];
    for layer in 0..6 {
        specs.push((format!("model.layers.{layer}.w"), DType::F32, vec![37, 29]));
        specs.push((format!("model.layers.{layer}.q"), DType::U8, vec![4099]));
        specs.push((format!("model.layers.{layer}.b"), DType::BF16, vec![33]));
        specs.push((format!("model.layers.{layer}.flag"), DType::BOOL, vec![]));
    }
    specs.push(("model.norm.weight".into(), DType::F32, vec![61]));
    specs.push(("lm_head.weight".into(), DType::F16, vec![523, 17]));
    specs.push(("lm_head.nothing".into(), DType::I64, vec![0, 4]));
    let mut rng = fastrand::Rng::with_seed(7);
    let fill = |(name, dtype, shape): (String, DType, Vec<u64>)| {
        let mut bytes = vec![0u8; dtype.bytes_of(shape.iter().product()).unwrap() as usize];
        rng.fill(&mut bytes);
        Made { name, dtype, shape, bytes }
    };
    specs.into_iter().map(fill).collect()
}

fn write_shards(dir: &Path, made: &[Made]) {
    fs::create_dir(dir).unwrap();
    let mut weight_map = serde_json::Map::new();
    for (shard, tensors) in made.chunks(made.len() / 2 + 1).enumerate() {
        let file = format!("model-{}-of-2.safetensors", shard + 1);
        fs::write(dir.join(&file), safetensors(tensors)).unwrap();
        weight_map.extend(tensors.iter().map(|t| (t.name.clone(), Value::from(file.as_str()))));
    }
    let index = json!({ "metadata": {}, "weight_map": weight_map });
    fs::write(dir.join("model.safetensors.index.json"), index.to_string()).unwrap();
}

/// The bytes of one safetensors file.
pub fn safetensors(tensors: &[Made]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".into(), json!({ "format": "pt" }));
    let mut data = Vec::new();
    for t in tensors {
        let ends = [data.len(), data.len() + t.bytes.len()];
        let info = json!({ "dtype": t.dtype.safetensors_name(), "shape": t.shape, "data_offsets": ends });
        header.insert(t.name.clone(), info);
        data.extend_from_slice(&t.bytes);
    }
    let header = Value::Object(header).to_string();
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat()
}

fn write_foreign(dir: &Path, made: &[Made]) {
    fs::create_dir(dir).unwrap();
    let mut index = serde_json::Map::new();
    let mut base = 0usize;
    for (partition, tensors) in made.chunks(made.len() / 3 + 1).enumerate() {
        let mut data = Vec::new();
        for t in tensors {
            let (at, bytes, stride) = (base + data.len(), t.bytes.len(), contiguous_stride(&t.shape));
            index.insert(t.name.clone(), json!([at, bytes, t.shape, stride, t.dtype.torch_name()]));
            data.extend_from_slice(&t.bytes);
        }
        fs::write(dir.join(format!("tensor.data_{partition}")), &data).unwrap();
        base += data.len();
    }
    fs::write(dir.join("tensor_index.json"), Value::Object(index).to_string()).unwrap();
}
