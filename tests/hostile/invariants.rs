//! What must hold of anything that opens, however hostile its files. Shared with the fuzz target.

use std::collections::HashSet;

use sllm_gds::checkpoint::Checkpoint;
use sllm_gds::load::plan::{Plan, Spacing, TENSOR_ALIGN};
use sllm_gds::os::sys::DIRECT_ALIGN;

/// Names are unique, every tensor lies within one file and behind its header, and none overlap in part.
pub fn check_checkpoint(checkpoint: &Checkpoint) {
    let names: HashSet<&str> = checkpoint.tensors.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names.len(), checkpoint.tensors.len(), "a name stands twice");
    let mut base = 0u64;
    for file in &checkpoint.files {
        assert_eq!(file.base, base, "files are not laid end to end");
        base = base.checked_add(file.bytes).expect("the files overflow");
    }
    let mut before: (u64, u64) = (0, 0);
    for tensor in checkpoint.tensors.iter() {
        let end = tensor.offset.checked_add(tensor.bytes).expect("a tensor overflows");
        assert!(end <= base, "'{}' ends past the files", tensor.name);
        let elements: u64 =
            tensor.shape.iter().try_fold(1u64, |n, e| n.checked_mul(*e)).expect("a shape overflows");
        assert_eq!(tensor.shape.len(), tensor.stride.len());
        if tensor.bytes == 0 {
            assert_eq!(elements, 0, "'{}' has elements and no bytes", tensor.name);
            continue;
        }
        let within = |f: &&sllm_gds::checkpoint::DataFile| {
            tensor.offset >= f.base + f.header_bytes && end <= f.base + f.bytes
        };
        assert_eq!(
            checkpoint.files.iter().filter(within).count(),
            1,
            "'{}' lies in no single file",
            tensor.name
        );
        assert!(tensor.offset >= before.1 || (tensor.offset, end) == before, "'{}' overlaps", tensor.name);
        before = (tensor.offset, end);
    }
    assert!(checkpoint.tensor_bytes() <= checkpoint.file_bytes());
}

/// Extents lie within their files, pieces within their extents and destinations, none overlap, and each tensor is covered
/// once, where its place says.
pub fn check_plan(checkpoint: &Checkpoint, plan: &Plan, spacing: Spacing) {
    let mut landed: Vec<Vec<(u64, u64)>> = plan.destination_bytes.iter().map(|_| Vec::new()).collect();
    // From the checkpoint's logical space: start, end, destination, offset there.
    let mut moved: Vec<(u64, u64, usize, u64)> = Vec::new();
    for extent in &plan.extents {
        let file = &checkpoint.files[extent.file];
        assert!(extent.bytes > 0 && extent.file_offset % DIRECT_ALIGN == 0);
        assert!(extent.file_offset.checked_add(extent.bytes).is_some_and(|end| end <= file.bytes));
        for piece in &plan.pieces[extent.pieces.clone()] {
            assert!(piece.from_end().is_some_and(|end| end <= extent.bytes) && piece.bytes > 0);
            assert!(piece.to_end().is_some_and(|end| end <= plan.destination_bytes[piece.destination]));
            landed[piece.destination].push((piece.to, piece.to_end().unwrap()));
            let start = file.base + extent.file_offset + piece.from;
            moved.push((start, start + piece.bytes, piece.destination, piece.to));
        }
    }
    for places in &mut landed {
        places.sort();
        assert!(places.windows(2).all(|pair| pair[0].1 <= pair[1].0), "pieces overlap");
    }
    assert_eq!(plan.places.len(), checkpoint.tensors.len());
    for (tensor, place) in checkpoint.tensors.iter().zip(&plan.places) {
        let holds = |(start, end, destination, to): &&(u64, u64, usize, u64)| {
            *destination == place.destination
                && *start <= tensor.offset
                && tensor.end() <= *end
                && to + (tensor.offset - start) == place.offset
        };
        if tensor.bytes > 0 {
            assert_eq!(moved.iter().filter(holds).count(), 1, "'{}' is not covered once", tensor.name);
            assert!(spacing == Spacing::AsInFile || place.offset % TENSOR_ALIGN == 0, "'{}'", tensor.name);
        } else {
            assert!(place.offset <= plan.destination_bytes[place.destination]);
        }
    }
}
