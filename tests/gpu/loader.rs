//! The loader that others hold, on GPUs: what it keeps, and where tensors lie.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sllm_gds::gpu::memory::DeviceBuffer;
use sllm_gds::{
    ByteRange, Checkpoint, DType, Device, Error, Loader, Memory, Model, Request, Select, Slice, Target, To,
};

use crate::fixture::{Made, Pristine, safetensors};
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
fn loads_of_more_and_more_pieces_by_one_loader() {
    let Some(_session) = session() else { return };
    let dir = scratch();
    let (path, pristine) = many_small(dir.path());
    let checkpoint = Checkpoint::open(&path).unwrap();
    for _ in 0..8 {
        let loader = Loader::builder().build().unwrap();
        // Each takes the tables of the last, as long as these have room.
        for count in [6, 25, 60, 100, 101, 150, 600] {
            let some: Pristine =
                pristine.iter().step_by(2).take(count).map(|(name, b)| (name.clone(), b.clone())).collect();
            let request = Request::to(To::gpu(0)).select(Select::names(some.keys()));
            assert_right(&loader.load(&checkpoint, &request).unwrap(), &some, &[0]);
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
    let checkpoint = Checkpoint::open(fixture.safetensors()).unwrap();
    let layer = Request::to(To::gpu(0)).select(Select::Prefix("model.layers.2.".into())).verify(true);
    let part = |(name, _): &(&String, &Vec<u8>)| name.starts_with("model.layers.2.");
    let pristine: Pristine =
        fixture.pristine.iter().filter(part).map(|(name, bytes)| (name.clone(), bytes.clone())).collect();
    let model = loader.load(&checkpoint, &layer).unwrap();
    assert_eq!(model.len(), pristine.len());
    assert_right(&model, &pristine, &[0]);
    drop(model);
    let hogs = session.hog();
    let refused = loader.load(&Checkpoint::open(fixture.ours()).unwrap(), &Request::to(To::gpu(0)));
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

/// Of each tensor a third or so along an axis that it has.
fn slices(checkpoint: &Checkpoint, axis: usize) -> BTreeMap<String, Option<Slice>> {
    let slice = |shape: &[u64]| {
        let extent = shape.get(axis).filter(|extent| **extent > 1)?;
        Some(Slice { axis, range: extent / 3..extent - extent / 4 })
    };
    checkpoint.tensors.iter().map(|tensor| (tensor.name.clone(), slice(&tensor.shape))).collect()
}

/// A file of matrices whose slices cross many copies: short rows, rows longer than what one thread block moves, and rows so
/// long that each is read alone.
fn wide(dir: &Path) -> PathBuf {
    let matrix = |(i, shape): (usize, [u64; 2])| {
        let mut bytes = vec![0; (shape[0] * shape[1]) as usize];
        fastrand::Rng::with_seed(i as u64).fill(&mut bytes);
        Made { name: format!("layers.{i}.w"), dtype: DType::U8, shape: shape.to_vec(), bytes }
    };
    let shapes = [[300_000, 24], [1500, 4099], [40, 300_000], [9, 2_000_003]];
    let made: Vec<Made> = shapes.into_iter().enumerate().map(matrix).collect();
    let path = dir.join("wide.safetensors");
    std::fs::write(&path, safetensors(&made)).unwrap();
    path
}

#[test]
fn slices_arrive_on_gpus_as_in_host_memory() {
    let Some(session) = session() else { return };
    let dir = scratch();
    let path = wide(dir.path());
    let (_dir, fixture) = fixture();
    let loader = Loader::builder().build().unwrap();
    let pooled = Loader::builder().pool_bytes(1 << 30).build().unwrap();
    let mut places = vec![To::gpu(0), To::Balanced(vec!["0".into(), "0".into()])];
    if both(&session).is_some() {
        let labels = || vec!["0".to_string(), "1".to_string()];
        places.extend([To::Balanced(labels()), To::Replicate(labels())]);
    }
    for path in [path, fixture.ours(), fixture.safetensors(), fixture.foreign()] {
        let checkpoint = Checkpoint::open(&path).unwrap();
        for axis in [0, 1] {
            let select = Select::Slices(slices(&checkpoint, axis));
            let host = loader.load(&checkpoint, &Request::to(To::Host).select(select.clone()).verify(true));
            let host = host.unwrap();
            let wanted: Pristine = host
                .names()
                .map(|name| (name.to_string(), host.get(name).unwrap().host_bytes().unwrap().to_vec()))
                .collect();
            for to in &places {
                let request = Request::to(to.clone()).select(select.clone()).verify(true);
                assert_right(&loader.load(&checkpoint, &request).unwrap(), &wanted, &[0, 1]);
                // Read into the pool, and from there.
                for path in ["pool", "pool"] {
                    let model = pooled.load(&checkpoint, &request).unwrap();
                    assert_right(&model, &wanted, &[0, 1]);
                    assert!(model.report().path.starts_with(path), "{}", model.report().path);
                }
            }
        }
    }
}

#[test]
fn tensors_and_ranges_go_to_memory_that_is_there() {
    let Some(session) = session() else { return };
    let (_dir, fixture) = fixture();
    let gpus: Vec<_> = match both(&session) {
        Some(gpus) => gpus.to_vec(),
        None => vec![session.gpu.clone()],
    };
    let loader = Loader::builder().build().unwrap();
    for path in [fixture.ours(), fixture.safetensors(), fixture.foreign()] {
        let checkpoint = Checkpoint::open(&path).unwrap();
        // Turn about on the GPUs, each at an odd place of memory of its own, with bytes around it that must stay.
        let (mut rooms, mut memory, mut places) = (Vec::new(), Vec::new(), BTreeMap::new());
        for (i, (name, bytes)) in fixture.pristine.iter().enumerate() {
            let room_bytes = bytes.len() as u64 + 7;
            let mut room = DeviceBuffer::new(&gpus[i % gpus.len()], room_bytes).unwrap();
            let gpu = room.gpu().clone();
            room.as_mut_slice().write(&gpu, 0, &vec![0xa5; room_bytes as usize]).unwrap();
            gpu.synchronize().unwrap();
            // SAFETY: the room outlives the model, and nothing else touches it.
            memory.push(unsafe { Memory::new(Device::Gpu(gpu.index), room.address(), room_bytes) });
            places.insert(name.clone(), (i, 5));
            rooms.push(room);
        }
        let request = Request::to(To::Into(Target::tensors(memory.clone(), places))).verify(true);
        let model = loader.load(&checkpoint, &request).unwrap();
        for (room, (name, bytes)) in rooms.iter().zip(&fixture.pristine) {
            assert_eq!(model.get(name).unwrap().address, room.address() + 5);
            let mut found = vec![0; bytes.len() + 7];
            room.read(0, &mut found).unwrap();
            assert!(found[5..found.len() - 2] == bytes[..], "'{name}' is wrong");
            assert!(found[..5].iter().chain(&found[found.len() - 2..]).all(|byte| *byte == 0xa5), "'{name}'");
        }
        drop(model);
        // The same bytes to all of these, once read.
        let tensor = checkpoint.tensors.iter().find(|tensor| tensor.name == "lm_head.weight").unwrap();
        let bytes = 64;
        let large: Vec<usize> = (0..rooms.len()).filter(|room| rooms[*room].bytes() > 100).collect();
        let [first, second, .., last] = large[..] else { panic!("the fixture has large tensors") };
        let to = |memory: usize| ByteRange { from: tensor.offset + 3, bytes, memory, to: 1 };
        let ranges = vec![to(first), to(second), to(last)];
        let request = Request::to(To::Into(Target::ranges(memory, ranges))).verify(true);
        let model = loader.load(&checkpoint, &request).unwrap();
        assert_eq!((model.len(), model.report().bytes), (3, 3 * bytes));
        for room in [first, second, last] {
            let mut found = vec![0; 64];
            rooms[room].read(1, &mut found).unwrap();
            assert!(found == fixture.pristine["lm_head.weight"][3..67]);
        }
    }
}

#[test]
fn memory_that_no_gpu_has_is_refused() {
    let Some(session) = session() else { return };
    let (_dir, fixture) = fixture();
    let loader = Loader::builder().build().unwrap();
    let checkpoint = Checkpoint::open(fixture.ours()).unwrap();
    let room = DeviceBuffer::new(&session.gpu, 4 << 20).unwrap();
    let load = |address: u64, bytes: u64| {
        // SAFETY: what is no memory is to be refused; the rest is the room, which outlives the load.
        let memory = unsafe { Memory::new(Device::Gpu(0), address, bytes) };
        let range = ByteRange { from: 0, bytes: 10, memory: 0, to: 0 };
        let target = Target::ranges(vec![memory], vec![range]);
        loader.load(&checkpoint, &Request::to(To::Into(target)))
    };
    assert!(matches!(load(0x1000, 4096), Err(Error::Cuda(_))));
    let past = load(room.address(), (4 << 20) + 1).err().unwrap();
    assert!(past.to_string().contains("the allocation there has"), "{past}");
    load(room.address() + (4 << 20) - 10, 10).unwrap();
}

/// A kernel that writes where nothing is, as a bug of anyone's in this process might.
const STRAY: &std::ffi::CStr = c".version 7.0
.target sm_75
.address_size 64
.visible .entry stray() {
    .reg .u64 %to;
    .reg .u32 %what;
    mov.u64 %to, 16;
    mov.u32 %what, 1;
    st.global.u32 [%to], %what;
    ret;
}
";

/// In a process of its own, whose context is lost by it.
#[test]
fn a_lost_context_ends_the_loader_and_says_so() {
    const CHILD: &str = "SLLM_GDS_TEST_LOST";
    if std::env::var_os(CHILD).is_none() {
        let Some(session) = session() else { return };
        let name = "loader::a_lost_context_ends_the_loader_and_says_so";
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        let output = child.args(["--exact", name, "--nocapture"]).env(CHILD, "1").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && text.contains("1 passed") && text.contains("lost and told"),
            "{}: {text}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        // This process has its own context, which is as good as before.
        session.gpu.synchronize().unwrap();
        return;
    }
    let (_dir, fixture) = fixture();
    let loader = Loader::builder().build().unwrap();
    let checkpoint = Checkpoint::open(fixture.ours()).unwrap();
    let load = || loader.load(&checkpoint, &Request::to(To::gpu(0)));
    let model = load().unwrap();
    assert_right(&model, &fixture.pristine, &[0]);
    lose_the_context();
    let first = load().err().unwrap();
    assert!(matches!(&first, Error::Cuda(text) if text.contains("CUDA_ERROR_ILLEGAL_ADDRESS")), "{first:?}");
    for _ in 0..2 {
        let again = load().err().unwrap();
        let told = |text: &str| text.contains("new process") && text.contains("CUDA_ERROR_ILLEGAL_ADDRESS");
        assert!(matches!(&again, Error::Cuda(text) if told(text)), "{again:?}");
    }
    // What lies in the lost context goes without a panic.
    drop((model, loader));
    println!("lost and told");
}

fn lose_the_context() {
    use cudarc::driver::{CudaContext, result};
    let context = CudaContext::new(0).unwrap();
    context.bind_to_thread().unwrap();
    // SAFETY: PTX that ends in NUL, loaded into the current context, and a kernel of it without arguments.
    unsafe {
        let module = result::module::load_data(STRAY.as_ptr().cast()).unwrap();
        let stray = result::module::get_function(module, c"stray".to_owned()).unwrap();
        result::launch_kernel(stray, (1, 1, 1), (1, 1, 1), 0, std::ptr::null_mut(), &mut []).unwrap();
    }
    result::ctx::synchronize().unwrap_err();
    // Its own drop would fail, too.
    std::mem::forget(context);
}
