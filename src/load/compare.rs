//! Two checkpoints held against each other, tensor by tensor.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::checkpoint::reader::{TensorReader, TensorSource};
use crate::checkpoint::sllm::to_torch;
use crate::checkpoint::{Checkpoint, Tensor};
use crate::os::cancel::{Cancel, Interrupted};
use crate::os::progress::{Progress, Unit};

/// Bytes compared at a time; a multiple of every element's size.
const BLOCK_BYTES: u64 = 4 << 20;

/// What a comparison found.
pub struct Compared {
    /// In words, by kind: other data, missing there, only there. All are empty where all is the same.
    pub problems: [Vec<String>; 3],
    /// Tensors that both have.
    pub tensors: usize,
    /// What many of the problems may come from.
    pub hint: Option<String>,
}

/// Compares every tensor's type, shape and data. A name that only one side has is fine where it is tied to
/// one that both have: safetensors drops such names.
pub fn compare(ours: Checkpoint, against: &Path, cancel: &Cancel, progress: &Progress) -> Result<Compared> {
    let theirs = Checkpoint::open_whole(against)?;
    for note in ours.notes().iter().chain(&theirs.notes()) {
        progress.note(note);
    }
    let (ours, theirs) = (TensorReader::new(ours)?, TensorReader::new(theirs)?);
    let (our_names, their_names) = (places(&ours.checkpoint), places(&theirs.checkpoint));
    let our_lone = lone(&ours.checkpoint, &their_names);
    let their_lone = lone(&theirs.checkpoint, &our_names);
    let mut compared = Compared { problems: Default::default(), tensors: 0, hint: None };
    let meter = progress.begin("compare", ours.checkpoint.tensor_bytes(), Unit::Bytes);
    for (i, tensor) in ours.checkpoint.tensors.iter().enumerate() {
        if let Some(j) = their_names.get(tensor.name.as_str()) {
            compared.tensors += 1;
            compared.problems[0].extend(compare_tensor((&ours, i), (&theirs, *j), cancel)?);
            meter.advance(tensor.bytes);
        }
    }
    let there = against.display();
    compared.problems[1].extend(our_lone.iter().map(|name| format!("tensor '{name}' is missing in {there}")));
    compared.problems[2]
        .extend(their_lone.iter().map(|name| format!("tensor '{name}' stands only in {there}")));
    compared.hint = renamed(&our_lone, &their_lone, cancel)?.map(|[here, there]| {
        format!(
            "all names that only one side has are alike but for what they begin with: '{here}' here, '{there}' there"
        )
    });
    Ok(compared)
}

fn places(checkpoint: &Checkpoint) -> HashMap<&str, usize> {
    checkpoint.tensors.iter().enumerate().map(|(i, t)| (t.name.as_str(), i)).collect()
}

/// The names that only this side has, but for those tied to one that both have.
fn lone<'a>(checkpoint: &'a Checkpoint, others: &HashMap<&str, usize>) -> Vec<&'a str> {
    let is_shared = |t: &&Tensor| others.contains_key(t.name.as_str());
    let shared: HashSet<(u64, u64)> =
        checkpoint.tensors.iter().filter(is_shared).map(|t| (t.offset, t.bytes)).collect();
    let tied = |t: &Tensor| t.bytes > 0 && shared.contains(&(t.offset, t.bytes));
    checkpoint.tensors.iter().filter(|t| !is_shared(t) && !tied(t)).map(|t| t.name.as_str()).collect()
}

/// The beginnings (here, there) that all of these names differ by, if that is all that they differ by.
fn renamed<'a>(here: &[&'a str], there: &[&'a str], cancel: &Cancel) -> Result<Option<[&'a str; 2]>> {
    let Some(first) = here.first().filter(|_| here.len() == there.len()) else { return Ok(None) };
    let names: HashSet<&str> = there.iter().copied().collect();
    // What may stay of the first name: all of it, or what follows one of its dots; the longest is tried first.
    let rests = std::iter::once(*first).chain(first.match_indices('.').map(|(at, _)| &first[at + 1..]));
    for rest in rests.filter(|rest| !rest.is_empty()) {
        if cancel.is_set() {
            bail!(Interrupted);
        }
        // One candidate a rest: several names that end alike have a longer rest in common with their own.
        let Some(other) = there.iter().find(|name| name.ends_with(rest)) else { continue };
        let [old, new] = [*first, *other].map(|name| &name[..name.len() - rest.len()]);
        let moved = |name: &&str| {
            name.strip_prefix(old).is_some_and(|rest| names.contains(format!("{new}{rest}").as_str()))
        };
        if here.iter().all(moved) {
            return Ok(Some([old, new]));
        }
    }
    Ok(None)
}

/// How two tensors of one name differ, if they do. Views count by their elements in order, whatever their strides.
fn compare_tensor(
    (ours, i): (&TensorReader, usize),
    (theirs, j): (&TensorReader, usize),
    cancel: &Cancel,
) -> Result<Option<String>> {
    let (a, b) = (&ours.checkpoint.tensors[i], &theirs.checkpoint.tensors[j]);
    if (a.dtype, &a.shape) != (b.dtype, &b.shape) {
        return Ok(Some(format!(
            "tensor '{}' is {:?} {:?} of {} bytes here, {:?} {:?} of {} bytes there",
            a.name,
            a.dtype,
            a.shape,
            a.data_bytes(),
            b.dtype,
            b.shape,
            b.data_bytes()
        )));
    }
    let (a_data, b_data) = (Elements::new(ours, i)?, Elements::new(theirs, j)?);
    let (mut left, mut right) = (Vec::new(), Vec::new());
    let bytes = a.data_bytes();
    let mut offset = 0u64;
    while offset < bytes {
        if cancel.is_set() {
            bail!(Interrupted);
        }
        let block = BLOCK_BYTES.min(bytes - offset) as usize;
        left.resize(block, 0);
        right.resize(block, 0);
        a_data.fill(offset, &mut left)?;
        b_data.fill(offset, &mut right)?;
        if let Some(at) = left.iter().zip(&right).position(|(x, y)| x != y) {
            return Ok(Some(format!("tensor '{}' differs from byte {} on", a.name, offset + at as u64)));
        }
        offset += block as u64;
    }
    Ok(None)
}

/// A tensor's elements in the order of its shape.
enum Elements<'a> {
    /// As they lie in the file.
    Contiguous(&'a TensorReader, usize),
    /// Gathered from the storage of a view.
    Strided(View<'a>),
}

/// A strided view, with its storage whole in memory: its elements may come from anywhere in it.
struct View<'a> {
    name: &'a str,
    /// As torch counts, to whom a pair of F4 is one element: so every element has whole bytes.
    shape: Vec<u64>,
    stride: Vec<u64>,
    element_bytes: u64,
    storage: Vec<u8>,
}

impl<'a> Elements<'a> {
    fn new(reader: &'a TensorReader, index: usize) -> Result<Elements<'a>> {
        let tensor = &reader.checkpoint.tensors[index];
        if tensor.is_contiguous() {
            return Ok(Elements::Contiguous(reader, index));
        }
        let mut storage = Vec::new();
        let bytes = usize::try_from(tensor.bytes)?;
        let room = storage.try_reserve_exact(bytes);
        room.with_context(|| format!("take {bytes} bytes of memory for the strided view '{}'", tensor.name))?;
        storage.resize(bytes, 0);
        reader.fill(index, 0, &mut storage)?;
        let (shape, stride) = to_torch(tensor.dtype, &tensor.shape, &tensor.stride)
            .with_context(|| format!("the strided view '{}' parts its pairs", tensor.name))?;
        let element_bytes = tensor.dtype.bits().div_ceil(8);
        Ok(Elements::Strided(View { name: &tensor.name, shape, stride, element_bytes, storage }))
    }

    /// Fills `out` from byte `offset` of the elements on; both are whole elements.
    fn fill(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let view = match self {
            Elements::Contiguous(reader, index) => return reader.fill(*index, offset, out),
            Elements::Strided(view) => view,
        };
        let size = view.element_bytes;
        for (number, element) in (offset / size..).zip(out.chunks_exact_mut(size as usize)) {
            let at = (place_of(number, &view.shape, &view.stride) * size) as usize;
            let Some(found) = view.storage.get(at..at + size as usize) else {
                bail!("the strided view '{}' reaches past its storage", view.name)
            };
            element.copy_from_slice(found);
        }
        Ok(())
    }
}

/// Where in its storage a view's element with this number lies, in elements. Every layout's reader has checked
/// that the farthest is within it.
fn place_of(mut number: u64, shape: &[u64], stride: &[u64]) -> u64 {
    let mut place = 0;
    for (extent, step) in shape.iter().zip(stride).rev() {
        place += number % extent * step;
        number /= extent;
    }
    place
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint<'a>(here: &[&'a str], there: &[&'a str]) -> Option<[&'a str; 2]> {
        renamed(here, there, &Cancel::new()).unwrap()
    }

    #[test]
    fn a_common_renaming_is_told() {
        let here = ["model.a.w", "model.b.w"];
        assert_eq!(hint(&here, &["language.model.b.w", "language.model.a.w"]), Some(["", "language."]));
        assert_eq!(hint(&here, &["net.a.w", "net.b.w"]), Some(["model.", "net."]));
        assert_eq!(hint(&here, &["b.w", "a.w"]), Some(["model.", ""]));
        assert_eq!(hint(&here, &["net.a.w", "net.c.w"]), None);
        assert_eq!(hint(&here, &["net.a.w"]), None);
        assert_eq!(hint(&[], &[]), None);
    }

    #[test]
    fn ctrl_c_ends_a_comparison() {
        let dir = tempfile::tempdir_in(".").unwrap();
        let header = r#"{"w":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}} "#;
        let text = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), b"ab"].concat();
        let path = dir.path().join("x.safetensors");
        std::fs::write(&path, text).unwrap();
        let cancel = Cancel::new();
        let against_itself =
            || compare(Checkpoint::read(&path).unwrap(), &path, &cancel, &Progress::silent());
        assert_eq!(against_itself().unwrap().tensors, 1);
        cancel.set();
        assert!(against_itself().err().is_some_and(|error| error.is::<Interrupted>()));
    }

    #[test]
    fn elements_of_a_transposed_view() {
        let places: Vec<u64> = (0..6).map(|i| place_of(i, &[3, 2], &[1, 3])).collect();
        assert_eq!(places, [0, 3, 1, 4, 2, 5]);
        assert_eq!(place_of(5, &[2, 3], &[0, 1]), 2, "a row that repeats");
    }
}
