//! Whole tensors, shared out to destinations.

use anyhow::{Result, bail};

use crate::checkpoint::modules::{cut, module_of};
use crate::checkpoint::{Checkpoint, DataFile, Tensor};
use crate::load::plan::extents::{Codec, Extent, GAP_BYTES, Piece, Place, Plan, Spacing, TENSOR_ALIGN};
use crate::os::sys::{DIRECT_ALIGN, align_up};

impl Plan {
    /// Shares a checkpoint out to `destinations`: group by group where it was saved with as many groups, else
    /// cut by bytes at module boundaries.
    pub fn new(checkpoint: &Checkpoint, destinations: usize, spacing: Spacing) -> Result<Plan> {
        if destinations == 0 {
            bail!("a load needs at least one destination");
        }
        let owner = owners(checkpoint, destinations)?;
        let mut plan = Plan {
            extents: Vec::new(),
            pieces: Vec::new(),
            lanes: destinations,
            destination_bytes: vec![0; destinations],
            places: vec![Place { destination: 0, offset: 0 }; checkpoint.tensors.len()],
        };
        for destination in 0..destinations {
            for file in 0..checkpoint.files.len() {
                plan.add_file(checkpoint, &owner, destination, file, spacing);
            }
        }
        Ok(plan)
    }

    /// Adds what holds this destination's tensors of a file, and places them.
    fn add_file(
        &mut self,
        checkpoint: &Checkpoint,
        owner: &[usize],
        destination: usize,
        file: usize,
        spacing: Spacing,
    ) {
        let data = &checkpoint.files[file];
        let from = checkpoint.tensors.partition_point(|t| t.offset < data.base);
        let within = |t: &Tensor| t.bytes > 0 && t.offset >= data.base && t.offset < data.end();
        let candidates = checkpoint.tensors.iter().enumerate().skip(from);
        let mine: Vec<(usize, &Tensor)> = candidates
            .take_while(|(_, t)| t.offset < data.end())
            .filter(|(i, t)| owner[*i] == destination && within(t))
            .collect();
        for run in runs(&mine) {
            self.add_run(data, run, destination, file, spacing);
        }
    }

    /// Adds the smallest aligned extent that holds tensors which lie close to each other, and places them.
    fn add_run(
        &mut self,
        data: &DataFile,
        mine: &[(usize, &Tensor)],
        destination: usize,
        file: usize,
        spacing: Spacing,
    ) {
        let Some((_, first)) = mine.first() else { return };
        let last_end = mine.iter().map(|(_, t)| t.end()).max().unwrap_or(first.end());
        let start = (first.offset - data.base) & !(DIRECT_ALIGN - 1);
        let bytes = align_up(last_end - data.base, DIRECT_ALIGN).min(data.bytes) - start;
        let base = self.destination_bytes[destination];
        let first_piece = self.pieces.len();
        let aligned = |t: &Tensor| (t.offset - data.base - start).is_multiple_of(TENSOR_ALIGN);
        let end = match spacing == Spacing::AsInFile || mine.iter().all(|(_, t)| aligned(t)) {
            true => {
                for (i, tensor) in mine {
                    self.places[*i] =
                        Place { destination, offset: base + (tensor.offset - data.base - start) };
                }
                self.pieces.push(Piece::run(0, bytes, destination, base));
                base + bytes
            }
            false => self.add_shifted(mine, data.base + start, destination, base),
        };
        self.destination_bytes[destination] = align_up(end, DIRECT_ALIGN);
        let pieces = first_piece..self.pieces.len();
        self.extents.push(Extent {
            file,
            file_offset: start,
            bytes,
            codec: Codec::Plain,
            lane: destination,
            pieces,
        });
    }

    /// Places tensors from `to` on, each at the next good address, and joins those that move by the same distance, with
    /// what lies between them. Returns where the last one ends.
    fn add_shifted(
        &mut self,
        tensors: &[(usize, &Tensor)],
        start: u64,
        destination: usize,
        mut to: u64,
    ) -> u64 {
        let mut piece: Option<Piece> = None;
        for (i, tensor) in tensors {
            let from = tensor.offset - start;
            // Its place, if it moved with the piece so far; a twin's is its twin's.
            let along =
                piece.and_then(|p| (p.to + (from - p.from)).is_multiple_of(TENSOR_ALIGN).then_some(p));
            let joined = match along {
                Some(p) => Piece::run(p.from, (from + tensor.bytes - p.from).max(p.bytes), destination, p.to),
                None => {
                    self.pieces.extend(piece);
                    Piece::run(from, tensor.bytes, destination, align_up(to, TENSOR_ALIGN))
                }
            };
            self.places[*i] = Place { destination, offset: joined.to + (from - joined.from) };
            to = joined.to + joined.bytes;
            piece = Some(joined);
        }
        self.pieces.extend(piece);
        to
    }
}

/// Cuts tensors, in the order in which they lie, where more than [`GAP_BYTES`] between two are not wanted, with a page to
/// spare, so that no two extents share one.
fn runs<'t>(tensors: &'t [(usize, &'t Tensor)]) -> impl Iterator<Item = &'t [(usize, &'t Tensor)]> {
    tensors.chunk_by(|(_, a), (_, b)| b.offset <= a.end().saturating_add(GAP_BYTES))
}

/// The destination of each tensor. Tied tensors stay together: they share an offset, so they are neighbours
/// in the checkpoint's order, and a cut goes between different bytes only.
pub fn owners(checkpoint: &Checkpoint, destinations: usize) -> Result<Vec<usize>> {
    let groups = checkpoint.manifest.as_ref().map(|m| m.groups.as_slice()).unwrap_or_default();
    if groups.len() == destinations {
        // Looked up once a file, not once a tensor.
        let mut group_of_file = vec![0; checkpoint.files.len()];
        for (group, file) in
            groups.iter().enumerate().flat_map(|(g, files)| files.iter().map(move |f| (g, *f)))
        {
            if let Some(entry) = group_of_file.get_mut(file) {
                *entry = group;
            }
        }
        let owner = |t: &Tensor| checkpoint.file_at(t.offset).map_or(0, |file| group_of_file[file]);
        return Ok(checkpoint.tensors.iter().map(owner).collect());
    }
    let mut sized: Vec<(&str, u64)> = Vec::new();
    for (i, tensor) in checkpoint.tensors.iter().enumerate() {
        match i.checked_sub(1).map(|before| &checkpoint.tensors[before]) {
            // A twin counts no bytes and takes its twin's module, so that no cut can part them.
            Some(twin) if twin.offset == tensor.offset => {
                let module = sized[i - 1].0;
                let more = tensor.bytes - twin.bytes;
                sized.push((module, more));
            }
            _ => sized.push((module_of(&tensor.name), tensor.bytes)),
        }
    }
    let mut owner = Vec::with_capacity(sized.len());
    if sized.is_empty() {
        return Ok(owner);
    }
    for (destination, end) in cut(&sized, destinations)?.into_iter().enumerate() {
        owner.resize(end, destination);
    }
    Ok(owner)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::checkpoint::{Chosen, DType, DataFile, Layout, contiguous_stride};
    use crate::load::plan::Cut;
    use proptest::prelude::*;
    use std::sync::Arc;

    /// A checkpoint of these files (header bytes, tensor sizes), with gaps of up to 7 bytes between tensors.
    pub fn checkpoint(files: &[(u64, Vec<u64>)]) -> Checkpoint {
        let mut made = Checkpoint {
            dir: "x".into(),
            layout: Layout::Sllm,
            files: vec![],
            packed: None,
            tensors: Default::default(),
            manifest: None,
            lost: vec![],
            chosen: Chosen::default(),
            storage_path: None,
        };
        let mut base = 0;
        for (f, (header_bytes, sizes)) in files.iter().enumerate() {
            let mut at = *header_bytes;
            for size in sizes {
                let shape = vec![*size];
                let name = format!("layers.{}.t{}", made.tensors.len() / 3, made.tensors.len());
                let stride = contiguous_stride(&shape);
                Arc::make_mut(&mut made.tensors).push(Tensor {
                    name,
                    dtype: DType::U8,
                    shape,
                    stride,
                    offset: base + at,
                    bytes: *size,
                });
                at += size + size % 8;
            }
            made.files.push(DataFile {
                path: format!("f{f}").into(),
                base,
                bytes: at,
                header_bytes: *header_bytes,
                stamp: Default::default(),
            });
            base += at;
        }
        made
    }

    fn any_files() -> impl Strategy<Value = Vec<(u64, Vec<u64>)>> {
        prop::collection::vec((0u64..9000, prop::collection::vec(0u64..20_000, 0..12)), 1..5)
    }

    proptest! {
        /// Found by halving, against a look at each: among empty tensors and twins, wherever those lie.
        #[test]
        fn tensors_of_a_range_are_those_that_meet_it(
            files in any_files(), empty in prop::collection::vec(0u64..60_000, 0..6),
            twins in prop::collection::vec(0usize..40, 0..4), start in 0u64..80_000, bytes in 0u64..30_000,
        ) {
            let mut checkpoint = checkpoint(&files);
            let more: Vec<Tensor> = twins.iter().filter_map(|i| checkpoint.tensors.get(*i).cloned()).collect();
            let Some(one) = checkpoint.tensors.first().cloned() else { return Ok(()) };
            let tensors = Arc::make_mut(&mut checkpoint.tensors);
            tensors.extend(more);
            tensors.extend(empty.into_iter().map(|offset| Tensor { offset, bytes: 0, ..one.clone() }));
            tensors.sort_by_key(|t| (t.offset, t.bytes));
            let end = start + bytes;
            let meets = |t: &&Tensor| t.offset < end && t.end() > start;
            let wanted: Vec<&Tensor> = checkpoint.tensors.iter().filter(meets).collect();
            let found: Vec<&Tensor> = checkpoint.tensors_in(start, end).collect();
            prop_assert_eq!(found, wanted);
        }

        /// Moves every byte as the plan says, in memory, and looks where it came to be.
        #[test]
        fn every_tensor_arrives_whole_where_its_place_says(
            files in any_files(), destinations in 1usize..5, aligned in any::<bool>(), cut_pages in 1u64..6,
        ) {
            let checkpoint = checkpoint(&files);
            let spacing = if aligned { Spacing::Aligned } else { Spacing::AsInFile };
            let Ok(plan) = Plan::new(&checkpoint, destinations, spacing) else { return Ok(()) };
            for extent in &plan.extents {
                prop_assert_eq!(extent.file_offset % DIRECT_ALIGN, 0);
                let (file, end) = (&checkpoint.files[extent.file], extent.file_offset + extent.bytes);
                prop_assert!(end == file.bytes || (end < file.bytes && extent.bytes % DIRECT_ALIGN == 0));
            }
            let mut memory: Vec<Vec<Option<u64>>> =
                plan.destination_bytes.iter().map(|bytes| vec![None; *bytes as usize]).collect();
            let cut_bytes = cut_pages * DIRECT_ALIGN;
            let cuts: Vec<Cut> = plan.cuts(cut_bytes).collect();
            prop_assert_eq!(cuts.len(), plan.cut_count(cut_bytes));
            prop_assert_eq!(cuts.iter().map(|cut| cut.bytes).sum::<u64>(), plan.bytes());
            for cut in &cuts {
                prop_assert!(cut.bytes <= cut_bytes);
                let start = checkpoint.files[cut.file].base + cut.file_offset;
                for run in cut.pieces.iter().flat_map(|piece| piece.runs()) {
                    prop_assert!(run.from + run.bytes <= cut.bytes);
                    for byte in 0..run.bytes {
                        let room = &mut memory[run.destination][(run.to + byte) as usize];
                        prop_assert_eq!(*room, None, "written twice");
                        *room = Some(start + run.from + byte);
                    }
                }
            }
            for (tensor, place) in checkpoint.tensors.iter().zip(&plan.places).filter(|(t, _)| t.bytes > 0) {
                prop_assert!(!aligned || place.offset % TENSOR_ALIGN == 0);
                let found = &memory[place.destination][place.offset as usize..][..tensor.bytes as usize];
                prop_assert!(found.iter().copied().eq((tensor.offset..tensor.end()).map(Some)));
            }
        }
    }

    #[test]
    fn a_file_whose_tensors_keep_their_distances_moves_as_one_piece() {
        // As safetensors has it: data begin at 8 mod 16, sizes are multiples of 256.
        let checkpoint = checkpoint(&[(8 + 16 * 7, vec![256 * 40, 256 * 3, 256 * 1000])]);
        let plan = Plan::new(&checkpoint, 1, Spacing::Aligned).unwrap();
        assert_eq!(plan.pieces, [Piece::run(120, 256 * 1043, 0, 0)]);
        // Ours: they lie well already, and whole pages move.
        let checkpoint = super::tests::checkpoint(&[(0, vec![512, 256, 4096])]);
        let plan = Plan::new(&checkpoint, 1, Spacing::Aligned).unwrap();
        assert_eq!(plan.pieces, [Piece::run(0, 4864, 0, 0)]);
    }
}
