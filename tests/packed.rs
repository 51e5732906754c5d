//! Packed checkpoints through the public face: every way to load them, and what becomes of damaged ones.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sllm_gds::checkpoint::packed::{Chunk, Decoder};
use sllm_gds::gpu::scatter::Targets;
use sllm_gds::load::jobs::to_unpack;
use sllm_gds::load::plan::{Plan, Spacing};
use sllm_gds::origin::input;
use sllm_gds::os::progress::Progress;
use sllm_gds::write::pack;
use sllm_gds::{
    ByteRange, Cancel, Checkpoint, Device, Error, IoChoice, Loader, Memory, Request, Select, Slice, Target,
    To,
};
use tempfile::TempDir;

#[path = "packed/faults.rs"]
mod faults;
#[path = "packed/model.rs"]
mod model;
#[path = "packed/pool.rs"]
mod pool;

use model::Pristine;

/// A model and its packed twin, below one directory.
struct Fixture {
    root: TempDir,
    pristine: Pristine,
}

impl Fixture {
    /// On a disk, where O_DIRECT works.
    fn new(tensors: &[model::Named]) -> Fixture {
        Fixture::new_in(Path::new(env!("CARGO_TARGET_TMPDIR")), tensors)
    }

    fn new_in(dir: &Path, tensors: &[model::Named]) -> Fixture {
        let root = tempfile::tempdir_in(dir).unwrap();
        let pristine = model::write_these(&root.path().join("source"), tensors);
        let input = input::of_checkpoint(Checkpoint::open(root.path().join("source")).unwrap()).unwrap();
        let layout = pack::layout(&input, 2, 2 << 20).unwrap();
        let to = root.path().join("packed");
        pack::save(&input, &layout, &to, false, &Cancel::new(), &Progress::silent()).unwrap();
        Fixture { root, pristine }
    }

    fn packed(&self) -> PathBuf {
        self.root.path().join("packed")
    }

    fn open(&self) -> Checkpoint {
        Checkpoint::open(self.packed()).unwrap()
    }
}

#[test]
fn every_way_of_reading_brings_the_very_bytes() {
    let fixture = Fixture::new(&model::TENSORS);
    let checkpoint = fixture.open();
    assert_eq!(checkpoint.layout.to_string(), "packed");
    assert!(checkpoint.files.len() > 2, "tensors lie in several files");
    for io in [IoChoice::Buffered, IoChoice::Direct, IoChoice::Auto] {
        for (threads, chunk_bytes) in [(1, 4096), (3, 100 << 10), (4, 2 << 20), (2, 5 << 20)] {
            let loader = Loader::builder().io(io).threads(threads).chunk_bytes(chunk_bytes).build().unwrap();
            let model = loader.load(&checkpoint, &Request::to(To::Host).verify(true)).unwrap();
            for (name, bytes) in &fixture.pristine {
                assert!(
                    model.get(name).unwrap().host_bytes().unwrap() == bytes,
                    "{name}, {io:?}, {chunk_bytes}"
                );
            }
            let report = model.report();
            assert_eq!(
                (report.bytes, report.read_bytes),
                (checkpoint.tensor_bytes(), checkpoint.stored_bytes())
            );
            assert!(report.path_reason.contains("unpacked on the CPU"), "{}", report.path_reason);
        }
    }
}

#[test]
fn what_is_selected_is_read_and_little_else() {
    let fixture = Fixture::new(&model::TENSORS);
    let checkpoint = fixture.open();
    let loader = Loader::builder().threads(2).build().unwrap();
    let load = |select| loader.load(&checkpoint, &Request::to(To::Host).select(select).verify(true)).unwrap();
    for name in fixture.pristine.keys() {
        let one = load(Select::Names([name.clone()].into()));
        assert!(one.get(name).unwrap().host_bytes().unwrap() == fixture.pristine[name], "{name}");
    }
    let last = load(Select::names(BTreeSet::from(["model.norm.weight".to_string()])));
    // One chunk, of one window.
    assert!(last.report().read_bytes <= 1 << 20, "{}", last.report().read_bytes);
    for axis in [0, 1] {
        let range = |shape: &[u64]| shape.get(axis).filter(|n| **n > 2).map(|n| n / 3..n - n / 4);
        let slice =
            |t: &sllm_gds::Tensor| (t.name.clone(), range(&t.shape).map(|range| Slice { axis, range }));
        let model = load(Select::Slices(checkpoint.tensors.iter().map(slice).collect()));
        for tensor in checkpoint.tensors.iter() {
            let (whole, size) = (&fixture.pristine[&tensor.name], tensor.dtype.bits() / 8);
            let inner: u64 = tensor.shape.get(axis + 1..).map_or(1, |rest| rest.iter().product());
            let elements = whole.chunks_exact(size as usize).enumerate();
            let wanted: Vec<u8> = match range(&tensor.shape) {
                Some(range) => elements
                    .filter(|(i, _)| range.contains(&(*i as u64 / inner % tensor.shape[axis])))
                    .flat_map(|(_, element)| element.iter().copied())
                    .collect(),
                None => whole.clone(),
            };
            assert!(
                model.get(&tensor.name).unwrap().host_bytes().unwrap() == wanted,
                "{} {axis}",
                tensor.name
            );
        }
    }
}

/// Ranges count bytes of what the files unpack to, gaps and padding too.
#[test]
fn ranges_are_of_the_unpacked_files() {
    let fixture = Fixture::new(&model::TENSORS);
    let checkpoint = fixture.open();
    let mut whole = vec![0xa5u8; checkpoint.file_bytes() as usize];
    let loader = Loader::builder().threads(2).build().unwrap();
    let mut ranges = vec![ByteRange { from: 0, bytes: whole.len() as u64, memory: 0, to: 0 }];
    let load = |memory: &mut [u8], ranges: Vec<ByteRange>| {
        // SAFETY: the memory outlives the load, and nothing else touches it meanwhile.
        let memory = unsafe { Memory::new(Device::Host, memory.as_mut_ptr() as u64, memory.len() as u64) };
        loader.load(&checkpoint, &Request::to(To::Into(Target::ranges(vec![memory], ranges)))).map(drop)
    };
    load(&mut whole, ranges.clone()).unwrap();
    for tensor in checkpoint.tensors.iter() {
        assert!(whole[tensor.offset as usize..tensor.end() as usize] == fixture.pristine[&tensor.name]);
    }
    let mut random = fastrand::Rng::with_seed(3);
    for _ in 0..20 {
        let from = random.u64(..whole.len() as u64);
        let bytes = random.u64(..(whole.len() as u64 - from).min(3 << 20) + 1);
        ranges[0] = ByteRange { from, bytes, memory: 0, to: 0 };
        let mut part = vec![0xa5u8; bytes as usize];
        load(&mut part, ranges.clone()).unwrap();
        assert!(part == whole[from as usize..(from + bytes) as usize], "{from} {bytes}");
    }
}

/// The reads that a GPU's kernel unpacks, carried out by the decoder here: every tensor lies where the plan says.
#[test]
fn copies_to_be_unpacked_on_a_gpu_hold_every_byte_of_the_plan() {
    let fixture = Fixture::new(&model::TENSORS);
    let checkpoint = fixture.open();
    let mut selected = checkpoint.clone();
    let some = ["lm_head.weight", "model.layers.2.up.weight"];
    Arc::make_mut(&mut selected.tensors).retain(|tensor| some.contains(&tensor.name.as_str()));
    for (checkpoint, destinations) in [(&checkpoint, 1), (&checkpoint, 3), (&selected, 1), (&selected, 2)] {
        let plan = Plan::new(checkpoint, destinations, Spacing::Aligned).unwrap().over_packed(checkpoint);
        for copy_bytes in [3u64 << 20, 16 << 20] {
            let mut memory: Vec<Vec<u8>> =
                plan.destination_bytes.iter().map(|bytes| vec![0xa5; *bytes as usize]).collect();
            let lanes =
                to_unpack(&plan, checkpoint, &Arc::new(Targets::new(Vec::new())), copy_bytes).unwrap();
            for job in lanes.iter().flatten() {
                let file = read(&checkpoint.files[job.file].path);
                assert!(job.file_offset.is_multiple_of(4096) && job.bytes <= copy_bytes);
                let slot = &file[job.file_offset as usize..][..job.bytes as usize];
                let packed = job.memory.packed.as_ref().unwrap();
                packed.check(slot).unwrap();
                for (number, window) in (packed.first..).zip(&packed.windows) {
                    let chunk = &slot[window.from as usize..][..window.bytes as usize];
                    let chunk = Chunk::parse(chunk, number, window.window_bytes.into()).unwrap();
                    let mut bytes = vec![0; window.window_bytes as usize];
                    Decoder::default().decode(&chunk, 0, &mut bytes).unwrap();
                    let end = window.start + bytes.len() as u64;
                    for piece in job.memory.pieces.iter().flat_map(|piece| piece.within(window.start, end)) {
                        let from = &bytes[piece.from as usize..][..piece.bytes as usize];
                        memory[piece.destination][piece.to as usize..][..from.len()].copy_from_slice(from);
                    }
                }
            }
            for (tensor, place) in checkpoint.tensors.iter().zip(&plan.places) {
                let found = &memory[place.destination][place.offset as usize..][..tensor.bytes as usize];
                assert!(found == fixture.pristine[&tensor.name], "{} of {destinations}", tensor.name);
            }
        }
        assert!(to_unpack(&plan, checkpoint, &Arc::new(Targets::new(Vec::new())), 1 << 19).is_none());
    }
}

#[test]
fn what_does_not_fit_together_is_refused_when_it_is_opened() {
    let fixture = Fixture::new(&model::SMALL);
    let path = |name: &str| fixture.packed().join(name);
    let refused = |what: &str| {
        let error = Checkpoint::open(fixture.packed()).unwrap_err();
        assert!(matches!(&error, Error::Checkpoint(text) if text.contains(what)), "{what}: {error:?}");
    };
    let with = |name: &str, edit: &dyn Fn(Vec<u8>) -> Vec<u8>, what: &str| {
        let before = fs::read(path(name)).unwrap();
        fs::write(path(name), edit(before.clone())).unwrap();
        refused(what);
        fs::write(path(name), before).unwrap();
    };
    let replace = |from: &'static str, to: &'static str| {
        move |text: Vec<u8>| String::from_utf8(text).unwrap().replacen(from, to, 1).into_bytes()
    };
    with(
        "sllm_gds.json",
        &replace("packed-1", "packed-2"),
        "requires packed-2, which this version does not know",
    );
    with("sllm_gds.json", &replace("\"requires\":[\"packed-1\"],", ""), "not of packed weights");
    with("packed_index.json", &replace("\"version\":1", "\"version\":2"), "version 2");
    with("packed_index.json", &replace("1048576", "2097152"), "windows of 2097152");
    with(
        "packed_index.json",
        &replace("packed.data_0", "../ata_0"),
        "'../ata_0' in the place of packed.data_0",
    );
    with(
        "packed_index.json",
        &replace("torch.bfloat16", "torch.float16"),
        "not the index that sllm_gds.json",
    );
    with(
        "packed.data_0",
        &|mut bytes| {
            bytes.pop();
            bytes
        },
        "it was cut short or grew",
    );
    fs::write(path("tensor_index.json"), "{}").unwrap();
    refused("tensor_index.json stands beside it");
    fs::remove_file(path("tensor_index.json")).unwrap();
    for name in ["packed.data_0", "sllm_gds.json"] {
        fs::rename(path(name), path("aside")).unwrap();
        refused("missing");
        fs::rename(path("aside"), path(name)).unwrap();
    }
    assert!(Checkpoint::open(fixture.packed()).is_ok(), "all is as it was");
}

/// What version 0.1 knew: neither layout, or a manifest that requires what nobody knows.
#[test]
fn older_readers_are_kept_away() {
    let fixture = Fixture::new(&model::SMALL);
    let names: Vec<String> = fs::read_dir(fixture.packed())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let known = |name: &String| name.starts_with("tensor") || name.ends_with(".safetensors");
    assert!(!names.iter().any(known), "{names:?}");
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}
