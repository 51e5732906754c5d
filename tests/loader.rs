//! The public face as its users hold it: only what the crate names at its top.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use sllm_gds::{
    Cancel, Checkpoint, DType, Device, EngineChoice, Error, IoChoice, Loader, Request, Select, To,
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
        for (name, bytes) in &fixture.pristine {
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
        let model = load(Select::Names(names.clone())).unwrap();
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
        (Loader::builder().pool_bytes(9000).pool_chunk_bytes(1 << 20).build(), "chunk of 1048576"),
        (Loader::builder().pool_bytes(1 << 25).engine(EngineChoice::Gds).build(), "pool"),
    ] {
        let refused = made.err().unwrap();
        assert!(matches!(&refused, Error::Refused(text) if text.contains(word)), "{refused}");
    }
    let nowhere = loader.load(&model_of(&fixture), &Request::to(To::Balanced(vec![])));
    assert!(matches!(nowhere.err().unwrap(), Error::Refused(_)));
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
