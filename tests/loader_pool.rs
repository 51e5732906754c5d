//! A loader's pool as its users hold it, with loads to host memory: filled ahead, shared, pinned, turned out.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use sllm_gds::{
    ByteRange, Cancel, Checkpoint, Device, Error, Loader, Memory, Model, Request, Select, Target, To,
};

#[path = "faults/fixture.rs"]
mod fixture;

use fixture::Fixture;

const CHUNK_BYTES: u64 = 4096;

fn open(path: &Path) -> Checkpoint {
    Checkpoint::open(path).unwrap()
}

/// A loader whose pool holds this much.
fn loader(bytes: u64) -> Loader {
    let builder = Loader::builder().threads(3).pool_bytes(bytes).pool_chunk_bytes(CHUNK_BYTES);
    builder.pool_host_loads(true).build().unwrap()
}

/// What the pool takes for it.
fn pool_bytes(checkpoint: &Checkpoint) -> u64 {
    checkpoint.files.iter().map(|file| file.bytes.next_multiple_of(CHUNK_BYTES)).sum()
}

fn check(fixture: &Fixture, model: &Model) {
    for name in model.names() {
        assert_eq!(model.get(name).unwrap().host_bytes(), Some(&fixture.pristine[name][..]), "{name}");
    }
}

#[test]
fn the_second_load_of_each_layout_reads_nothing() {
    let fixture = Fixture::new();
    for path in [fixture.ours(), fixture.safetensors(), fixture.foreign()] {
        let checkpoint = open(&path);
        let loader = loader(pool_bytes(&checkpoint));
        for path in ["pool-fill-", "pool"] {
            let model = loader.load(&checkpoint, &Request::to(To::Host).verify(true)).unwrap();
            let report = model.report();
            assert!(
                report.path.starts_with(path) && (report.read_bytes == 0) == (path == "pool"),
                "{report:?}"
            );
            check(&fixture, &model);
        }
    }
}

#[test]
fn a_selection_fills_its_part_and_ranges_come_from_there() {
    let fixture = Fixture::new();
    let checkpoint = open(&fixture.safetensors());
    let loader = loader(pool_bytes(&checkpoint));
    let select = || Select::Prefix("model.layers.0.".into());
    let part = loader.load(&checkpoint, &Request::to(To::Host).select(select())).unwrap();
    check(&fixture, &part);
    assert!(part.report().read_bytes > 0 && part.report().read_bytes < checkpoint.file_bytes());
    // Two ranges that change places, into memory of ours.
    let tensor = &checkpoint.tensors()[0];
    let half = tensor.bytes / 2;
    let mut ours = vec![0u8; 2 * half as usize];
    // SAFETY: the vector lives until the model is dropped, and is looked at only then.
    let memory = unsafe { Memory::new(Device::Host, ours.as_mut_ptr() as u64, ours.len() as u64) };
    let range = |from, to| ByteRange { from: tensor.offset + from, bytes: half, memory: 0, to };
    let target = Target::ranges(vec![memory], vec![range(half, 0), range(0, half)]);
    drop(loader.load(&checkpoint, &Request::to(To::Into(target))).unwrap());
    let (first, second) = fixture.pristine[&tensor.name][..2 * half as usize].split_at(half as usize);
    assert_eq!(ours, [second, first].concat());
}

#[test]
fn loads_at_the_same_time_read_each_byte_once() {
    let fixture = Fixture::new();
    let checkpoint = open(&fixture.safetensors());
    for _ in 0..20 {
        let (loader, read) = (loader(pool_bytes(&checkpoint)), AtomicU64::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let warmed = loader.warm(&checkpoint, &Cancel::new(), &|_| {}).unwrap();
                assert_eq!(
                    warmed.held_bytes + warmed.joined_bytes + warmed.read_bytes,
                    checkpoint.file_bytes()
                );
                read.fetch_add(warmed.read_bytes, Ordering::Relaxed);
            });
            for _ in 0..4 {
                scope.spawn(|| {
                    let model = loader.load(&checkpoint, &Request::to(To::Host)).unwrap();
                    read.fetch_add(model.report().read_bytes, Ordering::Relaxed);
                    check(&fixture, &model);
                });
            }
        });
        assert_eq!(read.into_inner(), checkpoint.file_bytes());
    }
}

#[test]
fn what_is_pinned_stays_and_what_is_turned_out_is_read_anew() {
    let fixture = Fixture::new();
    let (one, other) = (open(&fixture.safetensors()), open(&fixture.foreign()));
    let loader = loader(pool_bytes(&one).max(pool_bytes(&other)));
    assert!(!loader.pin(&one, true), "nothing of it is there yet");
    let told = AtomicU64::new(0);
    let tell = |bytes| _ = told.fetch_add(bytes, Ordering::Relaxed);
    let warmed = loader.warm(&one, &Cancel::new(), &tell).unwrap();
    assert_eq!((warmed.read_bytes, warmed.bytes), (one.file_bytes(), one.file_bytes()));
    assert_eq!(told.load(Ordering::Relaxed), one.file_bytes());
    assert!(loader.pin(&one, true));
    let full = loader.warm(&other, &Cancel::new(), &|_| {}).unwrap_err();
    assert!(
        matches!(&full, Error::OutOfMemory { message, .. } if message.contains("in use fill the pool")),
        "{full}"
    );
    let past = loader.load(&other, &Request::to(To::Host)).unwrap();
    assert!(past.report().path_reason.starts_with("not through the pool: "), "{:?}", past.report());
    check(&fixture, &past);
    let report = loader.pool().unwrap();
    let [kept] = report.checkpoints.as_slice() else { panic!("{report:?}") };
    assert!(kept.is_pinned && kept.loads == 0 && kept.full_chunks == kept.chunks, "{kept:?}");
    assert_eq!(kept.files.len(), one.files.len());
    assert!(loader.pin(&one, false));
    assert!(loader.warm(&other, &Cancel::new(), &|_| {}).is_ok());
    assert_eq!(loader.evict(&one, &Cancel::new()).unwrap().bytes, 0, "it went for the other");
    assert_eq!(loader.evict_all(&Cancel::new()).unwrap().bytes, pool_bytes(&other));
    assert!(loader.pool().unwrap().checkpoints.is_empty());
    assert_eq!(loader.warm(&one, &Cancel::new(), &|_| {}).unwrap().read_bytes, one.file_bytes());
}

#[test]
fn the_pool_is_prefaulted_while_loads_run() {
    let fixture = Fixture::new();
    let checkpoint = open(&fixture.safetensors());
    for _ in 0..20 {
        let loader = loader(pool_bytes(&checkpoint));
        std::thread::scope(|scope| {
            scope.spawn(|| loader.prefault_pool().unwrap());
            let warmed = loader.warm(&checkpoint, &Cancel::new(), &|_| {}).unwrap();
            assert_eq!(warmed.read_bytes, checkpoint.file_bytes());
        });
        let report = loader.pool().unwrap();
        assert_eq!(report.made_chunks as u64 * CHUNK_BYTES, report.bytes);
    }
}

#[test]
fn a_loader_without_a_pool_says_so() {
    let fixture = Fixture::new();
    let loader = Loader::builder().build().unwrap();
    let checkpoint = open(&fixture.ours());
    let refused = loader.warm(&checkpoint, &Cancel::new(), &|_| {}).unwrap_err();
    assert!(matches!(refused, Error::Refused(text) if text.contains("pool size")));
    assert!(loader.pool().is_none() && !loader.pin(&checkpoint, true));
    assert_eq!(loader.evict_all(&Cancel::new()).unwrap().bytes, 0);
}
