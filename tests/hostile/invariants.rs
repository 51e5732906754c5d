//! What must hold of anything that opens, however hostile its files. Shared with the fuzz target.

use std::collections::HashSet;

use sllm_gds::checkpoint::Checkpoint;
use sllm_gds::load::plan::Plan;
use sllm_gds::os::sys::{DIRECT_ALIGN, align_up};

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
    for tensor in &checkpoint.tensors {
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

/// Segments lie within their files and destinations, none overlap, and each tensor is covered once, where its
/// place says.
pub fn check_plan(checkpoint: &Checkpoint, plan: &Plan) {
    for s in &plan.segments {
        let (file, room) = (&checkpoint.files[s.file], plan.destination_bytes[s.destination]);
        assert!(s.bytes > 0 && s.file_offset % DIRECT_ALIGN == 0 && s.dest_offset % DIRECT_ALIGN == 0);
        assert!(s.file_offset.checked_add(s.bytes).is_some_and(|end| end <= file.bytes));
        assert!(s.dest_offset.checked_add(align_up(s.bytes, DIRECT_ALIGN)).is_some_and(|end| end <= room));
    }
    for pair in plan.segments.windows(2).filter(|p| p[0].destination == p[1].destination) {
        assert!(pair[0].dest_offset + align_up(pair[0].bytes, DIRECT_ALIGN) <= pair[1].dest_offset);
    }
    assert_eq!(plan.places.len(), checkpoint.tensors.len());
    for (tensor, place) in checkpoint.tensors.iter().zip(&plan.places) {
        let held = plan.segments.iter().filter(|s| {
            let start = checkpoint.files[s.file].base + s.file_offset;
            s.destination == place.destination
                && start <= tensor.offset
                && tensor.end() <= start + s.bytes
                && s.dest_offset + (tensor.offset - start) == place.offset
        });
        if tensor.bytes > 0 {
            assert_eq!(held.count(), 1, "'{}' is not covered once", tensor.name);
        } else {
            assert!(place.offset <= plan.destination_bytes[place.destination]);
        }
    }
}
