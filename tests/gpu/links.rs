//! Loads over several links: right wherever the bytes went through, and both GPUs' memory as it was.

use std::path::Path;
use std::sync::Arc;

use sllm_gds::gpu::Gpu;
use sllm_gds::gpu::peers::{self, Reach};
use sllm_gds::load::fault::{Fault, FaultStorage};
use sllm_gds::load::jobs::{targets, to_devices};
use sllm_gds::load::links::Carrier;
use sllm_gds::load::loaded::Placement;
use sllm_gds::load::pinned::{PinnedEngine, Ring};
use sllm_gds::load::plan::{Plan, Spacing};
use sllm_gds::load::shared::Shared;
use sllm_gds::load::source::Sources;
use sllm_gds::load::task::{Task, lanes};
use sllm_gds::load::transfer::JobSource;
use sllm_gds::load::{Destination, Loaded, Settings, transfer_from};
use sllm_gds::os::cancel::Cancel;
use sllm_gds::{Checkpoint, Device, Error, Links, Loader, Model, Request, Select, Slice, To};

use crate::fixture::Pristine;
use crate::rig::{Session, both, fixture, large, many_small, options, scratch, session};

/// Both GPUs, if NVLink joins them.
fn joined(session: &Session) -> Option<[Arc<Gpu>; 2]> {
    let gpus = both(session)?;
    if peers::reach(&gpus[0], &gpus[1]).unwrap() != Reach::NvLink {
        eprintln!("skipped: no NVLink joins the two GPUs");
        return None;
    }
    Some(gpus)
}

fn assert_right(model: &Model, pristine: &Pristine, device: impl Fn(&Device) -> bool) {
    for (name, bytes) in pristine {
        let weight = model.get(name).unwrap();
        assert!(
            device(&weight.device) && weight.address.is_multiple_of(256),
            "{name} on {:?}",
            weight.device
        );
        let mut found = vec![0; bytes.len()];
        model.read(name, &mut found).unwrap();
        assert!(found == *bytes, "'{name}' is wrong");
    }
}

fn both_labels() -> Vec<String> {
    vec!["0".into(), "1".into()]
}

/// Small reads and copies, so that every link gets many.
fn loader() -> Loader {
    let small = Loader::builder().chunk_bytes(64 << 10).copy_bytes(256 << 10).ring_bytes(1 << 20);
    small.threads(3).build().unwrap()
}

#[test]
fn every_way_over_two_links_brings_every_byte() {
    let Some(session) = session() else { return };
    if joined(&session).is_none() {
        return;
    }
    let (dir, fixture) = fixture();
    let ((large, large_bytes), (many, many_bytes)) = (large(dir.path()), many_small(dir.path()));
    let sets: [(&Path, &Pristine); 5] = [
        (&fixture.ours(), &fixture.pristine),
        (&fixture.safetensors(), &fixture.pristine),
        (&fixture.foreign(), &fixture.pristine),
        (&large, &large_bytes),
        (&many, &many_bytes),
    ];
    let loader = loader();
    for (path, pristine) in sets {
        let checkpoint = Checkpoint::open(path).unwrap();
        let first = |to: &str| (To::Gpu(to.into()), Device::Gpu(to.parse().unwrap()));
        for (to, device) in [first("0"), first("1")] {
            for links in [Links::All, Links::Gpus(both_labels()), Links::Gpus(vec!["0".into()]), Links::Own] {
                let request = Request::to(to.clone()).links(links).verify(true);
                let model = loader.load(&checkpoint, &request).unwrap();
                assert_right(&model, pristine, |on| *on == device);
            }
        }
        for to in [To::Balanced(both_labels()), To::Replicate(both_labels())] {
            for links in [Links::Auto, Links::Own, Links::All] {
                let request = Request::to(to.clone()).links(links).verify(true);
                assert_right(&loader.load(&checkpoint, &request).unwrap(), pristine, |_| true);
            }
        }
    }
}

#[test]
fn the_report_says_which_link_carried_what() {
    let Some(session) = session() else { return };
    if joined(&session).is_none() {
        return;
    }
    let dir = scratch();
    let (path, _) = large(dir.path());
    let (loader, checkpoint) = (loader(), Checkpoint::open(&path).unwrap());
    let bytes = checkpoint.tensor_bytes();
    let load =
        |to: To, links| loader.load(&checkpoint, &Request::to(to).links(links)).unwrap().report().clone();
    let own = load(To::gpu(0), Links::Own);
    assert_eq!((own.links.len(), own.links[0].passed_on_bytes), (1, 0), "{own:?}");
    let all = load(To::gpu(0), Links::All);
    let carried: u64 = all.links.iter().map(|link| link.bytes).sum();
    assert!(all.links.len() == 2 && carried >= bytes && carried < bytes + (1 << 20), "{all:?}");
    let [own, helper] = &all.links[..] else { panic!("{all:?}") };
    assert!(
        own.passed_on_bytes == 0 && helper.passed_on_bytes == helper.bytes && helper.bytes > 0,
        "{all:?}"
    );
    let through = load(To::gpu(0), Links::Gpus(vec!["1".into()]));
    assert!(through.links.len() == 1 && through.links[0].passed_on_bytes >= bytes, "{through:?}");
    // Each byte comes once over one of the links, and with each link alone over both.
    let carried =
        |links| load(To::Replicate(both_labels()), links).links.iter().map(|l| l.bytes).sum::<u64>();
    assert!(carried(Links::Auto) < bytes + (1 << 20));
    assert!(carried(Links::Own) >= 2 * bytes);
}

#[test]
fn slices_and_the_pool_go_over_both_links() {
    let Some(session) = session() else { return };
    if joined(&session).is_none() {
        return;
    }
    let (_dir, fixture) = fixture();
    let checkpoint = Checkpoint::open(fixture.ours()).unwrap();
    let halves = Select::Slices(
        checkpoint
            .tensors()
            .iter()
            .filter(|tensor| tensor.shape.len() == 2 && tensor.shape[1] >= 2)
            .map(|tensor| (tensor.name.clone(), Some(Slice { axis: 1, range: 0..tensor.shape[1] / 2 })))
            .collect(),
    );
    let pool = Loader::builder().pool_bytes(256 << 20).pool_chunk_bytes(256 << 10).build().unwrap();
    for loader in [loader(), pool] {
        let own = Request::to(To::gpu(0)).select(halves.clone()).links(Links::Own);
        let expected = loader.load(&checkpoint, &own).unwrap();
        for _ in 0..2 {
            let request = Request::to(To::gpu(0)).select(halves.clone()).links(Links::All).verify(true);
            let model = loader.load(&checkpoint, &request).unwrap();
            for weight in expected.weights() {
                let bytes = |model: &Model| {
                    let mut found = vec![0; weight.bytes as usize];
                    model.read(weight.name, &mut found).unwrap();
                    found
                };
                assert!(bytes(&model) == bytes(&expected), "'{}' is wrong", weight.name);
            }
        }
        for to in [To::gpu(1), To::Balanced(both_labels()), To::Replicate(both_labels())] {
            for links in [Links::All, Links::Auto] {
                let request = Request::to(to.clone()).links(links).verify(true);
                assert_right(&loader.load(&checkpoint, &request).unwrap(), &fixture.pristine, |_| true);
            }
        }
    }
}

#[test]
fn a_hundred_loads_leave_both_gpus_as_they_were() {
    let Some(session) = session() else { return };
    let Some([_, second]) = joined(&session) else { return };
    let dir = scratch();
    let (path, _) = large(dir.path());
    let checkpoint = Checkpoint::open(&path).unwrap();
    let free = || [session.free_bytes(), second.memory_info().unwrap().0];
    let run = |loads: usize| {
        let loader = loader();
        for number in 0..loads {
            let to = [To::gpu(0), To::gpu(1), To::Replicate(both_labels())][number % 3].clone();
            loader.load(&checkpoint, &Request::to(to).links(Links::All)).unwrap();
        }
    };
    run(9);
    let before = free();
    run(100);
    let after = free();
    assert!(
        after.iter().zip(before).all(|(after, before)| after + (8 << 20) >= before),
        "{before:?} {after:?}"
    );
}

#[test]
fn two_loads_at_once_each_with_both_links() {
    let Some(session) = session() else { return };
    if joined(&session).is_none() {
        return;
    }
    let dir = scratch();
    let (path, pristine) = large(dir.path());
    let (loader, checkpoint) = (loader(), Checkpoint::open(&path).unwrap());
    std::thread::scope(|scope| {
        for gpu in [0, 1, 0, 1] {
            let (loader, checkpoint, pristine) = (&loader, &checkpoint, &pristine);
            scope.spawn(move || {
                for _ in 0..10 {
                    let request = Request::to(To::gpu(gpu)).links(Links::All);
                    let model = loader.load(checkpoint, &request).unwrap();
                    assert_right(&model, pristine, |on| *on == Device::Gpu(gpu));
                }
            });
        }
    });
}

#[test]
fn a_failure_on_any_link_fails_the_load_and_nothing_else_does() {
    let Some(session) = session() else { return };
    let Some(gpus) = joined(&session) else { return };
    let (_dir, fixture) = fixture();
    for gpu in &gpus[1..] {
        peers::open(gpu, &gpus[0]).unwrap();
        peers::open(&gpus[0], gpu).unwrap();
    }
    let carrier = |gpu: &Arc<Gpu>, own: Vec<usize>, helps| Carrier {
        direct: vec![gpu.clone()],
        passes_on: true,
        own,
        helps,
    };
    let carriers = [carrier(&gpus[0], vec![0], vec![]), carrier(&gpus[1], vec![], vec![0])];
    let options = options(4096, 2, 3);
    let ring = Ring::new(&carriers, &options);
    std::thread::scope(|scope| ring.fill(scope)).unwrap();
    let checkpoint = Arc::new(Checkpoint::open(fixture.ours()).unwrap());
    let to = Destination::Gpus(vec![gpus[0].clone()], Placement::Balanced);
    let open = || Ok(checkpoint.clone());
    let (mut failed, mut good) = (0, 0);
    for seed in 0..60 {
        let task = Task::whole(&open, &to);
        assert_eq!(lanes(&to).len(), 1);
        let plan = Plan::new(&checkpoint, 1, Spacing::Aligned).unwrap();
        let mut buffers = task.memory(&plan).unwrap();
        let sources = Sources::open(&checkpoint, Settings::default().io).unwrap();
        let storage = FaultStorage::new(&sources, seed, 40, &[Fault::InputOutput, Fault::ShortRead]);
        let engine = PinnedEngine::new(&storage, &ring);
        let ran = {
            let copies = Shared::new(to_devices(&plan, targets(&plan, &mut buffers), options.copy_bytes));
            let links = ring.share(&copies);
            let links: Vec<&dyn JobSource<_>> = links.iter().map(|link| link as _).collect();
            transfer_from(&checkpoint.files, &links, &engine, 2, &Cancel::new(), &|_| {})
        };
        let loud = storage.injected().iter().any(|injected| injected.fault == Fault::InputOutput);
        match ran {
            Err(error) => {
                failed += 1;
                assert!(loud && format!("{error:#}").contains("os error 5"), "{error:#}");
            }
            Ok(_) => {
                good += 1;
                assert!(!loud, "a loud fault was swallowed");
                let loaded = Loaded::whole(checkpoint.clone(), plan, buffers);
                crate::rig::assert_right(&loaded, &fixture.pristine);
            }
        }
    }
    assert!(failed > 5 && good > 5, "{failed} failed, {good} did not");
}

#[test]
fn without_another_gpu_all_links_is_the_own_one_and_says_so() {
    let Some(session) = session() else { return };
    let (_dir, fixture) = fixture();
    let checkpoint = Checkpoint::open(fixture.ours()).unwrap();
    let loader = loader();
    if sllm_gds::gpu::count() == Ok(1) {
        let model = loader.load(&checkpoint, &Request::to(To::gpu(0)).links(Links::All)).unwrap();
        assert_right(&model, &fixture.pristine, |_| true);
        assert!(model.report().path_reason.contains("no other GPU"), "{:?}", model.report());
    }
    let nowhere = Request::to(To::gpu(0)).links(Links::Gpus(vec!["99".into()]));
    let error = loader.load(&checkpoint, &nowhere).err().unwrap();
    assert!(matches!(&error, Error::NotFound(why) if why.contains("99")), "{error:?}");
    let none = Request::to(To::gpu(0)).links(Links::Gpus(Vec::new()));
    assert!(matches!(loader.load(&checkpoint, &none), Err(Error::Refused(_))));
    drop(session);
}
