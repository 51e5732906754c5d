//! What the GPU tests share: the GPU, checkpoints with known bytes, and checks of what was loaded.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use sllm_gds::checkpoint::{Checkpoint, DType, Tensor};
use sllm_gds::gpu;
use sllm_gds::gpu::memory::DeviceBuffer;
use sllm_gds::gpu::{Gpu, kernels};
use sllm_gds::load::engine::{Engine, Job};
use sllm_gds::load::jobs::{targets, to_devices};
use sllm_gds::load::links::Carrier;
use sllm_gds::load::pinned::{Ring, SubChunk};
use sllm_gds::load::plan::{Plan, Spacing, TENSOR_ALIGN};
use sllm_gds::load::source::Sources;
use sllm_gds::load::verify;
use sllm_gds::load::verify::Digests;
use sllm_gds::load::{Buffer, Destination, Loaded, Options, Placement, Settings, transfer};
use sllm_gds::os::digest::digest;
use tempfile::TempDir;

use crate::fixture::{Fixture, Made, Pristine, safetensors};

/// Page tables for pinned memory and the like: less than one load of any test here takes.
const DRIVER_BYTES: u64 = 8 << 20;

/// The first GPU, for one test at a time: several look at how much memory is free.
pub struct Session {
    pub gpu: Arc<Gpu>,
    _alone: MutexGuard<'static, ()>,
}

/// On a machine for GPUs, whose absence must not pass for success.
pub const NEED: &str = "SLLM_GDS_NEED_GPU";

/// `None`, and a line that says why, where there is no GPU; an error where one is needed.
pub fn session() -> Option<Session> {
    static ALONE: Mutex<()> = Mutex::new(());
    static GPU: OnceLock<Arc<Gpu>> = OnceLock::new();
    if let Err(why) = gpu::count() {
        assert!(std::env::var_os(NEED).is_none(), "{NEED} is set, and there is no GPU: {why}");
        eprintln!("skipped: {why}");
        return None;
    }
    let alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    // One context for all tests, so that none pays for another's.
    let gpu = GPU.get_or_init(|| gpu::open(&["0".into()]).unwrap().remove(0));
    Some(Session { gpu: gpu.clone(), _alone: alone })
}

/// Both of two GPUs, or `None`, said, where there is only one; an error where two are needed.
pub fn both(session: &Session) -> Option<[Arc<Gpu>; 2]> {
    static SECOND: OnceLock<Arc<Gpu>> = OnceLock::new();
    if gpu::count().is_ok_and(|count| count < 2) {
        assert!(std::env::var(NEED).as_deref() != Ok("2"), "{NEED} is 2, and there is one GPU");
        eprintln!("skipped: there is one GPU, and two are needed");
        return None;
    }
    let second = SECOND.get_or_init(|| gpu::open(&["1".into()]).unwrap().remove(0));
    Some([session.gpu.clone(), second.clone()])
}

impl Session {
    pub fn free_bytes(&self) -> u64 {
        self.gpu.memory_info().unwrap().0
    }

    /// Fails the test if `act` keeps device memory. The context's own grows at first.
    pub fn keeps_memory(&self, mut act: impl FnMut()) {
        act();
        act();
        let before = self.free_bytes();
        act();
        self.assert_free(before);
    }

    /// Fails the test unless as much device memory is free as it was, but for what the driver itself needs.
    #[track_caller]
    pub fn assert_free(&self, before: u64) {
        let now = self.free_bytes();
        assert!(now + DRIVER_BYTES >= before, "{now} bytes are free, and {before} were");
    }

    /// Takes all device memory but a few MiB.
    pub fn hog(&self) -> Vec<DeviceBuffer> {
        let mut hogs = Vec::new();
        let mut bytes = self.gpu.memory_bytes;
        while bytes >= 4 << 20 {
            match DeviceBuffer::new(&self.gpu, bytes) {
                Ok(hog) => hogs.push(hog),
                Err(_) => bytes /= 2,
            }
        }
        hogs
    }

    /// Loads to this GPU as if it were `count` of them.
    pub fn times(&self, count: usize, placement: Placement) -> Destination {
        Destination::Gpus(vec![self.gpu.clone(); count], placement)
    }
}

/// On a disk, where O_DIRECT works: beside the build, or here.
pub fn scratch() -> TempDir {
    let built = Path::new(env!("CARGO_TARGET_TMPDIR"));
    tempfile::tempdir_in(if built.is_dir() { built } else { Path::new(".") }).unwrap()
}

pub fn fixture() -> (TempDir, Fixture) {
    let dir = scratch();
    let fixture = Fixture::new_in(dir.path());
    (dir, fixture)
}

/// 24 MB in one safetensors file, whose tensors begin at odd addresses.
pub fn large(dir: &Path) -> (PathBuf, Pristine) {
    let mut rng = fastrand::Rng::with_seed(11);
    let mut tensor = |(i, bytes): (usize, usize)| {
        let mut made = vec![0u8; bytes];
        rng.fill(&mut made);
        let (name, shape) = (format!("layers.{i}.w"), vec![bytes as u64]);
        Made { name, dtype: DType::U8, shape, bytes: made }
    };
    let sizes = [9_000_001, 6_000_000, 33, 4_999_999, 4_100_000];
    let made: Vec<Made> = sizes.into_iter().enumerate().map(&mut tensor).collect();
    let path = dir.join("large.safetensors");
    std::fs::write(&path, safetensors(&made)).unwrap();
    (path, made.into_iter().map(|t| (t.name, t.bytes)).collect())
}

/// Many small tensors of odd sizes in one safetensors file: each copy has more pieces than go one by one.
pub fn many_small(dir: &Path) -> (PathBuf, Pristine) {
    let mut rng = fastrand::Rng::with_seed(12);
    let mut tensor = |i: usize| {
        let mut made = vec![0u8; rng.usize(1..3000)];
        rng.fill(&mut made);
        let (name, shape) = (format!("layers.{i}.w"), vec![made.len() as u64]);
        Made { name, dtype: DType::U8, shape, bytes: made }
    };
    let made: Vec<Made> = (0..3000).map(&mut tensor).collect();
    let path = dir.join("many.safetensors");
    std::fs::write(&path, safetensors(&made)).unwrap();
    (path, made.into_iter().map(|t| (t.name, t.bytes)).collect())
}

/// Three chunks to a copy, so that several threads fill one wherever something is loaded.
pub fn options(chunk_bytes: u64, threads: usize, slots: usize) -> Options {
    let settings = Settings {
        chunk_bytes: Some(chunk_bytes),
        threads: Some(threads),
        copy_bytes: Some(3 * chunk_bytes),
        ring_bytes: Some(slots as u64 * 3 * chunk_bytes),
        ..Settings::default()
    };
    let to = Destination::Gpus(Vec::new(), Placement::Balanced);
    Options { poison: true, ..Options::new(&settings, &to, Err(None)).unwrap() }
}

/// A link that copies to its own GPU alone.
pub fn own_link(gpu: &Arc<Gpu>) -> Carrier {
    Carrier { direct: vec![gpu.clone()], passes_on: false, own: vec![0], helps: Vec::new() }
}

/// The tensors that verification finds wrong.
pub fn wrong_by_digest(loaded: &Loaded, pristine: &Pristine) -> BTreeSet<String> {
    let expected: Digests = pristine.iter().map(|(name, bytes)| (name.clone(), digest(bytes))).collect();
    let checked = verify::check(loaded, &expected, &Default::default()).unwrap();
    checked.wrong.iter().map(|line| line.split('\'').nth(1).unwrap().to_string()).collect()
}

/// Fails the test unless every tensor, in every copy, has its bytes: by the GPU's digests, and byte by byte
/// after it is copied back.
pub fn assert_right(loaded: &Loaded, pristine: &Pristine) {
    assert_eq!(wrong_by_digest(loaded, pristine), BTreeSet::new());
    assert_eq!(loaded.checkpoint.tensors.len(), pristine.len());
    let copies = if loaded.is_replicated() { loaded.buffers.len() } else { 1 };
    for copy in 0..copies {
        for (i, tensor) in loaded.checkpoint.tensors.iter().enumerate() {
            let view = loaded.view(i, copy);
            let device = device(view.buffer);
            assert_eq!(view.device_address(), Some(device.address() + view.offset));
            assert!(
                view.device_address().unwrap().is_multiple_of(TENSOR_ALIGN),
                "'{}' is not aligned",
                tensor.name
            );
            assert!(view.host_bytes().is_none());
            let mut bytes = vec![0u8; tensor.bytes as usize];
            device.read(view.offset, &mut bytes).unwrap();
            assert!(bytes == pristine[&tensor.name], "'{}' of copy {copy} is wrong", tensor.name);
        }
    }
}

/// The tensors that differ from what they should be, read back byte by byte.
pub fn really_wrong(loaded: &Loaded, pristine: &Pristine) -> BTreeSet<String> {
    let differs = |(i, t): &(usize, &Tensor)| {
        let view = loaded.view(*i, 0);
        let mut bytes = vec![0u8; t.bytes as usize];
        device(view.buffer).read(view.offset, &mut bytes).unwrap();
        bytes != pristine[&t.name]
    };
    let tensors = loaded.checkpoint.tensors.iter().enumerate();
    tensors.filter(differs).map(|(_, t)| t.name.clone()).collect()
}

pub fn device(buffer: &Buffer) -> &DeviceBuffer {
    match buffer {
        Buffer::Device(device) => device,
        Buffer::Host(_) => panic!("a load to a GPU went to the host"),
    }
}

/// A load taken apart, to be interfered with: storage and engines are made and wrapped by the test.
pub struct Parts {
    pub checkpoint: Checkpoint,
    pub plan: Plan,
    pub buffers: Vec<Buffer>,
    gpu: Arc<Gpu>,
    pub options: Options,
}

impl Parts {
    /// One poisoned destination.
    pub fn new(gpu: &Arc<Gpu>, path: &Path, options: &Options) -> Parts {
        let checkpoint = Checkpoint::open(path).unwrap();
        let plan = Plan::new(&checkpoint, 1, Spacing::Aligned).unwrap();
        let mut buffer = DeviceBuffer::new(gpu, plan.destination_bytes[0]).unwrap();
        kernels::poison(&mut buffer).unwrap();
        let (buffers, gpu) = (vec![Buffer::Device(buffer)], gpu.clone());
        Parts { checkpoint, plan, buffers, gpu, options: options.clone() }
    }

    /// A ring with all its kits.
    pub fn ring(&self) -> Ring {
        let ring = Ring::new(&[own_link(&self.gpu)], &self.options);
        std::thread::scope(|scope| ring.fill(scope)).unwrap();
        ring
    }

    /// Its files, opened.
    pub fn sources(&self) -> Sources {
        Sources::open(&self.checkpoint, self.options.io).unwrap()
    }

    /// Runs the reads that `choose` leaves.
    pub fn run<'a>(
        &'a mut self,
        ring: &'a Ring,
        engine: &impl Engine<Memory = SubChunk<'a>>,
        cancel: &sllm_gds::os::cancel::Cancel,
        choose: impl FnOnce(&mut Vec<Job<SubChunk<'a>>>),
    ) -> anyhow::Result<()> {
        let targets = targets(&self.plan, &mut self.buffers);
        let copies = to_devices(&self.plan, targets, self.options.copy_bytes).into_iter().flatten();
        let mut jobs = copies.flat_map(|copy| ring.cut(0, copy)).collect();
        choose(&mut jobs);
        transfer(&self.checkpoint.files, vec![jobs], engine, self.options.threads, cancel)
    }

    pub fn loaded(self) -> Loaded {
        Loaded::whole(self.checkpoint.into(), self.plan, self.buffers)
    }
}
