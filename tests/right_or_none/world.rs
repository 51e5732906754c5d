//! One made-up model directory: a model, a way to lay it out, and what else lies about, some of it damage.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use fastrand::Rng;
use serde_json::{Value, json};
use sha1::{Digest, Sha1};

/// What must come of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    Right,
    Refused,
    /// Two readings of the directory are fair, and only one of them is the model.
    Either,
}

impl Expect {
    /// Torch has no type of 6 bits, so that only `save` refuses it.
    pub fn or_f6(self, has_f6: bool) -> Expect {
        if has_f6 && self == Expect::Refused { Expect::Either } else { self }
    }
}

#[derive(Debug, Clone)]
pub struct Tensor {
    pub name: String,
    pub dtype: &'static str,
    pub shape: Vec<u64>,
    pub bytes: Vec<u8>,
}

/// Name in safetensors, name in torch, bits.
const DTYPES: [(&str, &str, u64); 12] = [
    ("F4", "torch.float4_e2m1fn_x2", 4),
    ("F6_E2M3", "", 6),
    ("F6_E3M2", "", 6),
    ("BOOL", "torch.bool", 8),
    ("U8", "torch.uint8", 8),
    ("F8_E4M3", "torch.float8_e4m3fn", 8),
    ("F8_E8M0", "torch.float8_e8m0fnu", 8),
    ("BF16", "torch.bfloat16", 16),
    ("F16", "torch.float16", 16),
    ("I32", "torch.int32", 32),
    ("F32", "torch.float32", 32),
    ("C64", "torch.complex64", 64),
];

pub fn safetensors_name(torch: &str) -> &'static str {
    DTYPES.iter().find(|row| row.1 == torch).unwrap().0
}

pub struct World {
    pub root: PathBuf,
    pub tensors: Vec<Tensor>,
    pub load: Expect,
    pub save: Expect,
    pub has_f6: bool,
    /// The layout and what was done to it.
    pub what: String,
    rng: Rng,
    /// The files of the model, by their paths; what each holds.
    shards: Vec<(String, Vec<Tensor>)>,
    index: Option<&'static str>,
    /// Each name says how many there are, and the first is 1.
    says_total: bool,
    /// A file that the operator named, instead of the directory.
    single: Option<String>,
}

impl World {
    pub fn new(root: &Path, seed: u64) -> World {
        let mut rng = Rng::with_seed(seed);
        let tensors = model(&mut rng);
        let has_f6 = tensors.iter().any(|t| t.dtype.starts_with("F6"));
        let mut world = World {
            root: root.to_path_buf(),
            tensors,
            load: Expect::Right,
            save: if has_f6 { Expect::Refused } else { Expect::Right },
            has_f6,
            what: String::new(),
            rng,
            shards: Vec::new(),
            index: None,
            says_total: false,
            single: None,
        };
        world.lay_out();
        world.write_all();
        for _ in 0..world.rng.u32(0..4) {
            world.add_harmless();
        }
        if world.rng.u32(0..10) < 4 {
            world.damage();
        }
        world
    }

    /// What is opened.
    pub fn path(&self) -> PathBuf {
        self.single.as_ref().map_or(self.dir(), |name| self.at(name))
    }

    fn dir(&self) -> PathBuf {
        self.root.join("models/m")
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        let path = self.at(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn has(&self, name: &str) -> bool {
        self.at(name).symlink_metadata().is_ok()
    }

    /// Shares the tensors out to files with names as they come.
    fn lay_out(&mut self) {
        let count = self.rng.usize(1..5);
        let name: Box<dyn Fn(usize) -> String> = match self.rng.u32(0..20) {
            12 => Box::new(move |i| format!("{:05}-of-{count:05}.safetensors", i + 1)),
            13 => Box::new(move |i| format!("model-part{}of{count}.safetensors", i + 1)),
            14 => Box::new(move |i| format!("model-{:05}-of-{count:05}-bf16.safetensors", i + 1)),
            15 => Box::new(move |i| format!("model-{:05} of {count:05} (1).safetensors", i + 1)),
            16 => Box::new(|i| format!("part_{}.SafeTensors", ["a", "b", "c", "d"][i])),
            0 => Box::new(move |i| format!("model-{:05}-of-{count:05}.safetensors", i + 1)),
            1 => Box::new(move |i| format!("model-{:05}-of-{:05}.safetensors", i, count - 1)),
            2 => Box::new(move |i| format!("model-{:06}-of-{count:06}.safetensors", i + 1)),
            3 => Box::new(move |i| format!("model-{}-of-{count}.safetensors", i + 1)),
            4 => Box::new(move |i| format!("model-{:05}-of-{count:06}.safetensors", i + 1)),
            5 => Box::new(move |i| format!("consolidated-{:05}-of-{count:05}.safetensors", i + 1)),
            6 => Box::new(|i| format!("part_{}.safetensors", ["a", "b", "c", "d"][i])),
            7 => Box::new(|i| format!("model.layers.{i}/layer.safetensors")),
            8 => Box::new(|i| format!("model.layers.{i}.safetensors")),
            17 => Box::new(|i| format!("consolidated.{i:02}.safetensors")),
            18 => Box::new(|i| format!("model-rank-{i}-part-0.safetensors")),
            19 => Box::new(move |i| format!("m{i}-mp{count}.safetensors")),
            single => {
                let names = ["model", "weights", "adapter_model", "consolidated", "model.fp16", "lora"];
                let name = format!("{}.safetensors", names[self.rng.usize(..names.len())]);
                self.shards = vec![(name.clone(), self.tensors.clone())];
                self.index = (single == 9 && self.rng.bool()).then_some("model.safetensors.index.json");
                self.single = (single == 10).then_some(name);
                self.what = format!("{:?}", self.shards[0].0);
                return;
            }
        };
        let mut shards: Vec<(String, Vec<Tensor>)> = (0..count).map(|i| (name(i), Vec::new())).collect();
        for tensor in self.tensors.clone() {
            shards[self.rng.usize(..count)].1.push(tensor);
        }
        // One numbered from 0 to 0 of 0, and what lies in folders, only an index tells.
        let first = shards[0].0.clone();
        let needs_index = first.contains('/') || (first.contains("-00000-of-") && count == 1);
        if needs_index || self.rng.bool() {
            let other = ["model.safetensors.index.json", "x.safetensors.index.json"];
            self.index = Some(other[usize::from(self.rng.u32(0..5) == 0)]);
            // A shard that the index does not name is none.
            shards.retain(|(_, tensors)| !tensors.is_empty());
        }
        self.says_total =
            ["-of-", " of ", "of"].iter().any(|of| first.contains(of)) && !first.contains("-00000-of-");
        self.what = format!("{} files like {:?}, index {:?}", shards.len(), shards[0].0, self.index);
        self.shards = shards;
    }

    fn write_all(&mut self) {
        for (name, tensors) in self.shards.clone() {
            let file = safetensors(&mut self.rng, &tensors);
            self.put(&name, &file);
        }
        self.write_index(&[]);
        self.put("config.json", b"{}");
    }

    /// The index, with more names than there are.
    fn write_index(&self, more: &[(&str, &str)]) {
        let Some(index) = self.index else { return };
        let mut map: BTreeMap<&str, &str> = more.iter().copied().collect();
        for (file, tensors) in &self.shards {
            map.extend(tensors.iter().map(|t| (t.name.as_str(), file.as_str())));
        }
        let total: usize = self.tensors.iter().map(|t| t.bytes.len()).sum();
        self.put(index, json!({"metadata": {"total_size": total}, "weight_map": map}).to_string().as_bytes());
    }

    /// The index without one of the shards of a set; its total is that of before, or gone.
    fn cut_index(&mut self, shard: &str) -> Option<String> {
        let (number, _) =
            shard.strip_prefix("model-").or(shard.strip_prefix("consolidated-"))?.split_once("-of-")?;
        // Without its last file, a set from 0 looks like one that numbers its files from 0.
        let from_0 = self.shards.iter().any(|(name, _)| name.contains("-00000-of-"));
        let last = self.shards.iter().map(|(name, _)| name.as_str()).max() == Some(shard);
        let has_bytes =
            self.shards.iter().any(|(n, tensors)| n == shard && tensors.iter().any(|t| !t.bytes.is_empty()));
        if self.shards.len() < 2 || !has_bytes || (from_0 && (last || number == "00000")) {
            return None;
        }
        let path = self.at(self.index?);
        let mut index: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        index["weight_map"].as_object_mut().unwrap().retain(|_, file| file != shard);
        let keeps_total = self.rng.bool();
        if !keeps_total {
            index["metadata"] = json!({});
        }
        fs::write(&path, index.to_string()).unwrap();
        if self.rng.bool() {
            fs::remove_file(self.at(shard)).unwrap();
        }
        Some(format!("the index does not name {shard}, total kept: {keeps_total}"))
    }

    fn stray(&mut self, name: &str) -> Vec<u8> {
        let mut tensor = any_tensor(&mut self.rng, name.to_string());
        // As often under a name that the model has.
        if self.rng.bool() {
            tensor.name = self.tensors[0].name.clone();
        }
        safetensors(&mut self.rng, &[tensor])
    }

    /// Adds something that leaves the model what it is.
    fn add_harmless(&mut self) {
        let what = match self.rng.u32(0..15) {
            0 => self.put_new("._model.safetensors", b"\0\x05\x16\x07\0\x02\0\0Mac OS X"),
            1 => self.put_new(".cache/x.safetensors", b"half"),
            2 => self.put_new("tensor.data_0", &b"STALE".repeat(100)),
            3 => self.put_new("sllm_gds.json", b"{\"version\": 77}"),
            4 => self.put_new("x-Q4.gguf", b"GGUF\x03\0\0\0"),
            5 => self.put_new("pytorch_model.bin", b"PK\x03\x04"),
            6 => self.put_new("1_Pooling/config.json", b"{}"),
            7 => {
                let file = self.stray("linear.weight");
                self.put_new("modules.json", br#"[{"path": ""}, {"path": "2_Dense"}]"#);
                self.put_new("2_Dense/model.safetensors", &file)
            }
            8 => {
                let file = self.stray("original.weight");
                self.put_new("original/model.safetensors", &file)
            }
            9 if self.is_surely_whole() => {
                let name = self.a_download_of("model-00001-of-00009.safetensors");
                self.put_new(&name, b"half")
            }
            10 if self.index.is_some() || self.single.is_some() || self.is_of_model() => {
                let file = self.stray("mtp.weight");
                self.put_new("mtp.safetensors", &file)
            }
            11 if self.index.is_some() || self.single.is_some() || self.is_of_model() => {
                let file = self.stray("consolidated.weight");
                self.put_new("consolidated.safetensors", &file)
            }
            12 => self.link_a_shard(),
            13 => self.double_a_tensor(),
            14 if self.is_of_model() && self.index != Some("x.safetensors.index.json") => {
                let map = json!({"weight_map": {"a": "adapter_model.safetensors"}}).to_string();
                self.put_new("adapter_model.safetensors.index.json", map.as_bytes())
            }
            _ => None,
        };
        self.note(what);
    }

    fn note(&mut self, what: Option<String>) {
        if let Some(what) = what {
            self.what.push_str(&format!(" + {what}"));
        }
    }

    fn put_new(&self, name: &str, bytes: &[u8]) -> Option<String> {
        (!self.has(name)).then(|| self.put(name, bytes))?;
        Some(name.to_string())
    }

    /// Whether the names alone put the model's files before others.
    fn is_of_model(&self) -> bool {
        self.shards.iter().all(|(name, _)| name.starts_with("model") && !name.contains('/'))
    }

    /// Whether no file could be missing: an index or totals in the names say so, or transformers' single file.
    fn is_surely_whole(&self) -> bool {
        let is_single = self.shards.len() == 1 && self.shards[0].0 == "model.safetensors";
        self.index.is_some() || self.single.is_some() || self.says_total || is_single || self.is_from_0()
    }

    fn is_from_0(&self) -> bool {
        self.shards.iter().any(|(name, _)| name.contains("-00000-of-"))
    }

    /// What an unfinished download or copy of this file leaves.
    fn a_download_of(&mut self, path: &str) -> String {
        let endings = ["aria2", "part", "incomplete", "crdownload", "6eF5d2Ab", "lftp-pget-status"];
        let end = endings[self.rng.usize(..endings.len())];
        let hub = [".cache/huggingface/download/", ".huggingface/download/"][self.rng.usize(..2)];
        let (dir, file) = path.split_at(path.rfind('/').map_or(0, |at| at + 1));
        match self.rng.u32(0..7) {
            0 => format!("{hub}{path}.0a1b2c.incomplete"),
            1 => format!("{hub}{dir}{}.0a1b2c.incomplete", short_hash(file)),
            2 => format!("{dir}.{file}.Xa12bC"),
            3 => [".rsync-partial/", "._____temp/", ".~tmp~/"][self.rng.usize(..3)].to_string() + path,
            _ => format!("{path}.{end}"),
        }
    }

    /// Moves a shard to where a link may lead: beside the model, or into a hub's cache.
    fn link_a_shard(&mut self) -> Option<String> {
        let name = self.shards[self.rng.usize(..self.shards.len())].0.clone();
        let path = self.at(&name);
        if path.is_symlink() {
            return None;
        }
        let place = ["models/beside", "hub/models--a--b/blobs"][self.rng.usize(..2)];
        let target = self.root.join(place).join(format!("{:016x}", self.rng.u64(..)));
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::rename(&path, &target).unwrap();
        symlink(&target, &path).unwrap();
        Some(format!("link {name} to {place}"))
    }

    /// The same name in a second shard with other bytes; the index says which counts.
    fn double_a_tensor(&mut self) -> Option<String> {
        if self.index.is_none() || self.shards.len() < 2 {
            return None;
        }
        let from = self.rng.usize(..self.shards.len());
        let to = (from + 1) % self.shards.len();
        let mut twin = self.shards[from].1.first()?.clone();
        twin.bytes.iter_mut().for_each(|byte| *byte ^= 1);
        let (name, mut tensors) = self.shards[to].clone();
        if tensors.iter().any(|t| t.name == twin.name) {
            return None;
        }
        tensors.push(twin);
        let file = safetensors(&mut self.rng, &tensors);
        // Written anew, through a link if it is one by now.
        fs::write(self.at(&name), file).unwrap();
        Some(format!("a tensor twice, also in {name}"))
    }

    /// Makes the directory one that nobody can read rightly.
    fn damage(&mut self) {
        let shard = self.shards[self.rng.usize(..self.shards.len())].0.clone();
        let path = self.at(&shard);
        let named = self.index.is_some();
        let what = match self.rng.u32(0..20) {
            0 => {
                let bytes = fs::read(&path).unwrap();
                let cut = self.rng.usize(1..=bytes.len());
                fs::write(&path, &bytes[..bytes.len() - cut]).unwrap();
                Some(format!("{shard} cut by {cut} bytes"))
            }
            1 => {
                fs::write(&path, [fs::read(&path).unwrap(), vec![0; self.rng.usize(1..9)]].concat()).unwrap();
                Some(format!("{shard} grown"))
            }
            2 => {
                let texts: [&[u8]; 6] = [
                    b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 1\n",
                    b"GGUF\x03\0\0\0\x01\0\0\0",
                    b"PK\x03\x04\0\0\0\0\0\0",
                    b"<!DOCTYPE html><html></html>",
                    &[0; 4096],
                    b"",
                ];
                fs::write(&path, texts[self.rng.usize(..texts.len())]).unwrap();
                Some(format!("{shard} is something else"))
            }
            3 => {
                fs::remove_file(&path).unwrap();
                symlink("nowhere", &path).unwrap();
                Some(format!("{shard} a link to nowhere"))
            }
            4 if self.single.is_none() => {
                let outside = self.root.join("outside");
                fs::create_dir_all(&outside).unwrap();
                fs::rename(path.canonicalize().unwrap(), outside.join("x")).unwrap();
                if path.is_symlink() {
                    fs::remove_file(&path).unwrap();
                }
                symlink(outside.join("x"), &path).unwrap();
                Some(format!("{shard} a link out of bounds"))
            }
            5 if named => {
                self.write_index(&[("ghost", &shard)]);
                Some("the index names a ghost".into())
            }
            6 if named => {
                self.write_index(&[("ghost", "../beside.safetensors")]);
                Some("the index leads out".into())
            }
            7 if named => {
                self.put(self.index.unwrap(), b"{\"metadata\": {}, \"weight_map\": {}}");
                Some("the index is empty".into())
            }
            8 if named => {
                self.put(self.index.unwrap(), b"{\"weight_map\": {\"a\": ");
                Some("the index is cut".into())
            }
            9 if self.can_miss(&shard) => {
                fs::remove_file(&path).unwrap();
                Some(format!("{shard} missing"))
            }
            10 if self.single.is_none() => {
                symlink("nowhere", self.at("tokenizer.json")).unwrap();
                // A load takes no tokenizer.
                self.save = Expect::Refused;
                self.has_f6 = false;
                self.note(Some("tokenizer.json a link to nowhere".into()));
                return;
            }
            11 if !named && self.single.is_none() && self.is_of_model() && self.shards.len() > 1 => {
                let file = self.stray("other.weight");
                let set = self.shards[0].0.contains("-of-");
                set.then(|| self.put_new("model-00001-of-00077.safetensors", &file)).flatten()
            }
            12 if named => self.cut_index(&shard),
            13 | 14 => {
                // Space is reserved first, and filled as the bytes come.
                let name = self.a_download_of(&shard);
                let bytes = fs::read(&path).unwrap();
                let header_bytes = 8 + u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
                let zeros = vec![0; bytes.len() - header_bytes];
                fs::write(&path, [&bytes[..header_bytes], &zeros].concat()).unwrap();
                self.put_new(&name, b"half")
            }
            15 if !self.is_surely_whole() => {
                let name = self.a_download_of("part_e.safetensors");
                self.put_new(&name, b"half")
            }
            16 if named => self.cut_index_and_keep_its_total(&shard),
            17 if !named && shard.starts_with("model.layers.") => self.lose_a_layer(),
            19 if !named => self.lose_number_0(),
            18 if !self.is_surely_whole() && !self.has("modules.json") => {
                let file = self.stray("model.layers.0.weight");
                self.put_new("model.layers.0/layer.safetensors", &file)
            }
            _ => None,
        };
        if what.is_some() {
            (self.load, self.save, self.has_f6) = (Expect::Refused, Expect::Refused, false);
        }
        self.note(what);
    }

    /// Whether names or index tell that this shard was there: not where its number could be one past the last.
    fn can_miss(&self, shard: &str) -> bool {
        if self.index.is_some() {
            // With the single file that remains, an index left from elsewhere would do.
            return !self.has("model.safetensors");
        }
        // Of a set from 0, its last number tells no more than the one before.
        let from_0 = shard.contains("-of-") && self.is_from_0() && !shard.contains("-00000-of-");
        self.shards.len() > 1 && (self.says_total || from_0)
    }

    /// The index without one of several files that no numbers join; its total still counts that.
    fn cut_index_and_keep_its_total(&mut self, shard: &str) -> Option<String> {
        let has_bytes =
            self.shards.iter().any(|(n, tensors)| n == shard && tensors.iter().any(|t| !t.bytes.is_empty()));
        if self.shards.len() < 2 || !has_bytes {
            return None;
        }
        let path = self.at(self.index?);
        let mut index: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        index["weight_map"].as_object_mut().unwrap().retain(|_, file| file != shard);
        fs::write(&path, index.to_string()).unwrap();
        Some(format!("the index does not name {shard}, and its total counts it"))
    }

    /// Of files that count from 0, the first is missing.
    fn lose_number_0(&mut self) -> Option<String> {
        let name = self.shards.iter().map(|(name, _)| name).min().cloned()?;
        let is_first =
            ["consolidated.00.", "model-rank-0-", "m0-mp"].iter().any(|head| name.starts_with(head));
        (is_first && self.shards.len() > 1).then(|| fs::remove_file(self.at(&name)).unwrap())?;
        Some(format!("{name} missing"))
    }

    /// A layer in the middle is missing.
    fn lose_a_layer(&mut self) -> Option<String> {
        let last = self.shards.len().checked_sub(1).filter(|last| *last >= 2)?;
        let name = self.shards[self.rng.usize(1..last)].0.clone();
        fs::remove_file(self.at(&name)).unwrap();
        Some(format!("{name} missing"))
    }
}

/// As huggingface_hub names what it is fetching: the SHA-1 of `<name>.metadata` in base64.
fn short_hash(file: &str) -> String {
    let hash = Sha1::digest(format!("{file}.metadata"));
    let bits: String = hash.iter().map(|byte| format!("{byte:08b}")).collect();
    let digits: Vec<u8> = (b'A'..=b'Z').chain(b'a'..=b'z').chain(b'0'..=b'9').chain(*b"-_").collect();
    // 160 bits are 26 digits and 4 bits more.
    let six = |at: usize| usize::from_str_radix(&format!("{:0<6}", &bits[at..(at + 6).min(160)]), 2).unwrap();
    (0..160).step_by(6).map(|at| char::from(digits[six(at)])).chain(['=']).collect()
}

/// A checkpoint in ServerlessLLM's layout as its writer or ours makes it, without a manifest, perhaps resized.
pub struct Partitions {
    pub dir: PathBuf,
    pub tensors: Vec<Tensor>,
    pub is_resized: bool,
    pub what: String,
}

impl Partitions {
    pub fn new(root: &Path, seed: u64) -> Partitions {
        let mut rng = Rng::with_seed(seed);
        let mut tensors = model(&mut rng);
        tensors.retain(|t| !t.dtype.starts_with("F6") && !t.dtype.starts_with("F4") && !t.bytes.is_empty());
        if tensors.is_empty() {
            tensors = vec![Tensor { name: "w".into(), dtype: "U8", shape: vec![9], bytes: vec![7; 9] }];
        }
        // Theirs pads a tensor to 8 bytes, ours to 256, and each partition to a page.
        let (align, page) = if rng.bool() { (8, 1) } else { (256, 4096) };
        let count = rng.usize(1..4);
        let mut files: Vec<Vec<u8>> = vec![Vec::new()];
        let mut index = serde_json::Map::new();
        // Of each file, where its tensors begin.
        let mut starts: Vec<Vec<usize>> = vec![Vec::new()];
        let mut base = 0;
        for tensor in &tensors {
            let at = files.last().unwrap().len().next_multiple_of(align);
            let file = files.last_mut().unwrap();
            file.resize(at, 0);
            let is_full = at > 0 && rng.bool();
            if is_full && files.len() < count {
                let file = files.last_mut().unwrap();
                file.resize(at.next_multiple_of(page), 0);
                base += file.len();
                files.push(Vec::new());
                starts.push(Vec::new());
            }
            let file = files.last_mut().unwrap();
            let torch = DTYPES.iter().find(|row| row.0 == tensor.dtype).unwrap().1;
            let stride: Vec<u64> =
                (0..tensor.shape.len()).map(|axis| tensor.shape[axis + 1..].iter().product()).collect();
            let entry = json!([base + file.len(), tensor.bytes.len(), tensor.shape, stride, torch]);
            index.insert(tensor.name.clone(), entry);
            starts.last_mut().unwrap().push(file.len());
            file.extend(&tensor.bytes);
        }
        let last = files.last_mut().unwrap();
        last.resize(last.len().next_multiple_of(align).next_multiple_of(page), 0);
        let what = format!("{} partitions, aligned to {align}", files.len());
        let mut made = Partitions { dir: root.join("models/m"), tensors, is_resized: false, what };
        made.resize(&mut rng, &mut files, &starts);
        fs::create_dir_all(&made.dir).unwrap();
        for (i, file) in files.iter().enumerate() {
            fs::write(made.dir.join(format!("tensor.data_{i}")), file).unwrap();
        }
        fs::write(made.dir.join("tensor_index.json"), Value::Object(index).to_string()).unwrap();
        made
    }

    /// Bytes lost or won at a partition's end, by less than a page; as often won at another's what one lost.
    fn resize(&mut self, rng: &mut Rng, files: &mut [Vec<u8>], starts: &[Vec<usize>]) {
        if rng.bool() {
            return;
        }
        let at = rng.usize(..files.len());
        let most = files[at].len().min(4095);
        let lost = [rng.usize(1..=most), (rng.usize(1..=most) / 8 * 8).max(1)][rng.usize(..2)];
        let kept = files[at].len() - lost;
        let other = (at + 1) % files.len();
        let wins = rng.bool() && files.len() > 1;
        // Where the next file's first byte is another tensor's then, it looks as if that were its first: nobody can tell.
        let base = |file: usize| files[..file].iter().map(Vec::len).sum::<usize>();
        let begins_at = |place: usize| {
            (0..files.len()).any(|file| starts[file].iter().any(|start| base(file) + start == place))
        };
        let looks_whole =
            starts[at].contains(&kept) || (wins && other < at && begins_at(base(other + 1) + lost));
        if files.len() > 1 && looks_whole {
            return;
        }
        files[at].truncate(kept);
        self.what.push_str(&format!(", {lost} bytes of number {at} lost"));
        if wins {
            let grown = files[other].len() + lost;
            files[other].resize(grown, 0);
            self.what.push_str(&format!(" and won by number {other}"));
        }
        self.is_resized = true;
    }
}

fn model(rng: &mut Rng) -> Vec<Tensor> {
    let names = [
        "model.embed.weight",
        "model.layers.0.w",
        "model.layers.10.w",
        "model.layers.2.w",
        "lm_head.weight",
        "",
        " ",
        "größe \"x\"",
        "new\nline",
        "日本語",
        ".",
        "model.norm",
        "\u{1b}[31mred",
    ];
    let count = rng.usize(1..9);
    let mut chosen = names.to_vec();
    rng.shuffle(&mut chosen);
    chosen.truncate(count);
    chosen.into_iter().map(|name| any_tensor(rng, name.to_string())).collect()
}

fn any_tensor(rng: &mut Rng, name: String) -> Tensor {
    // Rarely one that torch has no name for: a save refuses the whole model for it.
    let first = if rng.u32(0..60) == 0 { 1 } else { 3 };
    let row = if rng.u32(0..10) == 0 { 0 } else { rng.usize(first..DTYPES.len()) };
    let (dtype, _, bits) = DTYPES[row];
    let mut shape: Vec<u64> = (0..rng.usize(0..4)).map(|_| rng.u64(0..7)).collect();
    if bits < 8 {
        // Whole bytes, and whole pairs along the last axis.
        shape.push(4 * rng.u64(0..5));
    }
    let bytes = (shape.iter().product::<u64>() * bits / 8) as usize;
    Tensor { name, dtype, shape, bytes: (0..bytes).map(|_| rng.u8(..)).collect() }
}

/// A file of these tensors, with any of the headers that the library reads.
fn safetensors(rng: &mut Rng, tensors: &[Tensor]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    match rng.u32(0..4) {
        0 => drop(header.insert("__metadata__".into(), Value::Null)),
        1 => drop(header.insert("__metadata__".into(), json!({"format": "pt", "by": "x"}))),
        2 => drop(header.insert("__metadata__".into(), json!({}))),
        _ => {}
    }
    let mut data = Vec::new();
    for t in tensors {
        let ends = [data.len(), data.len() + t.bytes.len()];
        header.insert(t.name.clone(), json!({"dtype": t.dtype, "shape": t.shape, "data_offsets": ends}));
        data.extend_from_slice(&t.bytes);
    }
    let mut text = Value::Object(header).to_string();
    text.push_str(&" ".repeat(rng.usize(0..9)));
    [&(text.len() as u64).to_le_bytes(), text.as_bytes(), &data].concat()
}
