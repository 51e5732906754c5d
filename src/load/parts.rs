//! Tensors as they are delivered: whole, or a slice along one axis.

use std::collections::HashMap;
use std::ops::Range;

use crate::checkpoint::{Checkpoint, Tensor, contiguous_stride, element_count};
use crate::load::plan::{Destined, Place, Plan, TENSOR_ALIGN, Wanted};
use crate::os::error::Error;
use crate::os::sys::{DIRECT_ALIGN, align_up};

/// A slice of a tensor: some of its elements along one axis, all along the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// Which axis, from 0.
    pub axis: usize,
    /// Elements along it, from the first to before the last: `2..5` are three. It may be empty.
    pub range: Range<u64>,
}

/// What is delivered of a tensor: rows of the checkpoint, which are contiguous where they arrive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// As it is delivered: the shape, strides and bytes of the slice; its offset is that of the first row.
    pub tensor: Tensor,
    pub row_bytes: u64,
    pub rows: u64,
    pub stride_bytes: u64,
    /// Whether it is all of a tensor, whose digest may be recorded.
    pub is_whole: bool,
}

impl Part {
    /// All of a tensor.
    pub fn whole(tensor: &Tensor) -> Part {
        let (tensor, bytes) = (tensor.clone(), tensor.bytes);
        Part { tensor, row_bytes: bytes, rows: 1, stride_bytes: bytes, is_whole: true }
    }

    /// A slice of a tensor. Refuses an axis that it has not, elements past its end, one whose elements do not lie side by
    /// side, and slices that begin or end within a byte.
    pub fn sliced(tensor: &Tensor, slice: &Slice) -> Result<Part, Error> {
        let Slice { axis, range } = slice;
        let refused = |why: String| Err(Error::Refused(format!("slice of tensor '{}': {why}", tensor.name)));
        let Some(extent) = tensor.shape.get(*axis).copied() else {
            return refused(format!("it has no axis {axis}: its shape is {:?}", tensor.shape));
        };
        if range.start > range.end || range.end > extent {
            return refused(format!("elements {range:?} of axis {axis}, which has {extent}"));
        }
        if !tensor.is_contiguous() {
            return refused("its elements do not lie side by side; load it whole".into());
        }
        let inner = element_count(&tensor.shape[axis + 1..]).unwrap_or(u64::MAX);
        let bytes_of = |elements: u64| {
            let bits = elements.checked_mul(inner)?.checked_mul(tensor.dtype.bits())?;
            bits.is_multiple_of(8).then_some(bits / 8)
        };
        let (Some(start), Some(row_bytes), Some(stride_bytes)) =
            (bytes_of(range.start), bytes_of(range.end - range.start), bytes_of(extent))
        else {
            return refused(format!("elements {range:?} of axis {axis} do not begin and end at whole bytes"));
        };
        let mut shape = tensor.shape.clone();
        shape[*axis] = range.end - range.start;
        let rows = element_count(&tensor.shape[..*axis]).unwrap_or(u64::MAX);
        let stride = contiguous_stride(&shape);
        let (offset, bytes) = (tensor.offset + start, row_bytes.saturating_mul(rows));
        let tensor = Tensor { shape, stride, offset, bytes, ..tensor.clone() };
        Ok(Part { tensor, row_bytes, rows, stride_bytes, is_whole: row_bytes == stride_bytes })
    }

    fn rows(&self) -> Rows {
        (self.tensor.offset, self.row_bytes, self.rows, self.stride_bytes)
    }

    /// Its bytes, on their way to there.
    pub fn delivery(&self, destination: usize, to: u64) -> Wanted {
        let (from, row_bytes, rows, stride_bytes) = self.rows();
        Wanted { from, row_bytes, rows, stride_bytes, destination, to }
    }
}

/// Where a part's rows begin, how long they are, how many, and how far apart.
type Rows = (u64, u64, u64, u64);

/// A plan whose parts go to new memory: those of `owners[i]` one behind the other, each at a multiple of 256 bytes. A
/// destination is a lane.
pub fn plan_new_memory(
    checkpoint: &Checkpoint,
    parts: &[Part],
    owners: &[usize],
    destinations: usize,
) -> anyhow::Result<Plan> {
    let mut ends = vec![0u64; destinations];
    // Tied tensors whose rows are the same are delivered once.
    let mut placed: HashMap<(usize, Rows), u64> = HashMap::new();
    let (mut deliveries, mut places) = (Vec::new(), Vec::new());
    for (part, destination) in parts.iter().zip(owners.iter().copied()) {
        let bytes = part.tensor.bytes;
        let known = placed.get(&(destination, part.rows())).copied().filter(|_| bytes > 0);
        let offset = known.unwrap_or_else(|| align_up(ends[destination], TENSOR_ALIGN));
        if known.is_none() && bytes > 0 {
            deliveries.push(part.delivery(destination, offset));
            placed.insert((destination, part.rows()), offset);
            ends[destination] = offset.saturating_add(bytes);
        }
        places.push(Place { destination, offset });
    }
    let destined = |(lane, end): (usize, &u64)| Destined { bytes: align_up(*end, DIRECT_ALIGN), lane };
    let destined: Vec<Destined> = ends.iter().enumerate().map(destined).collect();
    let plan = Plan::deliver(&checkpoint.files, &deliveries, &destined)?;
    Ok(Plan { places, ..plan })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::DType;
    use proptest::prelude::*;

    fn tensor(shape: &[u64], dtype: DType) -> Tensor {
        let bytes = dtype.bytes_of(shape.iter().product()).unwrap();
        let stride = contiguous_stride(shape);
        Tensor { name: "w".into(), dtype, shape: shape.to_vec(), stride, offset: 1000, bytes }
    }

    proptest! {
        /// Against a walk over all elements.
        #[test]
        fn a_slice_has_the_bytes_of_its_elements(
            shape in prop::collection::vec(1u64..6, 1..4), axis in 0usize..4, a in 0u64..6, b in 0u64..6,
        ) {
            let axis = axis % shape.len();
            let (start, end) = (a.min(b).min(shape[axis]), a.max(b).min(shape[axis]));
            let whole = tensor(&shape, DType::BF16);
            let part = Part::sliced(&whole, &Slice { axis, range: start..end }).unwrap();
            let found: Vec<u64> = (0..part.rows)
                .flat_map(|row| {
                    let from = part.tensor.offset + row * part.stride_bytes;
                    from..from + part.row_bytes
                })
                .collect();
            let inner: u64 = shape[axis + 1..].iter().product();
            let elements = (0..shape.iter().product::<u64>())
                .filter(|element| (start..end).contains(&(element / inner % shape[axis])));
            let wanted: Vec<u64> = elements.flat_map(|e| [1000 + 2 * e, 1001 + 2 * e]).collect();
            prop_assert_eq!(&found, &wanted);
            prop_assert_eq!(part.tensor.bytes, wanted.len() as u64);
            prop_assert_eq!(part.tensor.data_bytes(), part.tensor.bytes);
        }
    }

    #[test]
    fn what_is_no_slice_is_refused() {
        let why = |tensor: &Tensor, axis, range| {
            Part::sliced(tensor, &Slice { axis, range }).unwrap_err().to_string()
        };
        let whole = tensor(&[4, 6], DType::F32);
        assert!(why(&whole, 2, 0..1).contains("no axis 2"));
        assert!(why(&whole, 1, 3..7).contains("which has 6"));
        assert!(why(&tensor(&[4, 6], DType::F4), 1, 1..3).contains("whole bytes"));
        let transposed = Tensor { stride: vec![1, 4], ..whole };
        assert!(why(&transposed, 0, 0..1).contains("side by side"));
    }
}
