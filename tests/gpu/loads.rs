//! Loads that go well, in every layout, by every way, to one GPU and to several.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use sllm_gds::checkpoint::{Checkpoint, Tensor};
use sllm_gds::gpu::MADE_BY;
use sllm_gds::load::IoChoice;
use sllm_gds::load::pinned::PinnedEngine;
use sllm_gds::load::{Destination, LoadReport, Loaded, Placement, load};
use sllm_gds::os::cancel::Cancel;

use crate::rig::{
    Parts, assert_right, both, device, fixture, large, many_small, options, really_wrong, scratch, session,
    wrong_by_digest,
};

#[test]
fn every_layout_by_every_way_and_placement() {
    let Some(session) = session() else { return };
    println!("kernels by {MADE_BY}");
    let (_dir, fixture) = fixture();
    let placements = [
        (1, Placement::Balanced),
        (2, Placement::Balanced),
        (3, Placement::Balanced),
        (2, Placement::Replicate),
    ];
    for path in [fixture.safetensors(), fixture.ours(), fixture.foreign()] {
        for io in [IoChoice::Auto, IoChoice::Direct, IoChoice::Buffered] {
            for (chunk_bytes, parts, threads, slots) in
                [(4096, 1, 1, 1), (4096, 3, 1, 1), (4096, 5, 8, 2), (12_288, 2, 8, 24), (1 << 20, 1, 4, 3)]
            {
                for (count, placement) in placements {
                    let mut options = options(chunk_bytes, threads, slots);
                    (options.io, options.copy_bytes) = (io, parts * chunk_bytes);
                    let to = session.times(count, placement);
                    let (loaded, report) = load(&path, &to, &options, &Cancel::new()).unwrap();
                    assert_right(&loaded, &fixture.pristine);
                    assert_eq!(loaded.buffers.len(), count);
                    assert_eq!(loaded.is_replicated(), placement == Placement::Replicate);
                    let lanes = loaded.plan.destination_bytes.len();
                    assert_eq!(report.staging_bytes, (lanes * slots) as u64 * options.copy_bytes);
                    assert_eq!(report.copy_bytes, options.copy_bytes);
                    assert_path(&report, io);
                }
            }
        }
    }
}

fn assert_path(report: &LoadReport, io: IoChoice) {
    assert_eq!(report.direct_bytes + report.buffered_bytes, report.read_bytes, "{report:?}");
    match io {
        IoChoice::Buffered => {
            assert_eq!((report.path.as_str(), report.direct_bytes), ("pinned-buffered", 0))
        }
        IoChoice::Direct => assert!(
            report.path == "pinned-direct" || report.path_reason.contains("O_DIRECT"),
            "{} ({})",
            report.path,
            report.path_reason
        ),
        _ => assert!(report.path.starts_with("pinned-"), "{}", report.path),
    }
}

#[test]
fn groups_go_to_their_gpus_and_tensors_of_our_layout_are_aligned() {
    let Some(session) = session() else { return };
    let (_dir, fixture) = fixture();
    let to = session.times(3, Placement::Balanced);
    let (loaded, _) = load(&fixture.ours(), &to, &options(8192, 2, 4), &Cancel::new()).unwrap();
    let Loaded { checkpoint, plan, .. } = &loaded;
    let groups = &checkpoint.manifest.as_ref().unwrap().groups;
    assert_eq!(groups.len(), 3);
    let mut used = BTreeSet::new();
    for (i, tensor) in checkpoint.tensors.iter().enumerate().filter(|(_, t)| t.bytes > 0) {
        let file = checkpoint.file_at(tensor.offset).unwrap();
        assert!(groups[plan.places[i].destination].contains(&file), "{}", tensor.name);
        assert_eq!(loaded.view(i, 0).device_address().unwrap() % 256, 0, "{}", tensor.name);
        used.insert(plan.places[i].destination);
    }
    assert_eq!(used.len(), 3);
}

#[test]
fn slots_are_not_reused_before_their_copies_ended() {
    let Some(session) = session() else { return };
    let dir = scratch();
    let (path, pristine) = large(dir.path());
    for (count, placement) in [(1, Placement::Balanced), (3, Placement::Replicate)] {
        for (threads, slots) in [(1, 1), (16, 1), (16, 16), (16, 40)] {
            let to = session.times(count, placement);
            let options = options(64 << 10, threads, slots);
            let (loaded, _) = load(&path, &to, &options, &Cancel::new()).unwrap();
            assert_right(&loaded, &pristine);
        }
    }
}

#[test]
fn loads_side_by_side_do_not_disturb_each_other() {
    let Some(session) = session() else { return };
    let (dir, fixture) = fixture();
    let (path, pristine) = large(dir.path());
    std::thread::scope(|scope| {
        for i in 0..6 {
            let (session, fixture, path, pristine) = (&session, &fixture, &path, &pristine);
            scope.spawn(move || {
                let (path, pristine) = match i % 2 {
                    0 => (path.clone(), pristine),
                    _ => (fixture.ours(), &fixture.pristine),
                };
                let to = session.times(1 + i / 2, Placement::Replicate);
                for _ in 0..5 {
                    let (loaded, _) = load(&path, &to, &options(1 << 20, 2, 4), &Cancel::new()).unwrap();
                    assert_right(&loaded, pristine);
                }
            });
        }
    });
}

#[test]
fn bytes_that_were_never_written_are_caught_by_the_tensors_names() {
    let Some(session) = session() else { return };
    let (_dir, fixture) = fixture();
    let mut rng = fastrand::Rng::with_seed(5);
    for parts_of_a_copy in [1, 3] {
        let mut caught = 0;
        for path in [fixture.ours(), fixture.safetensors(), fixture.foreign()] {
            for slots in [1, 2, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6] {
                let mut options = options(4096, 3, slots);
                options.copy_bytes = parts_of_a_copy * options.chunk_bytes;
                let mut parts = Parts::new(&session.gpu, &path, &options);
                let (ring, sources) = (parts.ring(), parts.sources());
                let engine = PinnedEngine::new(&sources, &ring);
                let mut left_out = (0, 0);
                let done = parts.run(&ring, &engine, &Cancel::new(), |jobs| {
                    let job = jobs.remove(rng.usize(..jobs.len()));
                    left_out = (job.file, job.file_offset);
                });
                done.unwrap();
                let loaded = parts.loaded();
                // Where one part is missing the whole copy is.
                let segment = loaded.plan.extents.iter().find(|s| s.file == left_out.0).unwrap();
                let in_segment = left_out.1 - segment.file_offset;
                let copy_offset = in_segment - in_segment % options.copy_bytes;
                let bytes = options.copy_bytes.min(segment.bytes - copy_offset);
                let start = loaded.checkpoint.files[segment.file].base + segment.file_offset + copy_offset;
                let wrong = really_wrong(&loaded, &fixture.pristine);
                let there: Vec<&Tensor> = loaded.checkpoint.tensors_in(start, start + bytes).collect();
                let names: Vec<&str> = there.iter().map(|t| t.name.as_str()).collect();
                assert!(wrong.iter().all(|name| names.contains(&name.as_str())), "{wrong:?} of {names:?}");
                // Of a few bytes each may happen to be the poison's.
                let whole = |t: &&&Tensor| t.bytes >= 64 && t.offset >= start && t.end() <= start + bytes;
                assert!(
                    there.iter().filter(whole).all(|t| wrong.contains(&t.name)),
                    "{wrong:?} of {names:?}"
                );
                assert_eq!(wrong_by_digest(&loaded, &fixture.pristine), wrong);
                caught += wrong.len();
            }
        }
        assert!(caught > 30, "only {caught} tensors were left out");
    }
}

/// Pads the header with spaces, as writers may.
fn begin_data_at_8_of_16(path: &Path) {
    let bytes = fs::read(path).unwrap();
    let header_bytes = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let (header, data) = bytes[8..].split_at(header_bytes);
    let header = [header, " ".repeat((16 - header_bytes % 16) % 16).as_bytes()].concat();
    fs::write(path, [&(header.len() as u64).to_le_bytes()[..], &header, data].concat()).unwrap();
    assert_eq!(Checkpoint::open(path).unwrap().files[0].header_bytes % 16, 8);
}

/// Where safetensors' data begin anywhere, and sizes are odd: every tensor still lies at a multiple of 256 on the GPU
/// (`assert_right` looks), whoever reads it, and whether a copy has few pieces or many.
#[test]
fn tensors_of_odd_sizes_are_aligned_on_the_gpu() {
    let Some(session) = session() else { return };
    let dir = scratch();
    for (path, pristine) in [large(dir.path()), many_small(dir.path())] {
        begin_data_at_8_of_16(&path);
        for (count, placement) in
            [(1, Placement::Balanced), (3, Placement::Balanced), (2, Placement::Replicate)]
        {
            for chunk_bytes in [4096, 64 << 10, 1 << 20] {
                let to = session.times(count, placement);
                let (loaded, _) = load(&path, &to, &options(chunk_bytes, 4, 3), &Cancel::new()).unwrap();
                assert_right(&loaded, &pristine);
            }
        }
    }
}

#[test]
fn two_gpus_get_their_shares_or_a_copy_each() {
    let Some(session) = session() else { return };
    let Some(gpus) = both(&session) else { return };
    let (dir, fixture) = fixture();
    let (many, pristine) = many_small(dir.path());
    let ours =
        [fixture.ours(), fixture.safetensors(), fixture.foreign()].map(|path| (path, &fixture.pristine));
    for (path, pristine) in ours.into_iter().chain([(many, &pristine)]) {
        for placement in [Placement::Balanced, Placement::Replicate] {
            for order in [[0, 1], [1, 0]] {
                let to = Destination::Gpus(order.map(|i| gpus[i].clone()).to_vec(), placement);
                let (loaded, _) = load(&path, &to, &options(64 << 10, 4, 3), &Cancel::new()).unwrap();
                assert_right(&loaded, pristine);
                let on: Vec<usize> = loaded.buffers.iter().map(|buffer| device(buffer).gpu().index).collect();
                assert_eq!(on, order, "{placement:?}");
                let bytes: Vec<u64> = loaded.buffers.iter().map(|buffer| device(buffer).bytes()).collect();
                assert!(bytes.iter().all(|bytes| *bytes > 0), "{bytes:?}");
            }
        }
    }
}
