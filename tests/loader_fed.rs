//! Loads that are given their memory group by group, as streams of tensors are.

use std::path::Path;
use std::time::Duration;

use sllm_gds::load::{Arrival, Feed};
use sllm_gds::{ByteRange, Cancel, Checkpoint, Device, Error, Loader, Memory, Request, Target, To};

#[path = "faults/fixture.rs"]
mod fixture;

use fixture::Fixture;

fn open(path: &Path) -> Checkpoint {
    Checkpoint::open(path).unwrap()
}

#[test]
fn memory_that_is_given_bit_by_bit_is_filled_in_its_order() {
    let fixture = Fixture::new();
    let loader = Loader::builder().threads(3).chunk_bytes(64 << 10).build().unwrap();
    let cancel = Cancel::new();
    let load = |checkpoint: &Checkpoint, damaged: bool| {
        let feed = Feed::new();
        let mut memory: Vec<Vec<u8>> = Vec::new();
        let mut names = Vec::new();
        let ended = std::thread::scope(|scope| {
            let load = scope.spawn(|| loader.load_fed(checkpoint, &feed, &cancel));
            for tensor in checkpoint.tensors().iter().filter(|tensor| tensor.bytes > 0) {
                let mut room = vec![0u8; tensor.bytes as usize];
                let bytes = if damaged { tensor.bytes + 1 } else { tensor.bytes };
                // SAFETY: the vector lives until the load has ended, and is not read before.
                let given = unsafe { Memory::new(Device::Host, room.as_mut_ptr() as u64, tensor.bytes) };
                let range = ByteRange { from: tensor.offset, bytes, memory: 0, to: 0 };
                let number = feed.give(Request::to(To::Into(Target::ranges(vec![given], vec![range]))));
                memory.push(room);
                names.push((tensor.name.clone(), number));
            }
            feed.end();
            load.join().unwrap()
        });
        let came = |number| feed.wait(number, Duration::ZERO);
        let arrivals: Vec<Arrival> = names.iter().map(|(_, number)| came(*number)).collect();
        (ended, names, memory, arrivals)
    };
    for path in [fixture.ours(), fixture.safetensors(), fixture.foreign()] {
        let (ended, names, memory, arrivals) = load(&open(&path), false);
        ended.unwrap();
        assert!(arrivals.iter().all(|arrival| *arrival == Arrival::There));
        for ((name, _), bytes) in names.iter().zip(memory) {
            assert_eq!(fixture.pristine[name], bytes, "{name}");
        }
    }
    let checkpoint = open(&fixture.ours());
    let (ended, _, memory, arrivals) = load(&checkpoint, true);
    assert!(matches!(ended, Err(Error::Refused(_))), "{ended:?}");
    assert!(arrivals.iter().all(|arrival| *arrival == Arrival::Never));
    assert!(memory.iter().flatten().all(|byte| *byte == 0), "refused before a byte was written");
    let feed = Feed::new();
    feed.end();
    loader.load_fed(&checkpoint, &feed, &cancel).unwrap();
    cancel.set();
    assert!(matches!(loader.load_fed(&checkpoint, &Feed::new(), &cancel), Err(Error::Interrupted)));
}
