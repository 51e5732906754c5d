//! Packed files in a pool: it keeps them as they lie on disk, and every load out of it gets what they unpack to.

use std::fs;

use sllm_gds::{
    ByteRange, Cancel, Checkpoint, Device, Error, Loader, Memory, Model, Request, Select, Slice, Target, To,
};

use crate::{Fixture, model};

const CHUNK_BYTES: u64 = 2 << 20;

fn loader(chunk_bytes: u64) -> Loader {
    let builder = Loader::builder().threads(3).pool_bytes(64 << 20).pool_chunk_bytes(chunk_bytes);
    builder.pool_host_loads(true).build().unwrap()
}

fn check(fixture: &Fixture, model: &Model) {
    for (name, bytes) in &fixture.pristine {
        assert!(
            model.get(name).unwrap().host_bytes().unwrap() == bytes,
            "{name}: {}",
            model.report().path_reason
        );
    }
}

#[test]
fn it_keeps_them_packed_and_the_second_load_reads_nothing() {
    let fixture = Fixture::new(&model::TENSORS);
    let checkpoint = fixture.open();
    let loader = loader(CHUNK_BYTES);
    for is_first in [true, false] {
        let model = loader.load(&checkpoint, &Request::to(To::Host).verify(true)).unwrap();
        check(&fixture, &model);
        let report = model.report();
        assert!(report.path_reason.contains("unpacked on the CPU"), "{}", report.path_reason);
        assert_eq!(report.bytes, checkpoint.tensor_bytes());
        // Pages that hold the end of one range and the beginning of the next are read for both.
        let shared = 4096 * checkpoint.file_bytes().div_ceil(CHUNK_BYTES);
        let all = checkpoint.stored_bytes()..checkpoint.stored_bytes() + shared;
        assert!(
            if is_first { all.contains(&report.read_bytes) } else { report.read_bytes == 0 },
            "{report:?}"
        );
        assert_eq!(report.held_bytes > 0, !is_first);
    }
}

#[test]
fn more_of_them_fit() {
    let tensor = |name| (name, safetensors::Dtype::BF16, &[6 << 10, 1 << 10][..]);
    let fixture = Fixture::new(&[tensor("a"), tensor("b")]);
    let checkpoint = fixture.open();
    // Two files of 12 MiB, at most 0.7 of it packed: of 3 MiB, a chunk takes four windows.
    let loader = loader(3 << 20);
    loader.warm(&checkpoint, &Cancel::new(), &|_| {}).unwrap();
    let kept = &loader.pool().unwrap().checkpoints[0];
    assert_eq!((kept.full_chunks, kept.chunks), (6, 6), "unpacked they would take 8");
    check(&fixture, &loader.load(&checkpoint, &Request::to(To::Host).verify(true)).unwrap());
}

#[test]
fn what_is_selected_comes_from_there() {
    let fixture = Fixture::new(&model::TENSORS);
    let checkpoint = fixture.open();
    let loader = loader(CHUNK_BYTES);
    let warmed = loader.warm(&checkpoint, &Cancel::new(), &|_| {}).unwrap();
    assert!(warmed.read_bytes >= checkpoint.stored_bytes());
    let load = |select| {
        let model = loader.load(&checkpoint, &Request::to(To::Host).select(select)).unwrap();
        assert_eq!((model.report().path.as_str(), model.report().read_bytes), ("pool", 0));
        model
    };
    for name in fixture.pristine.keys() {
        let one = load(Select::Names([name.clone()].into()));
        assert!(one.get(name).unwrap().host_bytes().unwrap() == fixture.pristine[name], "{name}");
    }
    let plain = Loader::builder().threads(2).build().unwrap();
    for axis in [0, 1] {
        let range = |shape: &[u64]| shape.get(axis).filter(|n| **n > 2).map(|n| n / 3..n - n / 4);
        let slices = || {
            let slice =
                |t: &sllm_gds::Tensor| (t.name.clone(), range(&t.shape).map(|range| Slice { axis, range }));
            Select::Slices(checkpoint.tensors.iter().map(slice).collect())
        };
        let (ours, theirs) =
            (load(slices()), plain.load(&checkpoint, &Request::to(To::Host).select(slices())).unwrap());
        for name in fixture.pristine.keys() {
            let bytes = |model: &Model| model.get(name).unwrap().host_bytes().unwrap().to_vec();
            assert!(bytes(&ours) == bytes(&theirs), "{name} {axis}");
        }
    }
    let mut whole = vec![0xa5u8; checkpoint.file_bytes() as usize];
    // SAFETY: the memory outlives the load, and nothing else touches it meanwhile.
    let memory = unsafe { Memory::new(Device::Host, whole.as_mut_ptr() as u64, whole.len() as u64) };
    let range = ByteRange { from: 0, bytes: whole.len() as u64, memory: 0, to: 0 };
    loader.load(&checkpoint, &Request::to(To::Into(Target::ranges(vec![memory], vec![range])))).unwrap();
    for tensor in checkpoint.tensors.iter() {
        assert!(whole[tensor.offset as usize..tensor.end() as usize] == fixture.pristine[&tensor.name]);
    }
}

#[test]
fn where_chunks_are_longer_than_those_of_the_pool_it_keeps_what_they_unpack_to() {
    let fixture = Fixture::new(&model::SMALL);
    let checkpoint = fixture.open();
    let loader = loader(64 << 10);
    for path in ["pool-fill", "pool"] {
        let model = loader.load(&checkpoint, &Request::to(To::Host).verify(true)).unwrap();
        assert!(model.report().path.starts_with(path));
        check(&fixture, &model);
    }
}

#[test]
fn loads_at_the_same_time_get_the_very_bytes() {
    let fixture = Fixture::new(&model::SMALL);
    let checkpoint = fixture.open();
    for _ in 0..10 {
        let loader = loader(CHUNK_BYTES);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let model = loader.load(&checkpoint, &Request::to(To::Host).verify(true)).unwrap();
                    check(&fixture, &model);
                });
            }
        });
    }
}

#[test]
fn damage_is_told_on_the_way_out_and_the_mended_file_loads() {
    let fixture = Fixture::new(&model::SMALL);
    let path = fixture.packed().join("packed.data_0");
    let good = fs::read(&path).unwrap();
    let loader = loader(CHUNK_BYTES);
    let mut random = fastrand::Rng::new();
    println!("seed {}", random.get_seed());
    let mut failed = 0;
    for _ in 0..100 {
        let mut bad = good.clone();
        let at = random.usize(..bad.len());
        bad[at] ^= 1 << random.u8(..8);
        fs::write(&path, &bad).unwrap();
        let checkpoint = Checkpoint::open(fixture.packed()).unwrap();
        match loader.load(&checkpoint, &Request::to(To::Host).verify(true)) {
            Ok(model) => check(&fixture, &model),
            Err(error) => {
                assert!(matches!(error, Error::Checkpoint(_) | Error::Corrupt { .. }), "{error:?}");
                failed += 1;
            }
        }
    }
    assert!(failed > 0);
    fs::write(&path, &good).unwrap();
    check(&fixture, &loader.load(&fixture.open(), &Request::to(To::Host).verify(true)).unwrap());
}
