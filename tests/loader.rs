//! The public face as its users hold it: only what the crate names at its top.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use sllm_gds::{
    ByteRange, Cancel, Checkpoint, DType, Device, EngineChoice, Error, IoChoice, Loader, Memory, Request,
    Select, Slice, Target, To,
};

#[path = "faults/fixture.rs"]
mod fixture;

use fixture::Fixture;

fn loader() -> Loader {
    Loader::builder().threads(3).chunk_bytes(64 << 10).build().unwrap()
}

fn open(path: &Path) -> Checkpoint {
    Checkpoint::open(path).unwrap()
}

#[test]
fn every_layout_loads_to_host_memory_by_name() {
    let fixture = Fixture::new();
    let loader = loader();
    for path in [fixture.ours(), fixture.safetensors(), fixture.foreign()] {
        let model = loader.load(&open(&path), &Request::to(To::Host).verify(true)).unwrap();
        assert_eq!(model.len(), fixture.pristine.len());
        assert!(!model.is_empty() && model.names().all(|name| fixture.pristine.contains_key(name)));
        let checkpoint = open(&path);
        assert!(checkpoint.names().eq(model.names()) && checkpoint.tensors().len() == model.len());
        assert!(checkpoint.tensor("no.such").is_none());
        for (name, bytes) in &fixture.pristine {
            assert_eq!(checkpoint.tensor(name).unwrap().bytes, bytes.len() as u64);
            let weight = model.get(name).unwrap();
            assert_eq!(
                (weight.name, weight.device, weight.bytes),
                (name.as_str(), Device::Host, bytes.len() as u64)
            );
            assert_eq!(weight.host_bytes().unwrap(), bytes, "{name}");
            let mut copy = vec![0; bytes.len()];
            model.read(name, &mut copy).unwrap();
            assert_eq!(copy, *bytes);
        }
        let norm = model.get("model.norm.weight").unwrap();
        assert_eq!((norm.dtype, norm.shape, norm.strides), (DType::F32, &[61][..], &[1][..]));
        assert_eq!(model.report().bytes, open(&path).tensor_bytes());
        assert!((1..=3).contains(&model.report().threads), "those that ran");
    }
}

#[test]
fn what_is_selected_is_loaded_and_little_else_is_read() {
    let fixture = Fixture::new();
    let loader = loader();
    for path in [fixture.ours(), fixture.safetensors(), fixture.foreign()] {
        let load = |select| loader.load(&open(&path), &Request::to(To::Host).select(select).verify(true));
        let model = load(Select::Prefix("model.layers.3.".into())).unwrap();
        assert_eq!(model.names().collect::<BTreeSet<_>>().len(), 4);
        assert!(model.names().all(|name| name.starts_with("model.layers.3.")));
        for name in model.names() {
            assert_eq!(model.get(name).unwrap().host_bytes().unwrap(), fixture.pristine[name]);
        }
        assert!(model.report().read_bytes < open(&path).file_bytes());
        let names: BTreeSet<String> = ["model.norm.weight", "model.embed.weight"].map(String::from).into();
        let model = load(Select::names(&names)).unwrap();
        assert_eq!(model.names().map(String::from).collect::<BTreeSet<_>>(), names);
        for name in &names {
            assert_eq!(model.get(name).unwrap().host_bytes().unwrap(), fixture.pristine[name]);
        }
        let missing = load(Select::Names(["no.such".to_string()].into())).err().unwrap();
        assert!(matches!(&missing, Error::NotFound(text) if text.contains("no.such")), "{missing}");
        let missing = load(Select::Prefix("no.".into())).err().unwrap();
        assert!(matches!(&missing, Error::NotFound(text) if text.contains("no.")), "{missing}");
    }
}

#[test]
fn errors_are_of_the_kinds_that_a_program_decides_on() {
    let fixture = Fixture::new();
    let loader = loader();
    let checkpoint = open(&fixture.ours());
    let cancel = Cancel::new();
    cancel.set();
    let cancelled = loader.load(&checkpoint, &Request::to(To::Host).cancel(&cancel));
    assert!(matches!(cancelled.err().unwrap(), Error::Interrupted));

    let model = loader.load(&checkpoint, &Request::to(To::Host)).unwrap();
    assert!(matches!(model.get("no.such").err().unwrap(), Error::NotFound(_)));
    assert!(matches!(model.get_copy("model.norm.weight", 1).err().unwrap(), Error::NotFound(_)));
    assert!(matches!(model.read("model.norm.weight", &mut [0; 3]).err().unwrap(), Error::Refused(_)));

    // A bit that flipped on disk since it was saved.
    let partition = fixture.ours().join("tensor.data_0");
    let mut bytes = fs::read(&partition).unwrap();
    bytes[0] ^= 1;
    fs::write(&partition, bytes).unwrap();
    let checkpoint = open(&fixture.ours());
    let corrupt = loader.load(&checkpoint, &Request::to(To::Host).verify(true)).err().unwrap();
    let Error::Corrupt { tensors } = &corrupt else { panic!("{corrupt}") };
    assert_eq!(tensors.len(), 1, "{tensors:?}");

    // Cut after it was opened.
    fs::File::options().write(true).open(&partition).unwrap().set_len(4096).unwrap();
    let cut = loader.load(&checkpoint, &Request::to(To::Host)).err().unwrap();
    assert!(matches!(&cut, Error::Checkpoint(text) if text.contains("tensor.data_0")), "{cut:?}");

    for (made, word) in [
        (Loader::builder().chunk_bytes(2 << 30).build(), "chunk size"),
        (Loader::builder().chunk_bytes(0).build(), "chunk size of 0"),
        (Loader::builder().copy_bytes(0).build(), "copy size of 0"),
        (Loader::builder().ring_bytes(0).build(), "ring size of 0"),
        (Loader::builder().threads(0).build(), "0 reader threads"),
        (Loader::builder().threads(1025).build(), "1024 are the most"),
        (Loader::builder().pool_chunk_bytes(0).build(), "pool chunk size of 0"),
        (Loader::builder().pool_bytes(1 << 30).pool_chunk_bytes(0).build(), "pool chunk size of 0"),
        (Loader::builder().pool_bytes(0).build(), "pool of 0 bytes"),
        (Loader::builder().ring_bytes(1 << 20).build(), "ring size"),
    ] {
        let refused = made.err().unwrap();
        assert!(matches!(&refused, Error::Refused(text) if text.contains(word)), "{refused}");
    }
    let large = Loader::builder().pool_bytes(1 << 60).build().err().unwrap();
    assert!(
        matches!(&large, Error::OutOfMemory { needed_bytes, free_bytes: Some(free), message }
        if *needed_bytes == 1 << 60 && *free < 1 << 60 && message.contains("pool size")),
        "{large:?}"
    );
    for (made, word) in [
        (Loader::builder().pool_bytes(1 << 20).build(), "pool size"),
        (Loader::builder().pool_bytes(9000).pool_chunk_bytes(1 << 20).build(), "chunk of 1.0 MB"),
        (Loader::builder().pool_bytes(1 << 25).engine(EngineChoice::Gds).build(), "pool"),
    ] {
        let refused = made.err().unwrap();
        assert!(matches!(&refused, Error::Refused(text) if text.contains(word)), "{refused}");
    }
    let nowhere = loader.load(&model_of(&fixture), &Request::to(To::Balanced(vec![])));
    assert!(matches!(nowhere.err().unwrap(), Error::Refused(_)));
}

#[test]
fn what_is_wrong_with_a_checkpoint_is_told_by_kind_when_it_is_opened() {
    let fixture = Fixture::new();
    let missing = Checkpoint::open(fixture.ours().join("none")).unwrap_err();
    assert!(matches!(&missing, Error::NotFound(text) if text.contains("none")), "{missing:?}");
    let below_a_file = fixture.ours().join("tensor.data_0/model");
    let no_directory = Checkpoint::open(&below_a_file).unwrap_err();
    assert!(
        matches!(&no_directory, Error::Io { path, source, .. }
        if *path == below_a_file && source.raw_os_error() == Some(libc::ENOTDIR)),
        "{no_directory:?}"
    );
    let long = fixture.ours().join("x".repeat(300));
    let too_long = Checkpoint::open(&long).unwrap_err();
    assert!(matches!(&too_long, Error::Io { path, .. } if *path == long), "{too_long:?}");

    let safetensors = fixture.safetensors();
    let shards: Vec<_> = open(&safetensors).files.iter().map(|file| file.path.clone()).collect();
    let opened = open(&safetensors);
    fs::rename(&shards[0], safetensors.join("gone")).unwrap();
    let gone = loader().load(&opened, &Request::to(To::Host)).err().unwrap();
    assert!(matches!(&gone, Error::NotFound(text) if text.contains("open")), "{gone:?}");
    let lacking = Checkpoint::open(&safetensors).unwrap_err();
    assert!(matches!(&lacking, Error::Checkpoint(_)), "{lacking:?}");
    // A link that leads nowhere, and a shard that is a directory.
    std::os::unix::fs::symlink(safetensors.join("nowhere"), &shards[0]).unwrap();
    let lacking = Checkpoint::open(&safetensors).unwrap_err();
    assert!(matches!(&lacking, Error::Checkpoint(_)), "{lacking:?}");
    fs::remove_file(&shards[0]).unwrap();
    fs::create_dir(&shards[0]).unwrap();
    let not_a_file = loader().load(&opened, &Request::to(To::Host)).err().unwrap();
    assert!(
        matches!(&not_a_file, Error::Io { path, message, .. }
        if *path == shards[0] && message.contains("not a regular file")),
        "{not_a_file:?}"
    );
}

#[test]
fn a_selection_of_nothing_is_refused() {
    let fixture = Fixture::new();
    for select in [Select::Names(BTreeSet::new()), Select::Slices(BTreeMap::new())] {
        let refused = loader().load(&open(&fixture.ours()), &Request::to(To::Host).select(select));
        let refused = refused.err().unwrap();
        assert!(
            matches!(&refused, Error::Refused(why) if why.contains("no tensor is selected")),
            "{refused}"
        );
    }
}

fn model_of(fixture: &Fixture) -> Checkpoint {
    open(&fixture.safetensors())
}

#[test]
fn loads_into_host_memory_use_no_pool() {
    let fixture = Fixture::new();
    let loader = Loader::builder().pool_bytes(1 << 20).pool_chunk_bytes(4096).prefault(true).build().unwrap();
    for _ in 0..2 {
        let model = loader.load(&model_of(&fixture), &Request::to(To::Host).verify(true)).unwrap();
        assert!(model.report().path.starts_with("host-"), "{}", model.report().path);
    }
}

#[test]
fn loads_side_by_side_share_a_loader() {
    let fixture = Fixture::new();
    let loader = Loader::builder().io(IoChoice::Buffered).build().unwrap();
    let checkpoint = open(&fixture.safetensors());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let model = loader.load(&checkpoint, &Request::to(To::Host)).unwrap();
                for (name, bytes) in &fixture.pristine {
                    assert_eq!(model.get(name).unwrap().host_bytes().unwrap(), bytes);
                }
            });
        }
    });
}

#[test]
fn a_loader_that_was_forked_says_so() {
    let fixture = Fixture::new();
    let loader = loader();
    let checkpoint = open(&fixture.ours());
    // SAFETY: the child calls nothing that needs a lock which another thread may hold at the fork, and ends without
    // running destructors.
    match unsafe { libc::fork() } {
        0 => {
            let refused = loader.load(&checkpoint, &Request::to(To::Host));
            let good = matches!(refused, Err(Error::Refused(text)) if text.contains("forked"));
            // SAFETY: ends this process.
            unsafe { libc::_exit(if good { 0 } else { 1 }) }
        }
        child => {
            assert!(child > 0);
            let mut status = 0;
            // SAFETY: our own child, and a live place for its status.
            assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
            assert_eq!(status, 0);
        }
    }
}

/// The bytes of a slice, element by element.
fn slice_of(bytes: &[u8], shape: &[u64], size: u64, axis: usize, range: std::ops::Range<u64>) -> Vec<u8> {
    let inner: u64 = shape[axis + 1..].iter().product();
    let elements = bytes.chunks_exact(size as usize).enumerate();
    let wanted = elements.filter(|(i, _)| range.contains(&(*i as u64 / inner % shape[axis])));
    wanted.flat_map(|(_, element)| element.iter().copied()).collect()
}

#[test]
fn slices_along_any_axis_hold_their_elements() {
    let fixture = Fixture::new();
    let loader = loader();
    for path in [fixture.ours(), fixture.safetensors(), fixture.foreign()] {
        let checkpoint = open(&path);
        for axis in [0, 1] {
            let range_of = |shape: &[u64]| shape.get(axis).filter(|n| **n > 1).map(|n| n / 3..n - n / 4);
            let slice = |tensor: &str, shape: &[u64]| {
                (tensor.to_string(), range_of(shape).map(|range| Slice { axis, range }))
            };
            let slices = checkpoint.tensors.iter().map(|t| slice(&t.name, &t.shape)).collect();
            let request = Request::to(To::Host).select(Select::Slices(slices)).verify(true);
            let model = loader.load(&checkpoint, &request).unwrap();
            assert_eq!(model.len(), fixture.pristine.len());
            for tensor in checkpoint.tensors.iter() {
                let whole = &fixture.pristine[&tensor.name];
                let weight = model.get(&tensor.name).unwrap();
                let size = tensor.dtype.bits() / 8;
                let wanted = match range_of(&tensor.shape) {
                    Some(range) => slice_of(whole, &tensor.shape, size, axis, range),
                    None => whole.clone(),
                };
                assert!(weight.host_bytes().unwrap() == wanted, "{} along {axis}", tensor.name);
                assert_eq!(weight.shape.iter().product::<u64>() * size, weight.bytes);
                assert_eq!(weight.address % 256, 0);
            }
            assert!(model.report().bytes < checkpoint.tensor_bytes(), "there is something to slice");
        }
    }
}

#[test]
fn ranks_have_equal_shares_or_none() {
    let fixture = Fixture::new();
    let checkpoint = open(&fixture.ours());
    let share = |_: &str, shape: &[u64]| shape.first().is_some_and(|n| n % 61 == 0).then_some(0);
    for rank in 0..61 {
        let select = Select::rank(&checkpoint, rank, 61, share).unwrap();
        let model = loader().load(&checkpoint, &Request::to(To::Host).select(select)).unwrap();
        let norm = model.get("model.norm.weight").unwrap();
        let at = 4 * rank as usize;
        assert_eq!(
            (norm.shape, norm.host_bytes().unwrap()),
            (&[1][..], &fixture.pristine["model.norm.weight"][at..at + 4])
        );
    }
    let odd = Select::rank(&checkpoint, 0, 7919, |_, shape| (!shape.is_empty()).then_some(0)).unwrap_err();
    assert!(odd.to_string().contains("7919 ranks"), "{odd}");
    let none = Select::rank(&checkpoint, 2, 2, share).unwrap_err();
    assert!(none.to_string().contains("no rank 2 of 2"), "{none}");
}

#[test]
fn slices_that_are_none_are_refused() {
    let fixture = Fixture::new();
    let checkpoint = open(&fixture.ours());
    let refused = |name: &str, axis, range| {
        let slices = [(name.to_string(), Some(Slice { axis, range }))].into();
        let request = Request::to(To::Host).select(Select::Slices(slices));
        loader().load(&checkpoint, &request).err().unwrap()
    };
    assert!(matches!(refused("model.norm.weight", 0, 0..62), Error::Refused(why) if why.contains("has 61")));
    assert!(
        matches!(refused("model.norm.weight", 1, 0..1), Error::Refused(why) if why.contains("no axis 1"))
    );
    assert!(matches!(refused("nothing", 0, 0..1), Error::NotFound(_)));
}

#[test]
fn tensors_go_to_memory_of_the_callers() {
    let fixture = Fixture::new();
    for path in [fixture.ours(), fixture.safetensors(), fixture.foreign()] {
        let checkpoint = open(&path);
        // Each tensor has memory of its own, at an odd address, with a byte around it that must stay.
        let mut rooms: BTreeMap<&str, Vec<u8>> = fixture
            .pristine
            .iter()
            .map(|(name, bytes)| (name.as_str(), vec![0xa5; bytes.len() + 3]))
            .collect();
        let (mut memory, mut places) = (Vec::new(), BTreeMap::new());
        for (name, room) in &mut rooms {
            places.insert(name.to_string(), (memory.len(), 2));
            // SAFETY: the room stays until the model is dropped, and nobody looks at it before.
            memory.push(unsafe { Memory::new(Device::Host, room.as_mut_ptr() as u64, room.len() as u64) });
        }
        let request = Request::to(To::Into(Target::tensors(memory, places))).verify(true);
        let model = loader().load(&checkpoint, &request).unwrap();
        for (name, bytes) in &fixture.pristine {
            let weight = model.get(name).unwrap();
            assert!(weight.host_bytes().unwrap() == bytes, "{name}");
        }
        drop(model);
        for (name, room) in &rooms {
            let bytes = &fixture.pristine[*name];
            assert!(room[2..2 + bytes.len()] == bytes[..], "{name}");
            assert_eq!((room[0], room[1], room[room.len() - 1]), (0xa5, 0xa5, 0xa5), "{name}");
        }
    }
}

#[test]
fn ranges_of_a_checkpoint_go_anywhere() {
    let fixture = Fixture::new();
    let checkpoint = open(&fixture.ours());
    let mut bytes = Vec::new();
    checkpoint.files.iter().for_each(|file| bytes.extend(fs::read(&file.path).unwrap()));
    let all = bytes.len() as u64;
    assert!(checkpoint.files.len() > 1, "ranges cross files");
    let second = checkpoint.files[1].base;
    let (mut first, mut other) = (vec![0u8; 3000], vec![0u8; 2000]);
    // SAFETY: both stay until the model is dropped, and nobody looks at them before.
    let memory = unsafe {
        vec![
            Memory::new(Device::Host, first.as_mut_ptr() as u64, 3000),
            Memory::new(Device::Host, other.as_mut_ptr() as u64, 2000),
        ]
    };
    let range = |from, bytes, memory, to| ByteRange { from, bytes, memory, to };
    let ranges = vec![
        range(all - 700, 700, 0, 2300),
        range(second - 500, 1000, 0, 3),
        range(second - 499, 999, 1, 1001),
        range(5, 0, 1, 2000),
    ];
    let load = |ranges: &[ByteRange]| {
        let target = Target::ranges(memory.clone(), ranges.to_vec());
        loader().load(&checkpoint, &Request::to(To::Into(target)).verify(true))
    };
    let model = load(&ranges).unwrap();
    assert_eq!((model.len(), model.report().bytes), (4, 2699));
    assert!(model.report().read_bytes < 40_000, "not much more than what was wanted");
    drop(model);
    let at = |from: u64, count: u64| &bytes[from as usize..][..count as usize];
    assert!(first[2300..] == *at(all - 700, 700) && first[3..1003] == *at(second - 500, 1000));
    assert!(other[1001..] == *at(second - 499, 999));
    assert!(first[..3].iter().chain(&first[1003..2300]).chain(&other[..1001]).all(|byte| *byte == 0));
    let refused = |one: ByteRange| match load(&[one]).err().unwrap() {
        Error::Refused(why) => why,
        other => panic!("{other:?}"),
    };
    assert!(refused(range(all - 10, 11, 0, 0)).contains("range 0: 11 bytes from byte"));
    assert!(refused(range(0, 10, 0, 2991)).contains("which has 3000 bytes"));
    assert!(refused(range(0, 10, 2, 0)).contains("memory 2, and there are 2"));
}

#[test]
fn memory_that_does_not_fit_is_refused_before_a_byte_is_written() {
    let fixture = Fixture::new();
    let checkpoint = open(&fixture.ours());
    let mut room = vec![0u8; 300];
    // SAFETY: it stays until the end, and no load succeeds.
    let memory = unsafe { Memory::new(Device::Host, room.as_mut_ptr() as u64, 300) };
    let load = |memory: Vec<Memory>, places: &[(&str, (usize, u64))], select| {
        let places = places.iter().map(|(name, place)| (name.to_string(), *place)).collect();
        let request = Request::to(To::Into(Target::tensors(memory, places))).select(select);
        loader().load(&checkpoint, &request).err().unwrap()
    };
    let norm = || Select::Names(["model.norm.weight".to_string()].into());
    let place = [("model.norm.weight", (0, 57))];
    assert!(
        matches!(load(vec![memory], &place, norm()), Error::Refused(why) if why.contains("has 244 bytes"))
    );
    assert!(matches!(load(vec![memory], &[], norm()), Error::Refused(why) if why.contains("has no place")));
    let two = [("model.norm.weight", (0, 0)), ("gone", (0, 250))];
    assert!(matches!(load(vec![memory], &two, norm()), Error::NotFound(why) if why.contains("'gone'")));
    assert!(matches!(load(vec![], &place, norm()), Error::Refused(why) if why.contains("no memory")));
    // SAFETY: nothing is written to it: it is refused.
    let null = unsafe { Memory::new(Device::Host, 0, 300) };
    assert!(matches!(load(vec![null], &place, norm()), Error::Refused(why) if why.contains("address 0")));
    assert!(room.iter().all(|byte| *byte == 0));
}

#[test]
fn memories_and_places_that_overlap_are_refused_by_name() {
    let fixture = Fixture::new();
    let checkpoint = open(&fixture.ours());
    let mut room = vec![0u8; 1000];
    let start = room.as_mut_ptr() as u64;
    // SAFETY: it stays until the end, and no load writes to it.
    let memory = |from: u64, bytes| unsafe { Memory::new(Device::Host, start + from, bytes) };
    let refused = |target| match loader().load(&checkpoint, &Request::to(To::Into(target))).unwrap_err() {
        Error::Refused(why) => why,
        other => panic!("{other:?}"),
    };
    let range = |bytes, memory, to| ByteRange { from: 0, bytes, memory, to };
    let far = vec![range(10, 0, 0), range(10, 1, 400)];
    let why = refused(Target::ranges(vec![memory(0, 500), memory(499, 501)], far));
    assert!(why.contains("memories 0 (") && why.contains("overlap"), "{why}");
    // SAFETY: nothing is written to it: it is refused.
    let endless = unsafe { Memory::new(Device::Host, start, u64::MAX) };
    let why = refused(Target::ranges(vec![endless], vec![range(10, 0, 0)]));
    assert!(why.contains("memory 0") && why.contains("last address"), "{why}");
    let empty_first = vec![range(0, 0, 0), range(10, 0, 0), range(10, 0, 9)];
    let why = refused(Target::ranges(vec![memory(0, 500), memory(500, 500)], empty_first));
    assert!(why.contains("range 1 and range 2 both go to byte 9 of memory 0"), "{why}");
    let mut sizes: Vec<_> = checkpoint.tensors().iter().filter(|tensor| tensor.bytes > 0).collect();
    sizes.sort_by_key(|tensor| tensor.bytes);
    let names: Vec<&str> = sizes[..2].iter().map(|tensor| tensor.name.as_str()).collect();
    let places = names.iter().map(|name| (name.to_string(), (0, 0))).collect();
    let request = Request::to(To::Into(Target::tensors(vec![memory(0, 1000)], places)));
    let why =
        loader().load(&checkpoint, &request.select(Select::names(names.clone()))).unwrap_err().to_string();
    assert!(names.iter().all(|name| why.contains(name)) && why.contains("overwrite"), "{why}");
    // Side by side they may lie.
    let near = vec![range(500, 0, 0), range(500, 1, 0)];
    let target = Target::ranges(vec![memory(0, 500), memory(500, 500)], near);
    assert!(loader().load(&checkpoint, &Request::to(To::Into(target))).is_ok());
}

#[test]
fn what_is_shown_of_a_load_is_short_and_holds_no_weights() {
    let fixture = Fixture::new();
    let (loader, cancel) = (loader(), Cancel::new());
    let request = Request::to(To::Host).cancel(&cancel).progress(|_, _| {});
    let model = loader.load(&open(&fixture.ours()), &request).unwrap();
    let weights: Vec<_> = model.weights().collect();
    assert!(weights.iter().map(|weight| weight.name).eq(model.names()));
    for weight in &weights {
        assert_eq!(weight.host_bytes().unwrap(), fixture.pristine[weight.name]);
        let shown = format!("{weight:?}");
        assert!(shown.len() < 400 && shown.contains(weight.name) && shown.contains("0x"), "{shown}");
    }
    for shown in [format!("{loader:?}"), format!("{model:?}"), format!("{request:?}"), format!("{cancel:?}")]
    {
        assert!(shown.len() < 600, "{shown}");
    }
}

#[test]
fn a_panic_that_progress_raises_reaches_the_caller() {
    let fixture = Fixture::new();
    let request = Request::to(To::Host).progress(|_, _| panic!("enough was told"));
    let (loader, checkpoint) = (loader(), open(&fixture.ours()));
    let load = std::panic::AssertUnwindSafe(|| loader.load(&checkpoint, &request).map(drop));
    let panic = std::panic::catch_unwind(load).unwrap_err();
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"enough was told"));
    loader.load(&checkpoint, &Request::to(To::Host)).unwrap();
}

#[test]
fn progress_tells_of_every_byte() {
    let fixture = Fixture::new();
    let (last, seen) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(BTreeSet::new())));
    let (most, told) = (last.clone(), seen.clone());
    let request = Request::to(To::Host).progress(move |done, total| {
        assert!(most.swap(done, Ordering::Relaxed) < done, "it never goes back");
        told.lock().unwrap().insert(total);
    });
    let model = loader().load(&open(&fixture.safetensors()), &request).unwrap();
    assert_eq!(last.load(Ordering::Relaxed), model.report().read_bytes);
    assert_eq!(*seen.lock().unwrap(), [model.report().read_bytes].into());
}
