//! What a client wants loaded into its memory: held against everything that is known before a byte moves.

use std::collections::{BTreeMap, HashMap};

use crate::gpu::ipc::{HANDLE_BYTES, Handle};
use crate::load::ByteRange;
use crate::serve::refusal::Refusal;
use crate::wire::devices::{Devices, Window, plain_uuid};

/// A client's memory, as it names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Of the GPU, without `GPU-`.
    pub uuid: String,
    /// CUDA's.
    pub handle: Handle,
}

/// Ranges of a model, and the memories that they go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// What the ranges' `memory` counts.
    pub memory: Vec<Named>,
    /// As the client named them; none is empty.
    pub ranges: Vec<ByteRange>,
}

/// What one device gets: of each chunk (source, bytes, place, which handle).
type Chunks = Vec<(u64, u64, u64, u64)>;

impl Wanted {
    /// Of ServerlessLLM's clients: chunks and handles by the UUID of the GPU.
    pub fn by_uuid(
        chunks: BTreeMap<String, Chunks>,
        handles: &HashMap<String, Vec<Vec<u8>>>,
    ) -> Result<Wanted, Refusal> {
        let (mut memory, mut ranges) = (Vec::new(), Vec::new());
        for (uuid, chunks) in chunks {
            let handles = handles.get(&uuid).map(Vec::as_slice).unwrap_or_default();
            let of = |handle: &Vec<u8>| Ok(once(&mut memory, plain_uuid(&uuid), parse(handle)?));
            let handles: Vec<usize> = handles.iter().map(of).collect::<Result<_, Refusal>>()?;
            for (number, (from, bytes, to, handle)) in chunks.into_iter().enumerate() {
                let which = usize::try_from(handle).ok().and_then(|handle| handles.get(handle));
                let Some(which) = which else {
                    return Err(Refusal::invalid(format!(
                        "chunk {number} for GPU {uuid} goes to handle {handle}, and {} came, counted from 0",
                        handles.len()
                    )));
                };
                if bytes > 0 {
                    ranges.push(ByteRange { from, bytes, memory: *which, to });
                }
            }
        }
        Ok(Wanted { memory, ranges })
    }

    /// Of this program's own clients.
    pub fn numbered(memory: Vec<(String, Vec<u8>)>, ranges: Vec<ByteRange>) -> Result<Wanted, Refusal> {
        let count = memory.len();
        if let Some(range) = ranges.iter().find(|range| range.memory >= count) {
            return Err(Refusal::invalid(format!(
                "a range goes to memory {}, and {count} came, counted from 0",
                range.memory
            )));
        }
        let mut known = Vec::new();
        let of = |(uuid, handle): (String, Vec<u8>)| Ok(once(&mut known, plain_uuid(&uuid), parse(&handle)?));
        let numbers: Vec<usize> = memory.into_iter().map(of).collect::<Result<_, Refusal>>()?;
        let ranges = ranges.into_iter().filter(|range| range.bytes > 0);
        let ranges = ranges.map(|range| ByteRange { memory: numbers[range.memory], ..range }).collect();
        Ok(Wanted { memory: known, ranges })
    }

    /// Opens the memories, after a look at what the ranges ask of a model of this size, and holds them against theirs.
    pub fn open(&self, model_bytes: u64, devices: &dyn Devices) -> Result<Vec<Box<dyn Window>>, Refusal> {
        if self.ranges.is_empty() {
            return Err(Refusal::invalid("nothing is to be loaded: the request has no chunk with bytes"));
        }
        for ByteRange { from, bytes, .. } in &self.ranges {
            if from.checked_add(*bytes).is_none_or(|end| end > model_bytes) {
                return Err(Refusal::out_of_range(format!(
                    "{bytes} bytes from byte {from} on are wanted, and the model's files have {model_bytes}: its index is of \
                     other files, or they were cut short; save the model anew"
                )));
            }
        }
        let open = |named: &Named| devices.open(&named.uuid, &named.handle).map_err(Refusal::of_memory);
        let windows: Vec<Box<dyn Window>> = self.memory.iter().map(open).collect::<Result<_, _>>()?;
        for ByteRange { bytes, memory, to, .. } in &self.ranges {
            let window = windows[*memory].as_ref();
            if to.checked_add(*bytes).is_none_or(|end| end > window.bytes()) {
                return Err(Refusal::out_of_range(format!(
                    "{bytes} bytes go to byte {to} of memory {memory} on GPU {}, which has {} bytes",
                    self.memory[*memory].uuid,
                    window.bytes()
                )));
            }
        }
        Ok(windows)
    }

    /// Its ranges in the order of the model, those joined that follow each other on both sides.
    pub fn joined(&self) -> Vec<ByteRange> {
        let mut sorted = self.ranges.clone();
        sorted.sort_unstable_by_key(|range| (range.memory, range.from, range.to));
        let mut joined: Vec<ByteRange> = Vec::new();
        for range in sorted {
            match joined.last_mut() {
                Some(last)
                    if last.memory == range.memory
                        && last.from + last.bytes == range.from
                        && last.to + last.bytes == range.to =>
                {
                    last.bytes += range.bytes;
                }
                _ => joined.push(range),
            }
        }
        joined
    }
}

/// The number of a memory. One that came twice has one: the driver opens it at one address.
fn once(known: &mut Vec<Named>, uuid: String, handle: Handle) -> usize {
    let named = Named { uuid, handle };
    known.iter().position(|other| *other == named).unwrap_or_else(|| {
        known.push(named);
        known.len() - 1
    })
}

fn parse(handle: &[u8]) -> Result<Handle, Refusal> {
    handle.try_into().map_err(|_| {
        Refusal::invalid(format!(
            "a CUDA memory handle has {HANDLE_BYTES} bytes, and one of {} came",
            handle.len()
        ))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tonic::Code;

    use super::*;
    use crate::os::error::Error;
    use crate::wire::devices::Own;

    struct NoDevices;

    impl Devices for NoDevices {
        fn list(&self) -> Result<Vec<String>, String> {
            Ok(Vec::new())
        }
        fn open(&self, uuid: &str, _: &Handle) -> Result<Box<dyn Window>, Error> {
            Err(Error::NotFound(uuid.into()))
        }
        fn make(&self, uuid: &str, _: u64) -> Result<Box<dyn Own>, Error> {
            Err(Error::NotFound(uuid.into()))
        }
    }

    fn chunks(all: &[(u64, u64, u64, u64)]) -> BTreeMap<String, Chunks> {
        BTreeMap::from([("ab".to_string(), all.to_vec())])
    }

    fn handles(all: Vec<Vec<u8>>) -> HashMap<String, Vec<Vec<u8>>> {
        HashMap::from([("ab".to_string(), all)])
    }

    #[test]
    fn what_makes_no_sense_is_refused_before_a_handle_is_opened() {
        let good = || handles(vec![vec![7; HANDLE_BYTES]]);
        let code = |chunks, handles: &HashMap<_, _>| {
            let wanted = Wanted::by_uuid(chunks, handles)?;
            wanted.open(100, &NoDevices).map(drop)
        };
        let of = |chunks, handles: &HashMap<_, _>| code(chunks, handles).unwrap_err().code;
        assert_eq!(of(chunks(&[(0, 100, 0, 0)]), &good()), Code::FailedPrecondition, "as far as the devices");
        assert_eq!(of(chunks(&[]), &good()), Code::InvalidArgument);
        assert_eq!(of(chunks(&[(0, 0, 0, 0)]), &good()), Code::InvalidArgument);
        assert_eq!(of(chunks(&[(0, 1, 0, 1)]), &good()), Code::InvalidArgument);
        assert_eq!(of(chunks(&[(0, 1, 0, u64::MAX)]), &good()), Code::InvalidArgument);
        assert_eq!(of(chunks(&[(0, 1, 0, 0)]), &HashMap::new()), Code::InvalidArgument);
        assert_eq!(of(chunks(&[(0, 1, 0, 0)]), &handles(vec![vec![7; 63]])), Code::InvalidArgument);
        for (from, bytes) in [(0, 101), (100, 1), (u64::MAX, 2), (1, u64::MAX)] {
            assert_eq!(of(chunks(&[(from, bytes, 0, 0)]), &good()), Code::OutOfRange, "{from} {bytes}");
        }
        let range = ByteRange { from: 0, bytes: 1, memory: 1, to: 0 };
        let memory = vec![("GPU-AB".to_string(), vec![0; HANDLE_BYTES])];
        assert_eq!(Wanted::numbered(memory.clone(), vec![range]).unwrap_err().code, Code::InvalidArgument);
        let wanted = Wanted::numbered(memory, vec![ByteRange { memory: 0, ..range }]).unwrap();
        assert_eq!(wanted.memory[0].uuid, "ab");
    }

    proptest! {
        /// Each byte goes where it went before, by fewer ranges.
        #[test]
        fn joining_changes_no_byte(all in prop::collection::vec((0u64..40, 1u64..6, 0usize..2, 0u64..40), 0..30)) {
            let ranges: Vec<ByteRange> =
                all.iter().map(|(from, bytes, memory, to)| ByteRange { from: *from, bytes: *bytes, memory: *memory, to: *to }).collect();
            let bytes_of = |ranges: &[ByteRange]| {
                let each = |range: &ByteRange| {
                    let ByteRange { from, bytes, memory, to } = *range;
                    (0..bytes).map(move |i| (from + i, memory, to + i))
                };
                let mut all: Vec<_> = ranges.iter().flat_map(each).collect();
                all.sort_unstable();
                all
            };
            let joined = Wanted { memory: Vec::new(), ranges: ranges.clone() }.joined();
            prop_assert!(joined.len() <= ranges.len());
            prop_assert_eq!(bytes_of(&joined), bytes_of(&ranges));
        }
    }
}
