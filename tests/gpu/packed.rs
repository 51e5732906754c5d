//! Packed weights, unpacked on the GPU: the very bytes, or an error.

use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use sllm_gds::gpu::memory::DeviceBuffer;
use sllm_gds::origin::input;
use sllm_gds::os::progress::Progress;
use sllm_gds::write::pack;
use sllm_gds::{
    ByteRange, Cancel, Checkpoint, Device, IoChoice, Loader, Memory, Model, Request, Select, Slice, Target,
    To,
};

use crate::model::{self, Pristine};
use crate::rig::{both, scratch, session};

fn packed(dir: &Path) -> (PathBuf, Pristine) {
    let pristine = model::write(&dir.join("source"));
    let input = input::of_checkpoint(Checkpoint::open(dir.join("source")).unwrap()).unwrap();
    let layout = pack::layout(&input, 2, 2 << 20).unwrap();
    let to = dir.join("packed");
    pack::save(&input, &layout, &to, false, &Cancel::new(), &Progress::silent()).unwrap();
    (to, pristine)
}

fn assert_right(model: &Model, pristine: &Pristine) {
    for (name, bytes) in pristine {
        let mut found = vec![0; bytes.len()];
        model.read(name, &mut found).unwrap();
        assert!(found == *bytes, "'{name}' is wrong: {}", model.report().path_reason);
    }
}

fn on_the_gpu(model: &Model) -> bool {
    model.report().path_reason.contains("unpacked on the GPU")
}

#[test]
fn packed_weights_are_unpacked_there() {
    let Some(_session) = session() else { return };
    let dir = scratch();
    let (path, pristine) = packed(dir.path());
    let checkpoint = Checkpoint::open(&path).unwrap();
    for io in [IoChoice::Buffered, IoChoice::Direct] {
        for copy_bytes in [3 << 20, 4 << 20, 16 << 20] {
            let loader = Loader::builder().io(io).copy_bytes(copy_bytes).build().unwrap();
            // The second takes the ring and the buffers of the first.
            for _ in 0..2 {
                let model = loader.load(&checkpoint, &Request::to(To::gpu(0)).verify(true)).unwrap();
                assert!(on_the_gpu(&model), "{}", model.report().path_reason);
                assert_right(&model, &pristine);
                let report = model.report();
                assert_eq!(
                    (report.bytes, report.read_bytes),
                    (checkpoint.tensor_bytes(), checkpoint.stored_bytes())
                );
            }
        }
    }
    // A copy that holds no chunk: the CPU unpacks.
    let loader = Loader::builder().chunk_bytes(64 << 10).copy_bytes(64 << 10).build().unwrap();
    let model = loader.load(&checkpoint, &Request::to(To::gpu(0)).verify(true)).unwrap();
    assert!(!on_the_gpu(&model));
    assert_right(&model, &pristine);
}

#[test]
fn selections_slices_and_memory_of_the_callers() {
    let Some(session) = session() else { return };
    let dir = scratch();
    let (path, pristine) = packed(dir.path());
    let checkpoint = Checkpoint::open(&path).unwrap();
    let loader = Loader::builder().build().unwrap();
    let load =
        |select| loader.load(&checkpoint, &Request::to(To::gpu(0)).select(select).verify(true)).unwrap();
    for name in pristine.keys() {
        let names = BTreeSet::from([name.clone()]);
        let one = load(Select::Names(names));
        let only = [(name.clone(), pristine[name].clone())].into();
        assert_right(&one, &only);
    }
    let half = |t: &sllm_gds::Tensor| {
        let range = t.shape.first().filter(|n| **n > 2).map(|n| 1..n / 2);
        (t.name.clone(), range.map(|range| Slice { axis: 0, range }))
    };
    let slices = load(Select::Slices(checkpoint.tensors.iter().map(half).collect()));
    for tensor in checkpoint.tensors.iter() {
        let rows = tensor.shape.first().copied().unwrap_or(0);
        let row = if rows == 0 { 0 } else { pristine[&tensor.name].len() / rows as usize };
        let wanted = match rows > 2 {
            true => &pristine[&tensor.name][row..row * (rows as usize / 2)],
            false => &pristine[&tensor.name][..],
        };
        let mut found = vec![0; wanted.len()];
        slices.read(&tensor.name, &mut found).unwrap();
        assert!(found == wanted, "{}", tensor.name);
    }
    let bytes = checkpoint.file_bytes();
    let buffer = DeviceBuffer::new(&session.gpu, bytes).unwrap();
    // SAFETY: the buffer outlives the load, and nothing else touches it meanwhile.
    let memory = unsafe { Memory::new(Device::Gpu(0), buffer.address(), bytes) };
    let whole = vec![ByteRange { from: 0, bytes, memory: 0, to: 0 }];
    loader.load(&checkpoint, &Request::to(To::Into(Target::ranges(vec![memory], whole)))).unwrap();
    let mut all = vec![0; bytes as usize];
    buffer.read(0, &mut all).unwrap();
    for tensor in checkpoint.tensors.iter() {
        assert!(
            all[tensor.offset as usize..tensor.end() as usize] == pristine[&tensor.name],
            "{}",
            tensor.name
        );
    }
}

#[test]
fn a_pool_gives_the_same_bytes_again() {
    let Some(_session) = session() else { return };
    let dir = scratch();
    let (path, pristine) = packed(dir.path());
    let checkpoint = Checkpoint::open(&path).unwrap();
    for chunk_bytes in [64 << 10, 2 << 20, 16 << 20] {
        let loader = Loader::builder().pool_bytes(128 << 20).pool_chunk_bytes(chunk_bytes).build().unwrap();
        for wanted in ["pool-fill", "pool", "pool"] {
            let model = loader.load(&checkpoint, &Request::to(To::gpu(0)).verify(true)).unwrap();
            assert!(model.report().path.starts_with(wanted), "{}", model.report().path);
            // Chunks that are longer than those of the pool are unpacked on their way into it.
            let reason = &model.report().path_reason;
            assert!(on_the_gpu(&model) || chunk_bytes < 1 << 20, "{reason}");
            assert_right(&model, &pristine);
        }
        for name in pristine.keys() {
            let select = Select::Names(BTreeSet::from([name.clone()]));
            let one = loader.load(&checkpoint, &Request::to(To::gpu(0)).select(select)).unwrap();
            assert_right(&one, &[(name.clone(), pristine[name].clone())].into());
        }
    }
}

#[test]
fn two_gpus_get_what_is_theirs_and_copies_of_all() {
    let Some(session) = session() else { return };
    if both(&session).is_none() {
        return;
    }
    let dir = scratch();
    let (path, pristine) = packed(dir.path());
    let checkpoint = Checkpoint::open(&path).unwrap();
    let pool = Loader::builder().pool_bytes(128 << 20).build().unwrap();
    for links in [sllm_gds::Links::Own, sllm_gds::Links::Auto, sllm_gds::Links::All] {
        for to in [
            To::gpu(0),
            To::Balanced(vec!["0".into(), "1".into()]),
            To::Replicate(vec!["0".into(), "1".into()]),
        ] {
            let loader = Loader::builder().build().unwrap();
            let request = Request::to(to).links(links.clone()).verify(true);
            for loader in [&loader, &pool] {
                assert_right(&loader.load(&checkpoint, &request).unwrap(), &pristine);
            }
        }
    }
}

/// Every hundredth byte or so, one at a time: an error, or the very bytes. Under compute-sanitizer nothing is read or written
/// out of place.
#[test]
fn damage_is_told_and_harms_nothing() {
    let Some(_session) = session() else { return };
    let through_pool = || Loader::builder().io(IoChoice::Buffered).pool_bytes(128 << 20).build().unwrap();
    for loader in [Loader::builder().io(IoChoice::Buffered).build().unwrap(), through_pool()] {
        damage(&loader);
    }
}

fn damage(loader: &Loader) {
    let dir = scratch();
    let (path, pristine) = packed(dir.path());
    let data = path.join("packed.data_0");
    let file = std::fs::File::options().read(true).write(true).open(&data).unwrap();
    let length = file.metadata().unwrap().len();
    let mut random = fastrand::Rng::with_seed(5);
    let (mut by_tables, mut by_blocks, mut by_digests) = (0, 0, 0);
    for round in 0..300 {
        // A third of them in the tables of the first chunk.
        let at = if round % 3 == 0 { random.u64(..1100) } else { random.u64(..length) };
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1 << random.u8(..8)], at).unwrap();
        // Opened anew: its times changed.
        let checkpoint = Checkpoint::open(&path).unwrap();
        match loader.load(&checkpoint, &Request::to(To::gpu(0)).verify(true)) {
            Ok(model) => assert_right(&model, &pristine),
            Err(error) => {
                let text = error.to_string();
                by_tables += u32::from(text.contains("is damaged:"));
                by_blocks += u32::from(text.contains("do not hold what their entries say"));
                by_digests += u32::from(text.contains("digest"));
            }
        }
        file.write_all_at(&byte, at).unwrap();
    }
    println!("{by_tables} by tables, {by_blocks} by blocks on the GPU, {by_digests} by digests");
    assert!(by_tables > 0 && by_blocks > 0 && by_digests > 0);
    let good = loader.load(&Checkpoint::open(&path).unwrap(), &Request::to(To::gpu(0)).verify(true)).unwrap();
    assert_right(&good, &pristine);
}
