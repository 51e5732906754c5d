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
    let checkpoint = Checkpoint::open(&fixture.ours()).unwrap();
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
