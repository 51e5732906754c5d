//! The loader that others hold, on GPUs: what it keeps, and where tensors lie.

use sllm_gds::{Checkpoint, Device, Error, Loader, Model, Request, Select, To};

use crate::fixture::Pristine;
use crate::rig::{both, fixture, large, many_small, scratch, session};

fn assert_right(model: &Model, pristine: &Pristine, gpus: &[usize]) {
    for (name, bytes) in pristine {
        let weight = model.get(name).unwrap();
        assert!(gpus.iter().any(|gpu| weight.device == Device::Gpu(*gpu)), "{name} on {:?}", weight.device);
        assert!(
            weight.host_bytes().is_none() && weight.address.is_multiple_of(256),
            "{name}: {:#x}",
            weight.address
        );
        let mut found = vec![0; bytes.len()];
        model.read(name, &mut found).unwrap();
        assert!(found == *bytes, "'{name}' is wrong");
    }
}

#[test]
fn a_second_load_takes_the_ring_of_the_first() {
    let Some(_session) = session() else { return };
    let (dir, fixture) = fixture();
    let loader = Loader::builder().build().unwrap();
    let (many, small) = many_small(dir.path());
    for round in 0..3 {
        for (path, pristine) in [
            (fixture.ours(), &fixture.pristine),
            (fixture.safetensors(), &fixture.pristine),
            (fixture.foreign(), &fixture.pristine),
            (many.clone(), &small),
        ] {
            let checkpoint = Checkpoint::open(&path).unwrap();
            let model = loader.load(&checkpoint, &Request::to(To::gpu(0)).verify(true)).unwrap();
            assert_right(&model, pristine, &[0]);
            println!("round {round}: {:.1} ms, {:?}", model.report().elapsed_s * 1e3, model.report().phases);
        }
    }
}

#[test]
fn loads_of_one_loader_side_by_side() {
    let Some(_session) = session() else { return };
    let dir = scratch();
    let (path, pristine) = large(dir.path());
    let loader = Loader::builder().build().unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let model = loader.load(&checkpoint, &Request::to(To::gpu(0))).unwrap();
                assert_right(&model, &pristine, &[0]);
            });
        }
    });
}

/// Ranges of 1 MiB.
fn with_pool(bytes: u64) -> Loader {
    Loader::builder().pool_bytes(bytes).pool_chunk_bytes(1 << 20).build().unwrap()
}

#[test]
fn a_second_load_comes_from_the_pool() {
    let Some(_session) = session() else { return };
    let dir = scratch();
    let (path, pristine) = large(dir.path());
    let file_bytes = std::fs::metadata(&path).unwrap().len();
    for prefault in [false, true] {
        let builder = Loader::builder().pool_bytes(64 << 20).pool_chunk_bytes(1 << 20).prefault(prefault);
        let loader = builder.build().unwrap();
        for round in 0..3 {
            let checkpoint = Checkpoint::open(&path).unwrap();
            let model = loader.load(&checkpoint, &Request::to(To::gpu(0)).verify(true)).unwrap();
            assert_right(&model, &pristine, &[0]);
            let report = model.report();
            assert_eq!(report.direct_bytes + report.buffered_bytes, report.read_bytes);
            match round {
                0 => assert!(
                    report.path.starts_with("pool-fill-") && report.read_bytes == file_bytes,
                    "{report:?}"
                ),
                _ => assert!(report.path == "pool" && report.read_bytes == 0, "{report:?}"),
            }
        }
    }
}

#[test]
fn two_loads_at_once_read_a_model_once() {
    let Some(_session) = session() else { return };
    let dir = scratch();
    let (path, pristine) = large(dir.path());
    let file_bytes = std::fs::metadata(&path).unwrap().len();
    for _ in 0..4 {
        let (loader, together) = (with_pool(64 << 20), std::sync::Barrier::new(2));
        let checkpoint = Checkpoint::open(&path).unwrap();
        let load = || {
            together.wait();
            let model = loader.load(&checkpoint, &Request::to(To::gpu(0))).unwrap();
            assert_right(&model, &pristine, &[0]);
            assert!(model.report().path.starts_with("pool"), "{:?}", model.report());
            model.report().read_bytes
        };
        let read: u64 = std::thread::scope(|scope| {
            let loads = [scope.spawn(load), scope.spawn(load)];
            loads.into_iter().map(|load| load.join().unwrap()).sum()
        });
        assert_eq!(read, file_bytes);
    }
}

#[test]
fn a_selection_fills_a_part_of_the_pool_and_the_whole_model_the_rest() {
    let Some(_session) = session() else { return };
    let dir = scratch();
    let (path, pristine) = large(dir.path());
    let file_bytes = std::fs::metadata(&path).unwrap().len();
    let loader = with_pool(64 << 20);
    let checkpoint = Checkpoint::open(&path).unwrap();
    let part: Pristine = pristine
        .iter()
        .filter(|(name, _)| name.starts_with("layers.4."))
        .map(|(n, b)| (n.clone(), b.clone()))
        .collect();
    let select = || Request::to(To::gpu(0)).select(Select::Prefix("layers.4.".into()));
    let first = loader.load(&checkpoint, &select()).unwrap();
    assert_right(&first, &part, &[0]);
    let read_bytes = first.report().read_bytes;
    assert!(first.report().path.starts_with("pool-fill-") && read_bytes > 0 && read_bytes < file_bytes);
    let again = loader.load(&checkpoint, &select()).unwrap();
    assert_right(&again, &part, &[0]);
    assert_eq!((again.report().path.as_str(), again.report().read_bytes), ("pool", 0));
    let whole = loader.load(&checkpoint, &Request::to(To::gpu(0))).unwrap();
    assert_right(&whole, &pristine, &[0]);
    let report = whole.report();
    assert!(report.path.starts_with("pool-part-"), "{report:?}");
    assert_eq!(report.read_bytes, file_bytes - read_bytes, "{report:?}");
    assert!(report.path_reason.contains(&format!("the pool held {read_bytes} bytes")), "{report:?}");
    let whole = loader.load(&checkpoint, &Request::to(To::gpu(0))).unwrap();
    assert_right(&whole, &pristine, &[0]);
    assert_eq!((whole.report().path.as_str(), whole.report().read_bytes), ("pool", 0));
}

#[test]
fn what_does_not_fit_goes_past_the_pool_and_says_so() {
    let Some(_session) = session() else { return };
    let dir = scratch();
    let (path, pristine) = large(dir.path());
    let loader = with_pool(2 << 20);
    let model = loader.load(&Checkpoint::open(&path).unwrap(), &Request::to(To::gpu(0))).unwrap();
    assert_right(&model, &pristine, &[0]);
    let report = model.report();
    assert!(!report.path.starts_with("pool"), "{report:?}");
    assert!(report.path_reason.starts_with("not through the pool: the pool has 2 chunks"), "{report:?}");
}

#[test]
fn a_part_of_a_model_goes_to_a_gpu_and_a_failure_leaves_the_loader_good() {
    let Some(session) = session() else { return };
    let (_dir, fixture) = fixture();
    let loader = Loader::builder().build().unwrap();
    let checkpoint = Checkpoint::open(&fixture.safetensors()).unwrap();
    let layer = Request::to(To::gpu(0)).select(Select::Prefix("model.layers.2.".into())).verify(true);
    let part = |(name, _): &(&String, &Vec<u8>)| name.starts_with("model.layers.2.");
    let pristine: Pristine =
        fixture.pristine.iter().filter(part).map(|(name, bytes)| (name.clone(), bytes.clone())).collect();
    let model = loader.load(&checkpoint, &layer).unwrap();
    assert_eq!(model.len(), pristine.len());
    assert_right(&model, &pristine, &[0]);
    drop(model);
    let hogs = session.hog();
    let refused = loader.load(&Checkpoint::open(&fixture.ours()).unwrap(), &Request::to(To::gpu(0)));
    if let Err(error) = refused {
        assert!(matches!(error, Error::OutOfMemory { .. } | Error::Cuda(_)), "{error:?}");
    }
    drop(hogs);
    assert_right(&loader.load(&checkpoint, &layer).unwrap(), &pristine, &[0]);
    let nowhere = loader.load(&checkpoint, &Request::to(To::Gpu("no such GPU".into()))).err().unwrap();
    assert!(matches!(nowhere, Error::NotFound(_)), "{nowhere:?}");
}

#[test]
fn two_gpus_by_one_loader() {
    let Some(session) = session() else { return };
    if both(&session).is_none() {
        return;
    }
    let (_dir, fixture) = fixture();
    let loader = Loader::builder().build().unwrap();
    let labels = || vec!["0".to_string(), "1".to_string()];
    for path in [fixture.ours(), fixture.safetensors()] {
        let checkpoint = Checkpoint::open(&path).unwrap();
        for _ in 0..2 {
            let model = loader.load(&checkpoint, &Request::to(To::Balanced(labels())).verify(true)).unwrap();
            assert_right(&model, &fixture.pristine, &[0, 1]);
            let model = loader.load(&checkpoint, &Request::to(To::Replicate(labels())).verify(true)).unwrap();
            for copy in 0..2 {
                let weight = model.get_copy("lm_head.weight", copy).unwrap();
                assert_eq!(weight.device, Device::Gpu(copy));
            }
        }
    }
}
