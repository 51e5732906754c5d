//! This program's own client, over the same made-up GPUs.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use sllm_gds::client::{Client, ClientError};
use sllm_gds::load::fault::{Fault, Faults};
use sllm_gds::serve::fake::FakeDevices;
use sllm_gds::serve::{Ended, Verify};
use sllm_gds::{Cancel, DType, Device, Error};

use crate::fixture::Fixture;
use crate::rig::{GPUS, Rig};

/// A client of a rig, which has memory on the rig's made-up GPUs.
pub fn client(rig: &Rig, at: &str) -> Client {
    Client::connect_over(at, Arc::new(devices(rig))).unwrap()
}

pub fn devices(rig: &Rig) -> FakeDevices {
    FakeDevices::new(rig.dir.path().join("memory"), GPUS.map(str::to_string).into())
}

pub fn unix(rig: &Rig) -> String {
    format!("unix:{}", rig.dir.path().join("socket").display())
}

pub fn rig_of(fixture: &Fixture, change: impl FnOnce(&mut sllm_gds::serve::Settings)) -> Rig {
    Rig::new(|settings| {
        settings.storage_path = fixture.root.path().into();
        change(settings);
    })
}

#[test]
fn a_model_comes_whole_with_its_tensors_at_even_addresses() {
    let fixture = Fixture::new();
    let rig = rig_of(&fixture, |settings| settings.verify = Verify::All);
    for at in [rig.at.clone(), unix(&rig)] {
        let client = client(&rig, &at);
        let described = client.describe("ours").unwrap();
        let loading = client.begin("ours", 1).unwrap();
        let mut last = (0, 0);
        let model = loading.wait(|read, total| last = (read, total)).unwrap();
        assert_eq!(model.len(), fixture.pristine.len());
        assert!(last.0 <= last.1);
        for (tensor, known) in model.tensors().zip(&described.tensors) {
            assert_eq!(
                (tensor.name, tensor.dtype, tensor.bytes),
                (known.name.as_str(), known.dtype, known.bytes)
            );
            assert_eq!((tensor.shape, tensor.strides), (known.shape.as_slice(), known.stride.as_slice()));
            assert_eq!((tensor.device, tensor.address % 256), (Device::Host, 0), "{}", tensor.name);
            let mut bytes = vec![0; tensor.bytes as usize];
            model.read(tensor.name, &mut bytes).unwrap();
            assert!(bytes == fixture.pristine[tensor.name], "{}", tensor.name);
        }
        assert!(model.report().bytes > 0 && !model.report().path.is_empty());
        assert!(matches!(model.get("none"), Err(ClientError::NotFound(_))));
        let name = described.tensors.iter().find(|tensor| tensor.bytes > 1).unwrap().name.as_str();
        assert!(
            matches!(model.read(name, &mut [0]), Err(ClientError::Refused(why)) if why.contains("room for 1"))
        );
        assert_eq!(rig.open_windows.load(Ordering::SeqCst), 0);
    }
    assert!(DType::from_safetensors("BF16").is_some());
    assert_eq!(
        std::fs::read_dir(rig.dir.path().join("memory")).unwrap().count(),
        0,
        "memory goes with its model"
    );
}

#[test]
fn the_pool_is_ruled_and_told_of() {
    let fixture = Fixture::new();
    let rig = rig_of(&fixture, |_| ());
    let admin = client(&rig, &unix(&rig));
    let warmed = admin.warm("ours").unwrap();
    assert_eq!(warmed.read_bytes, warmed.bytes);
    admin.pin("ours", true).unwrap();
    let status = admin.status().unwrap();
    let [model] = status.models.as_slice() else { panic!("{status:?}") };
    assert!(model.pinned && model.bytes == warmed.bytes && model.pool_bytes >= model.bytes, "{model:?}");
    assert_eq!((status.gpus.as_slice(), status.loads.len()), (&GPUS.map(String::from)[..], 0));
    assert_eq!((status.pool.bytes, status.pool.chunk_bytes), (64 << 20, 64 << 10));
    assert!(admin.load("ours", 0).unwrap().report().read_bytes == 0);
    assert!(admin.evict(Some("ours")).unwrap() >= model.bytes);
    assert!(
        matches!(client(&rig, &rig.at).warm("ours"), Err(ClientError::Denied(why)) if why.contains("Unix socket"))
    );
}

#[test]
fn what_fails_is_told_apart() {
    let fixture = Fixture::new();
    let mut rig = rig_of(&fixture, |settings| settings.max_loads = Some(1));
    let client = client(&rig, &rig.at);
    assert!(
        matches!(client.load("none", 0), Err(ClientError::NotFound(why)) if why.contains("no model 'none'"))
    );
    assert!(matches!(client.load("../x", 0), Err(ClientError::Refused(_))));
    assert!(
        matches!(client.load("ours", 2), Err(ClientError::Here(Error::NotFound(why))) if why.contains("no GPU 2"))
    );
    assert!(matches!(Client::connect("nowhere"), Err(ClientError::Refused(_))));
    let other = FakeDevices::new(rig.dir.path().join("memory"), vec!["other".into()]);
    let other = Client::connect_over(&rig.at, Arc::new(other)).unwrap();
    assert!(matches!(other.load("ours", 0), Err(ClientError::Refused(why)) if why.contains(GPUS[0])));
    assert_eq!(rig.end().unwrap(), Ended::Stopped);
    for failed in [client.status().err(), Client::connect(&rig.at).err(), Client::connect(&unix(&rig)).err()]
    {
        assert!(
            matches!(&failed, Some(ClientError::Unreachable(why)) if why.contains("sllm-gds serve")),
            "{failed:?}"
        );
    }
}

#[test]
fn a_load_that_is_dropped_ends_and_its_memory_is_closed_before_that() {
    let fixture = Fixture::new();
    let faults = Arc::new(Faults::new(1, 1, &[Fault::Hung], ""));
    let hung = faults.clone();
    let rig = rig_of(&fixture, |settings| (settings.faults, settings.max_loads) = (Some(hung), Some(1)));
    let client = client(&rig, &rig.at);
    for is_cancelled in [false, true] {
        let loading = client.begin("ours", 0).unwrap();
        if !is_cancelled {
            assert!(
                matches!(client.load("ours", 0), Err(ClientError::Busy(why)) if why.contains("ask again"))
            );
        }
        while !is_cancelled && faults.hanging() == 0 {
            std::thread::yield_now();
        }
        let cancel = Cancel::new();
        cancel.set();
        let end = move || match is_cancelled {
            true => assert!(matches!(loading.wait_unless(&cancel, |_, _| ()), Err(ClientError::Interrupted))),
            false => drop(loading),
        };
        let ending = std::thread::spawn(end);
        faults.release();
        ending.join().unwrap();
        assert_eq!(rig.open_windows.load(Ordering::SeqCst), 0);
        // The place of a load is free a moment later.
        while let Err(ClientError::Busy(why)) = client.load("ours", 0) {
            assert!(why.contains("ask again"), "{why}");
            std::thread::yield_now();
        }
    }
}

#[tokio::test]
async fn it_may_be_called_and_dropped_within_a_runtime() {
    let rig = Rig::new(|_| ());
    let client = client(&rig, &rig.at);
    assert!(client.status().unwrap().models.is_empty());
    drop(client);
}
