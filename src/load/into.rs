//! Loads into memory of the caller's, and loads of slices: what is planned before the load begins.

use std::collections::HashSet;
use std::sync::Arc;

use crate::checkpoint::{Checkpoint, DType, Tensor};
use crate::gpu::Gpu;
use crate::load::loaded::Destination;
use crate::load::model::Device;
use crate::load::parts::{Part, plan_new_memory};
use crate::load::plan::{Destined, Place, Plan, Wanted, owners};
use crate::load::report::Clock;
use crate::load::request::{ByteRange, Layout, Memory, Select, Target, To};
use crate::load::task::{Given, Planned};
use crate::os::error::Error;

impl Target {
    /// Where it lies: host memory, or its GPUs, each once.
    pub(super) fn destination(&self) -> Result<To, Error> {
        let refused = |why: &str| Err(Error::Refused(why.into()));
        if self.memory.iter().any(|memory| memory.memory.address() == 0 && memory.memory.bytes() > 0) {
            return refused("memory to load into begins at address 0: its allocation failed");
        }
        self.check_disjoint()?;
        let mut labels: Vec<String> = Vec::new();
        for memory in &self.memory {
            if let Device::Gpu(index) = memory.device
                && labels.iter().all(|known| *known != index.to_string())
            {
                labels.push(index.to_string());
            }
        }
        let on_host = self.memory.iter().filter(|memory| memory.device == Device::Host).count();
        match (on_host, labels.is_empty()) {
            (0, true) => refused("there is no memory to load into"),
            (0, false) => Ok(To::Balanced(labels)),
            (_, true) => Ok(To::Host),
            (_, false) => refused("memory on the host and on a GPU: make a load for each"),
        }
    }

    /// Refuses memories that share bytes: threads would write to them side by side.
    fn check_disjoint(&self) -> Result<(), Error> {
        let mut spans = Vec::new();
        for (number, Memory { device, memory }) in self.memory.iter().enumerate() {
            let (start, bytes) = (memory.address(), memory.bytes());
            let Some(end) = start.checked_add(bytes) else {
                return Err(Error::Refused(format!(
                    "memory {number} to load into, {bytes} bytes from address {start:#x} on, goes past the last address"
                )));
            };
            if bytes > 0 {
                spans.push((order(device), start, end, number));
            }
        }
        spans.sort_unstable();
        match spans.windows(2).find(|pair| pair[0].0 == pair[1].0 && pair[0].2 > pair[1].1) {
            Some(pair) => {
                let (_, start, end, one) = pair[0];
                let (_, other_start, other_end, other) = pair[1];
                Err(Error::Refused(format!(
                    "memories {one} ({start:#x} to {end:#x}) and {other} ({other_start:#x} to {other_end:#x}) to load into \
                     overlap: name memory that holds several tensors once, and give each a place in it"
                )))
            }
            None => Ok(()),
        }
    }

    /// Refuses places outside of the memories, and two that share a byte.
    fn check_places(&self, parts: &[Part], places: &[Place]) -> Result<(), Error> {
        let refused = |why: String| Err(Error::Refused(why));
        let what = |part: &Part| match &self.layout {
            Layout::Tensors(_) => format!("tensor '{}'", part.tensor.name),
            Layout::Ranges(_) => part.tensor.name.clone(),
        };
        let mut written = Vec::new();
        for (number, (part, place)) in parts.iter().zip(places).enumerate() {
            let Place { destination, offset } = *place;
            let (what, bytes) = (what(part), part.tensor.bytes);
            let Some(memory) = self.memory.get(destination) else {
                let count = self.memory.len();
                return refused(format!(
                    "{what} goes to memory {destination}, and there are {count}, from 0 on"
                ));
            };
            let room = memory.memory.bytes();
            match offset.checked_add(bytes) {
                Some(end) if end <= room => {
                    written.push((destination, offset, end, part.delivery(destination, offset), number));
                }
                _ => {
                    return refused(format!(
                        "{what} has {bytes} bytes and goes to byte {offset} of memory {destination}, which has {room} bytes"
                    ));
                }
            }
        }
        written.retain(|(_, start, end, ..)| start < end);
        written.sort_unstable_by_key(|(destination, start, end, _, number)| {
            (*destination, *start, *end, *number)
        });
        // Tied tensors may have one place.
        if let Layout::Tensors(_) = self.layout {
            written.dedup_by(|one, other| one.3 == other.3);
        }
        match written.windows(2).find(|pair| pair[0].0 == pair[1].0 && pair[0].2 > pair[1].1) {
            Some(pair) => refused(format!(
                "{} and {} both go to byte {} of memory {}: one would overwrite the other",
                what(&parts[pair[0].4]),
                what(&parts[pair[1].4]),
                pair[1].1,
                pair[1].0
            )),
            None => Ok(()),
        }
    }
}

/// The plan for slices in new memory.
pub fn plan_slices(checkpoint: &Checkpoint, select: &Select, lanes: usize) -> Result<Planned, Error> {
    let mut clock = Clock::start();
    let parts = checkpoint.tensors.iter().map(|tensor| select.part(tensor)).collect::<Result<Vec<_>, _>>()?;
    let destinations = lanes.max(1);
    let owners = owners(checkpoint, destinations)?;
    let plan = plan_new_memory(checkpoint, &parts, &owners, destinations)?;
    Ok(Planned { plan, parts: parts.into(), into: None, plan_s: clock.lap() })
}

/// The GPUs that a lane's bytes may go to, the one that it is near first.
type Lanes = Vec<Vec<Arc<Gpu>>>;

/// The plan for memory of the caller's, whose GPUs `to` has opened, and a lane for each of these.
pub fn plan(
    checkpoint: &Checkpoint,
    select: &Select,
    target: &Target,
    to: &Destination,
) -> Result<(Planned, Lanes), Error> {
    let mut clock = Clock::start();
    let gpus: &[Arc<Gpu>] = match to {
        Destination::Host => &[],
        Destination::Gpus(gpus, _) => gpus,
    };
    let (mut destined, mut into) = (Vec::new(), Vec::new());
    for Memory { device, memory } in &target.memory {
        let lane = gpus.iter().position(|gpu| Device::Gpu(gpu.index) == *device);
        destined.push(Destined { bytes: memory.bytes(), lane: lane.unwrap_or(0) });
        into.push(match lane {
            Some(lane) => Given::Device(gpus[lane].clone(), *memory),
            None => Given::Host(*memory),
        });
    }
    let (parts, places) = match &target.layout {
        Layout::Tensors(_) => tensors(checkpoint, select, target)?,
        Layout::Ranges(ranges) if *select == Select::All => ranges_as_parts(checkpoint, ranges)?,
        Layout::Ranges(_) => {
            return Err(Error::Refused("ranges name the bytes that they want: select all tensors".into()));
        }
    };
    target.check_places(&parts, &places)?;
    let mut deliveries: Vec<Wanted> = parts
        .iter()
        .zip(&places)
        .map(|(part, place)| part.delivery(place.destination, place.offset))
        .filter(|delivery| delivery.bytes() > 0)
        .collect();
    // Tied tensors may have one place.
    if let Layout::Tensors(_) = target.layout {
        let mut known = HashSet::new();
        deliveries.retain(|delivery| known.insert(*delivery));
    }
    let plan = Plan::deliver(&checkpoint.files, &deliveries, &destined)?;
    // What two GPUs want is read once, in the lane of one of them: each lane can copy to all.
    let near_first = |near: usize| {
        let mut lane = gpus.to_vec();
        lane.swap(0, near);
        lane
    };
    let lanes = (0..gpus.len()).map(near_first).collect();
    Ok((
        Planned { plan: Plan { places, ..plan }, parts: parts.into(), into: Some(into), plan_s: clock.lap() },
        lanes,
    ))
}

/// What is selected, each with its place.
fn tensors(
    checkpoint: &Checkpoint,
    select: &Select,
    target: &Target,
) -> Result<(Vec<Part>, Vec<Place>), Error> {
    let Layout::Tensors(wanted) = &target.layout else { return Ok(Default::default()) };
    let (mut parts, mut places) = (Vec::new(), Vec::new());
    for tensor in checkpoint.tensors.iter() {
        let part = select.part(tensor)?;
        let name = &tensor.name;
        let Some((destination, offset)) = wanted.get(name).copied() else {
            return Err(Error::Refused(format!(
                "tensor '{name}' has no place: name one, or select those that have"
            )));
        };
        places.push(Place { destination, offset });
        parts.push(part);
    }
    let selected: HashSet<&str> = checkpoint.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    match wanted.keys().find(|name| !selected.contains(name.as_str())) {
        Some(name) => Err(Error::NotFound(format!(
            "tensor '{name}' has a place, and {} has none of that name, or it is not selected",
            checkpoint.dir.display()
        ))),
        None => Ok((parts, places)),
    }
}

/// A number for each device, the host first.
fn order(device: &Device) -> usize {
    match device {
        Device::Host => 0,
        Device::Gpu(index) => index.saturating_add(1),
    }
}

/// Ranges as tensors of bytes.
fn ranges_as_parts(checkpoint: &Checkpoint, ranges: &[ByteRange]) -> Result<(Vec<Part>, Vec<Place>), Error> {
    let all = checkpoint.file_bytes();
    for (number, ByteRange { from, bytes, .. }) in ranges.iter().enumerate() {
        if from.checked_add(*bytes).is_none_or(|end| end > all) {
            return Err(Error::Refused(format!(
                "range {number}: {bytes} bytes from byte {from} on, and the checkpoint has {all} bytes"
            )));
        }
    }
    let part = |(number, range): (usize, &ByteRange)| {
        let tensor = Tensor {
            name: format!("range {number}"),
            dtype: DType::U8,
            shape: vec![range.bytes],
            stride: vec![1],
            offset: range.from,
            bytes: range.bytes,
        };
        Part { is_whole: false, ..Part::whole(&tensor) }
    };
    let places = ranges.iter().map(|range| Place { destination: range.memory, offset: range.to });
    Ok((ranges.iter().enumerate().map(part).collect(), places.collect()))
}
