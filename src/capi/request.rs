//! What a load is asked for, in C.

use std::collections::BTreeMap;
use std::ffi::{c_char, c_void};

use crate::capi::status::{Failure, invalid};
use crate::capi::strings::{give, list, sized, take_back, text, texts};
use crate::load::{Device, Links, Memory, Request, Select, Target, To};
use crate::os::cancel::Cancel;

pub const SLLM_GDS_TO_HOST: u32 = 0;
pub const SLLM_GDS_TO_GPU: u32 = 1;
pub const SLLM_GDS_TO_BALANCED: u32 = 2;
pub const SLLM_GDS_TO_REPLICATE: u32 = 3;
pub const SLLM_GDS_TO_MEMORY: u32 = 4;

/// Memory of the caller's.
#[repr(C)]
#[allow(non_camel_case_types)]
#[derive(Clone, Copy)]
pub struct sllm_gds_memory {
    /// The index of its GPU, or -1 for host memory.
    pub device: i32,
    pub address: u64,
    pub bytes: u64,
}

/// Where a tensor goes in memory of the caller's.
#[repr(C)]
#[allow(non_camel_case_types)]
#[derive(Clone, Copy)]
pub struct sllm_gds_place {
    pub name: *const c_char,
    /// Which of the memories, and how many bytes from its start.
    pub memory: usize,
    pub offset: u64,
}

/// Told of bytes that were read so far, and of all that will be.
#[allow(non_camel_case_types)]
pub type sllm_gds_progress = Option<unsafe extern "C" fn(done_bytes: u64, all_bytes: u64, user: *mut c_void)>;

/// A load. What is 0 or null has its default.
#[repr(C)]
#[allow(non_camel_case_types)]
pub struct sllm_gds_request {
    /// `sizeof(sllm_gds_request)`.
    pub struct_bytes: usize,
    /// `SLLM_GDS_TO_HOST` and what follows.
    pub to: u32,
    /// Not 0: check every byte where it lies.
    pub verify: u32,
    /// By index or UUID.
    pub gpus: *const *const c_char,
    pub gpu_count: usize,
    /// `auto`, `own`, `all`, or GPUs as `0,1`.
    pub links: *const c_char,
    /// These tensors only; null: all.
    pub names: *const *const c_char,
    pub name_count: usize,
    /// Only tensors whose names begin so.
    pub prefix: *const c_char,
    /// With `SLLM_GDS_TO_MEMORY`.
    pub memories: *const sllm_gds_memory,
    pub memory_count: usize,
    pub places: *const sllm_gds_place,
    pub place_count: usize,
    pub cancel: *const sllm_gds_cancel,
    pub progress: sllm_gds_progress,
    pub user: *mut c_void,
}

/// A flag that ends loads.
#[allow(non_camel_case_types)]
pub struct sllm_gds_cancel(Cancel);

/// A caller's function and its argument.
struct Progress {
    tell: unsafe extern "C" fn(u64, u64, *mut c_void),
    user: *mut c_void,
}

// SAFETY: the header says that the function is called from the loader's threads, one at a time, with `user` as it is.
unsafe impl Send for Progress {}
// SAFETY: as above.
unsafe impl Sync for Progress {}

impl Progress {
    fn tell(&self, done_bytes: u64, all_bytes: u64) {
        // SAFETY: the header asks for a function that may be called so while the load lasts.
        unsafe { (self.tell)(done_bytes, all_bytes, self.user) }
    }
}

/// The request that C describes.
///
/// # Safety
/// It is null, or all its pointers hold what the header asks for; and memories are as [`Memory::new`] wants them.
pub(super) unsafe fn request_of(request: *const sllm_gds_request) -> Result<Request, Failure> {
    // SAFETY: our own contract.
    let Some(asked) = (unsafe { sized(request, "the request") })? else { return Ok(Request::to(To::Host)) };
    // SAFETY: our own contract.
    let to = unsafe { destination_of(&asked) }?;
    let mut request = Request::to(to).verify(asked.verify != 0);
    // SAFETY: our own contract.
    let (names, prefix) =
        unsafe { (texts(asked.names, asked.name_count, "the names")?, text(asked.prefix, "the prefix")?) };
    request = match (asked.names.is_null(), prefix) {
        (false, Some(_)) => return invalid("names and a prefix are given: leave one of them out"),
        (false, None) => request.select(Select::names(names)),
        (true, Some(prefix)) => request.select(Select::Prefix(prefix.into())),
        (true, None) => request,
    };
    // SAFETY: our own contract.
    request = match unsafe { text(asked.links, "the links") }? {
        None | Some("auto") => request,
        Some("own") => request.links(Links::Own),
        Some("all") => request.links(Links::All),
        Some(list) => {
            let labels = list.split(',').map(|label| label.trim().to_string());
            request.links(Links::Gpus(labels.collect()))
        }
    };
    // SAFETY: our own contract.
    if let Some(cancel) = unsafe { asked.cancel.as_ref() } {
        request = request.cancel(&cancel.0);
    }
    if let Some(tell) = asked.progress {
        let progress = Progress { tell, user: asked.user };
        request = request.progress(move |done, all| progress.tell(done, all));
    }
    Ok(request)
}

/// # Safety
/// As of [`request_of`].
unsafe fn destination_of(asked: &sllm_gds_request) -> Result<To, Failure> {
    // SAFETY: our own contract.
    let mut gpus = unsafe { texts(asked.gpus, asked.gpu_count, "the GPUs") }?;
    let of_memory = asked.to == SLLM_GDS_TO_MEMORY;
    if !of_memory && (asked.memory_count > 0 || asked.place_count > 0) {
        return invalid("memories and places are for SLLM_GDS_TO_MEMORY");
    }
    if matches!(asked.to, SLLM_GDS_TO_HOST | SLLM_GDS_TO_MEMORY) && !gpus.is_empty() {
        return invalid("GPUs are named, and the load goes to none of them: name another destination");
    }
    match asked.to {
        SLLM_GDS_TO_HOST => Ok(To::Host),
        SLLM_GDS_TO_GPU if gpus.len() == 1 => Ok(To::Gpu(gpus.swap_remove(0))),
        SLLM_GDS_TO_GPU => invalid(format!("SLLM_GDS_TO_GPU wants one GPU, and {} are named", gpus.len())),
        SLLM_GDS_TO_BALANCED => Ok(To::Balanced(gpus)),
        SLLM_GDS_TO_REPLICATE => Ok(To::Replicate(gpus)),
        // SAFETY: our own contract.
        SLLM_GDS_TO_MEMORY => unsafe { target_of(asked) }.map(To::Into),
        other => invalid(format!("there is no destination {other}: SLLM_GDS_TO_… names them")),
    }
}

/// # Safety
/// As of [`request_of`].
unsafe fn target_of(asked: &sllm_gds_request) -> Result<Target, Failure> {
    // SAFETY: our own contract.
    let (memories, places) = unsafe {
        (
            list(asked.memories, asked.memory_count, "the memories")?,
            list(asked.places, asked.place_count, "the places")?,
        )
    };
    let memory = |memory: &sllm_gds_memory| {
        let device = match usize::try_from(memory.device) {
            Ok(index) => Device::Gpu(index),
            Err(_) if memory.device == -1 => Device::Host,
            Err(_) => {
                return invalid(format!(
                    "there is no device {}: GPUs count from 0, -1 is the host",
                    memory.device
                ));
            }
        };
        // SAFETY: the header asks for just what this does.
        Ok(unsafe { Memory::new(device, memory.address, memory.bytes) })
    };
    let memories = memories.iter().map(memory).collect::<Result<Vec<_>, _>>()?;
    let mut by_name = BTreeMap::new();
    for place in places {
        // SAFETY: our own contract.
        let name = unsafe { text(place.name, "the name of a place") }?;
        let Some(name) = name else { return invalid("the name of a place is a null pointer") };
        if by_name.insert(name.to_string(), (place.memory, place.offset)).is_some() {
            return invalid(format!("tensor '{name}' has two places"));
        }
    }
    Ok(Target::tensors(memories, by_name))
}

/// # Safety
/// The header's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_gds_cancel_new(
    cancel: *mut *mut sllm_gds_cancel,
) -> super::status::sllm_gds_status {
    // SAFETY: the header asks for a pointer that may be written to.
    super::status::run(|| unsafe { give(cancel, sllm_gds_cancel(Cancel::new())) })
}

/// # Safety
/// The header's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_gds_cancel_set(cancel: *const sllm_gds_cancel) {
    // SAFETY: the header asks for one that was given out and not freed, or null.
    if let Some(cancel) = unsafe { cancel.as_ref() } {
        cancel.0.set();
    }
}

/// # Safety
/// The header's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_gds_cancel_free(cancel: *mut sllm_gds_cancel) {
    // SAFETY: the header asks for one that was given out and not freed.
    unsafe { take_back(cancel) }
}
