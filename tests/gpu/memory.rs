//! Device and pinned memory: limits, and nothing left behind.

use std::process::Command;
use std::sync::Arc;

use sllm_gds::gpu;
use sllm_gds::gpu::copies::{PieceCopy, Stream};
use sllm_gds::gpu::kernels;
use sllm_gds::gpu::memory::DeviceBuffer;
use sllm_gds::gpu::pinned::pin;
use sllm_gds::load::pinned::Ring;
use sllm_gds::load::{Options, Placement, load};
use sllm_gds::os::cancel::Cancel;
use sllm_gds::os::text::size;

use crate::rig::{assert_right, both, fixture, large, options, own_link, scratch, session};

#[test]
fn more_than_the_gpu_has_is_refused_with_both_figures() {
    let Some(session) = session() else { return };
    let needed = session.gpu.memory_bytes + (1 << 30);
    session.keeps_memory(|| {
        let error = DeviceBuffer::new(&session.gpu, needed).err().unwrap().to_string();
        let figures =
            format!("{} of device memory are needed and {} are", size(needed), size(session.free_bytes()));
        assert!(error.contains(&figures) && error.contains("OUT_OF_MEMORY"), "{error}");
    });
}

#[test]
fn a_load_that_does_not_fit_fails_and_the_next_that_does_works() {
    let Some(session) = session() else { return };
    let dir = scratch();
    let (path, pristine) = large(dir.path());
    let to = session.times(1, Placement::Balanced);
    let (loaded, _) = load(&path, &to, &options(1 << 20, 4, 6), &Cancel::new()).unwrap();
    assert_right(&loaded, &pristine);
    drop(loaded);
    let before = session.free_bytes();
    let hogs = session.hog();
    let error = load(&path, &to, &options(1 << 20, 4, 6), &Cancel::new()).err().unwrap();
    let text = format!("{error:#}");
    assert!(
        text.contains(&path.display().to_string()) && text.contains("device memory are needed"),
        "{text}"
    );
    drop(hogs);
    session.assert_free(before);
    let (loaded, _) = load(&path, &to, &options(1 << 20, 4, 6), &Cancel::new()).unwrap();
    assert_right(&loaded, &pristine);
}

#[test]
fn a_hundred_loads_leave_memory_as_it_was() {
    let Some(session) = session() else { return };
    let (dir, fixture) = fixture();
    let (path, _) = large(dir.path());
    let once = || {
        for (path, placement) in [(&path, Placement::Balanced), (&fixture.ours(), Placement::Replicate)] {
            let to = session.times(2, placement);
            drop(load(path, &to, &options(1 << 20, 3, 6), &Cancel::new()).unwrap());
        }
    };
    once();
    once();
    let before = session.free_bytes();
    for _ in 0..50 {
        once();
        session.assert_free(before);
    }
}

#[test]
fn pinned_pieces_are_apart_and_copies_bring_them_over() {
    let Some(session) = session() else { return };
    let mut pieces = pin(&session.gpu, 5000, 7, 3).unwrap();
    for (i, piece) in pieces.iter_mut().enumerate() {
        assert_eq!(piece.as_slice().len(), 8192, "rounded up to 4 KiB");
        piece.as_mut_slice().fill(i as u8 + 1);
    }
    let mut buffer = DeviceBuffer::new(&session.gpu, 8 * 8192).unwrap();
    let stream = Stream::new(&session.gpu).unwrap();
    let pageable = vec![8u8; 8192];
    let mut rest = buffer.as_mut_slice();
    let mut targets = Vec::new();
    for _ in 0..8 {
        let (first, after) = rest.split_at(8192);
        targets.push(first);
        rest = after;
    }
    assert_eq!(rest.bytes(), 0);
    let sources = pieces.iter().map(|p| p.as_slice()).chain([pageable.as_slice()]);
    let copies: Vec<_> = targets.iter().zip(sources).collect();
    stream.copy_all(&copies).unwrap();
    drop(targets);
    let mut found = vec![0u8; 8 * 8192];
    buffer.read(0, &mut found).unwrap();
    for (i, part) in found.chunks(8192).enumerate() {
        assert!(part.iter().all(|b| *b == i as u8 + 1), "piece {i}");
    }
}

/// Neighbours go as one copy; each byte must arrive whoever is whose neighbour, on either side.
#[test]
fn pieces_arrive_in_any_order_and_length() {
    let Some(session) = session() else { return };
    const PIECE: usize = 8192;
    const PIECES: usize = 12;
    // Two registrations, whose pieces are no neighbours even where their addresses are.
    let mut pieces = pin(&session.gpu, PIECE as u64, PIECES / 2, 3).unwrap();
    pieces.extend(pin(&session.gpu, PIECE as u64, PIECES / 2, 3).unwrap());
    for (i, piece) in pieces.iter_mut().enumerate() {
        piece.as_mut_slice().fill(i as u8 + 1);
    }
    let stream = Stream::new(&session.gpu).unwrap();
    for seed in 0..40 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut sources: Vec<usize> = (0..PIECES).collect();
        // In order, in runs that change places, or in any order.
        match seed % 3 {
            0 => {}
            1 => sources.rotate_left(rng.usize(..PIECES)),
            _ => rng.shuffle(&mut sources),
        }
        let lengths: Vec<usize> =
            (0..PIECES).map(|_| if rng.u8(..4) == 0 { 1 + rng.usize(..PIECE) } else { PIECE }).collect();
        let mut buffer = DeviceBuffer::new(&session.gpu, (PIECES * PIECE) as u64).unwrap();
        let mut rest = buffer.as_mut_slice();
        rest.write(&session.gpu, 0, &[0; PIECES * PIECE]).unwrap();
        let mut copies = Vec::new();
        for (source, bytes) in sources.iter().zip(&lengths) {
            let (target, after) = rest.split_at(PIECE as u64);
            rest = after;
            // In two copies, which are neighbours on both sides.
            let middle = bytes / 3;
            for (from, bytes) in [(0, middle), (middle, bytes - middle)] {
                let target = target.part(from as u64, bytes as u64);
                copies.push(PieceCopy { target, source: &pieces[*source], from, bytes });
            }
        }
        stream.copy_pieces(&copies).unwrap();
        drop(copies);
        let mut found = vec![0u8; PIECES * PIECE];
        buffer.read(0, &mut found).unwrap();
        for (i, part) in found.chunks(PIECE).enumerate() {
            let mut wanted = vec![0; PIECE];
            wanted[..lengths[i]].fill(sources[i] as u8 + 1);
            assert!(part == wanted, "seed {seed}, place {i}");
        }
    }
    let mut short = DeviceBuffer::new(&session.gpu, 100).unwrap();
    for (from, bytes) in [(0, 101), (0, PIECE + 1), (PIECE - 10, 11)] {
        let copy = PieceCopy { target: short.as_mut_slice(), source: &pieces[0], from, bytes };
        assert!(stream.copy_pieces(&[copy]).is_err());
    }
}

/// A copy may be left under way: what it writes to is freed only behind it, and never becomes somebody else's before.
#[test]
fn memory_that_a_copy_still_writes_to_is_freed_behind_it() {
    let Some(session) = session() else { return };
    const BYTES: u64 = 256 << 20;
    let second = both(&session).map_or(session.gpu.clone(), |[_, second]| second);
    let mut source = DeviceBuffer::new(&session.gpu, BYTES).unwrap();
    kernels::poison(&mut source).unwrap();
    let wanted = vec![0x17u8; 4 << 20];
    for gpu in [&session.gpu, &second] {
        for _ in 0..5 {
            let stream = Stream::new(&session.gpu).unwrap();
            let mut target = DeviceBuffer::new(gpu, BYTES).unwrap();
            for _ in 0..8 {
                stream.copy_between(&source.as_mut_slice(), &target.as_mut_slice()).unwrap();
            }
            drop(target);
            // Most likely at the same address: late bytes of the copies would show.
            let mut next = DeviceBuffer::new(gpu, BYTES).unwrap();
            for offset in (0..BYTES).step_by(wanted.len()) {
                next.as_mut_slice().write(gpu, offset, &wanted).unwrap();
            }
            gpu.synchronize().unwrap();
            // The stream's own handle goes first: a copy outlives it as well.
            drop(stream);
            session.gpu.synchronize().unwrap();
            let mut found = vec![0u8; wanted.len()];
            for offset in (0..BYTES).step_by(wanted.len()) {
                next.read(offset, &mut found).unwrap();
                assert!(found == wanted, "bytes of another load at {offset}");
            }
        }
    }
}

#[test]
fn reads_and_writes_past_the_end_are_refused() {
    let Some(session) = session() else { return };
    let mut buffer = DeviceBuffer::new(&session.gpu, 100).unwrap();
    for offset in [93, 101, u64::MAX] {
        let error = buffer.read(offset, &mut [0u8; 8]).err().unwrap().to_string();
        assert!(error.contains("the buffer has 100 bytes"), "{error}");
        let error = buffer.as_mut_slice().write(&session.gpu, offset, &[0u8; 8]).err().unwrap().to_string();
        assert!(error.contains("the range has 100 bytes"), "{error}");
    }
    buffer.as_mut_slice().write(&session.gpu, 92, b"the end.").unwrap();
    let mut found = [0u8; 8];
    buffer.read(92, &mut found).unwrap();
    assert_eq!(&found, b"the end.");
    let empty = DeviceBuffer::new(&session.gpu, 0).unwrap();
    assert!(empty.read(0, &mut []).is_ok() && empty.read(0, &mut [0]).is_err());
}

#[test]
fn a_ring_that_memory_cannot_hold_is_an_error() {
    let Some(session) = session() else { return };
    session.keeps_memory(|| {
        let links = [own_link(&session.gpu), own_link(&session.gpu)];
        let sizes =
            Options { chunk_bytes: 1 << 30, copy_bytes: 3 << 30, slots: 65_536, ..options(1 << 20, 8, 1) };
        let ring = Ring::new(&links, &sizes);
        std::thread::scope(|scope| ring.fill(scope)).unwrap();
        let error = ring.wait_for_first().unwrap_err().to_string();
        for part in ["GPU 0", "B of host memory", "smaller ring"] {
            assert!(error.contains(part), "{error}");
        }
    });
}

#[test]
fn gpus_by_index_and_uuid_and_wrong_names() {
    let Some(_session) = session() else { return };
    let devices = gpu::devices().unwrap();
    let open = |names: &[&str]| gpu::open(&names.iter().map(|n| n.to_string()).collect::<Vec<_>>());
    let uuid = &devices[0].uuid;
    let gpus = open(&["0", uuid, "0"]).unwrap();
    assert!(gpus.iter().all(|gpu| Arc::ptr_eq(gpu, &gpus[0])), "one context, however it is named");
    assert_eq!((gpus[0].index, gpus[0].memory_bytes), (0, devices[0].memory_bytes));
    assert_eq!(gpu::open_all().unwrap().len(), devices.len());
    assert!(gpu::open(&[]).unwrap().is_empty());
    let zeros = "00000000-0000-0000-0000-000000000000";
    for name in
        ["4096", "99999999999999999999999", &format!("GPU-{zeros}"), &format!("MIG-{zeros}"), "", "-1"]
    {
        let error = open(&["0", name]).err().unwrap();
        assert!(error.contains(&format!("there is no GPU {name}; those that are there: 0 (")), "{error}");
        assert!(error.contains(uuid.as_str()) && error.lines().count() == 1, "{error}");
    }
}

/// Contexts that end while the process goes on: in a process of its own, since the other tests keep theirs.
#[test]
fn contexts_come_and_go() {
    const CHILD: &str = "SLLM_GDS_TEST_CHILD";
    if std::env::var_os(CHILD).is_none() {
        let Some(_session) = session() else { return };
        let name = "memory::contexts_come_and_go";
        let this = std::env::current_exe().unwrap();
        let output =
            Command::new(this).args(["--exact", name, "--nocapture"]).env(CHILD, "1").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let ran = output.status.success() && text.contains("1 passed") && text.contains("came and went");
        assert!(ran, "{}: {text}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
        return;
    }
    let (_dir, fixture) = fixture();
    for _ in 0..4 {
        let gpus = gpu::open(&["0".into(), "0".into()]).unwrap();
        let mut buffer = DeviceBuffer::new(&gpus[0], 1 << 20).unwrap();
        kernels::poison(&mut buffer).unwrap();
        let to = sllm_gds::load::Destination::Gpus(gpus, Placement::Balanced);
        let (loaded, _) = load(&fixture.ours(), &to, &options(8192, 4, 6), &Cancel::new()).unwrap();
        assert_right(&loaded, &fixture.pristine);
        // The last owner of the context is a buffer, on a thread that never used it.
        drop((to, buffer));
        std::thread::spawn(move || drop(loaded)).join().unwrap();
    }
    println!("came and went");
}
