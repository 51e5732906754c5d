//! Holding what a client got against the digests that were recorded when the model was saved.

use crate::load::{ByteRange, Model};
use crate::os::error::Error;
use crate::serve::models::Recorded;
use crate::serve::settings::Verify;

/// Of a sample, one tensor in so many.
const ONE_IN: usize = 16;

/// Digests tensors where they lie, as many as were asked for: of the ranges, those that are a whole tensor each, whose digest is
/// known.
pub fn check(model: &Model, ranges: &[ByteRange], recorded: &Recorded, which: Verify) -> Result<(), Error> {
    let is_known = |(number, range): (usize, &ByteRange)| {
        recorded.get(&(range.from, range.bytes)).map(|(name, digest)| (number, name, *digest))
    };
    let mut known: Vec<_> = ranges.iter().enumerate().filter_map(is_known).collect();
    match which {
        Verify::Off => return Ok(()),
        Verify::All => {}
        Verify::Sample => {
            fastrand::shuffle(&mut known);
            known.truncate(known.len().div_ceil(ONE_IN));
        }
    }
    let numbers: Vec<usize> = known.iter().map(|(number, ..)| *number).collect();
    let found = model.digests(&numbers)?;
    let differs = |((_, name, wanted), found): (&(usize, &String, _), _)| {
        (*wanted != found).then(|| format!("tensor '{name}': digest {found}, expected {wanted}"))
    };
    let tensors: Vec<String> = known.iter().zip(found).filter_map(differs).collect();
    if tensors.is_empty() { Ok(()) } else { Err(Error::Corrupt { tensors }) }
}
