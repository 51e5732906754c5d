//! The kernels of `cuda/`: digests of device memory, and poison for it.

use std::ffi::CString;
use std::sync::OnceLock;

use cudarc::driver::{result, sys};

use crate::gpu::memory::DeviceBuffer;
use crate::gpu::{Gpu, GpuError};
use crate::os::digest;
use crate::os::digest::Digest;

/// A fat binary made by nvcc, or PTX that ends in NUL: the driver tells them apart.
const IMAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kernels.bin"));

/// How the kernels came into this binary.
pub const MADE_BY: &str = env!("SLLM_GDS_KERNELS");

/// Bytes that one thread block digests: a multiple of 8. Small enough that a tensor keeps the GPU busy.
const PART_BYTES: u64 = 256 << 10;
const THREADS: u32 = 256;

/// What poisoned memory holds: bytes that no weight tensor is likely to hold twice in a row.
pub const POISON: u64 = 0xa5c3_96e1_5a3c_691e;

/// The loaded module of a GPU, made at first use.
#[derive(Default)]
pub(super) struct ModuleCell(OnceLock<Result<Module, (String, String)>>);

struct Module {
    module: sys::CUmodule,
    digest: sys::CUfunction,
    fill: sys::CUfunction,
}

// SAFETY: module and function handles of the driver may be used from any thread with the context current.
unsafe impl Send for Module {}
// SAFETY: as above; they are never changed after loading.
unsafe impl Sync for Module {}

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: loaded once, unloaded once, while its Gpu still holds the context. Should that not be current
        // on this thread, the call fails and the module goes with its context.
        let _ = unsafe { result::module::unload(self.module) };
    }
}

/// `struct Part` of cuda/kernels.cu.
#[repr(C)]
#[derive(Clone, Copy)]
struct Part {
    offset: u64,
    start: u64,
    bytes: u32,
    tensor: u32,
}

impl Gpu {
    fn module(&self) -> Result<&Module, GpuError> {
        self.context.bind_to_thread().map_err(self.fail("make its context current"))?;
        let loaded =
            self.module.0.get_or_init(|| load().map_err(|(what, e)| (what, crate::gpu::device::cause(e))));
        loaded.as_ref().map_err(|(what, cause)| GpuError {
            gpu: self.label.clone(),
            what: format!("{what} (kernels by {MADE_BY})"),
            cause: cause.clone(),
        })
    }
}

fn load() -> Result<Module, (String, result::DriverError)> {
    let step = |what: &str| {
        let what = what.to_string();
        move |e| (what, e)
    };
    // SAFETY: the image is a fat binary, or PTX that ends in NUL, made by build.rs; it outlives the call.
    let module =
        unsafe { result::module::load_data(IMAGE.as_ptr().cast()) }.map_err(step("load the kernels"))?;
    let function = |name: &str| {
        let name = CString::new(name).unwrap_or_default();
        // SAFETY: the module was just loaded and is not unloaded before its functions are forgotten.
        unsafe { result::module::get_function(module, name) }.map_err(step("find a kernel"))
    };
    Ok(Module { module, digest: function("sg_digest")?, fill: function("sg_fill")? })
}

/// Fills a whole buffer with [`POISON`], so that bytes which are never written can't pass for loaded ones.
pub fn poison(buffer: &mut DeviceBuffer) -> Result<(), GpuError> {
    let gpu = buffer.gpu().clone();
    let module = gpu.module()?;
    let (mut address, mut bytes, mut word) = (buffer.address(), buffer.bytes(), POISON);
    let mut arguments = [arg(&mut address), arg(&mut bytes), arg(&mut word)];
    // SAFETY: the kernel takes these three arguments and writes `bytes` bytes of a live, exclusive allocation.
    unsafe {
        result::launch_kernel(
            module.fill,
            (2048, 1, 1),
            (THREADS, 1, 1),
            0,
            std::ptr::null_mut(),
            &mut arguments,
        )
    }
    .map_err(gpu.fail("start the fill kernel"))?;
    gpu.context.synchronize().map_err(gpu.fail("poison its memory"))
}

/// Digests of ranges (offset, bytes) of a buffer, and the kernel's own seconds.
pub fn digests(buffer: &DeviceBuffer, ranges: &[(u64, u64)]) -> Result<(Vec<Digest>, f64), GpuError> {
    let gpu = buffer.gpu();
    let module = gpu.module()?;
    let parts = parts(gpu, buffer.bytes(), ranges)?;
    if parts.is_empty() {
        return Ok((ranges.iter().map(|(_, bytes)| digest::finish(0, *bytes)).collect(), 0.0));
    }
    let mut table = DeviceBuffer::new(gpu, std::mem::size_of_val(parts.as_slice()) as u64)?;
    table.as_mut_slice().write(gpu, 0, as_bytes(&parts))?;
    let mut sums_buffer = DeviceBuffer::new(gpu, 8 * ranges.len() as u64)?;
    sums_buffer.as_mut_slice().write(gpu, 0, &vec![0u8; 8 * ranges.len()])?;
    let (mut base, mut table_at, mut sums_at) = (buffer.address(), table.address(), sums_buffer.address());
    let mut arguments = [arg(&mut base), arg(&mut table_at), arg(&mut sums_at)];
    let started = std::time::Instant::now();
    // SAFETY: the kernel takes these three addresses; every part lies within `buffer`, and `sums` has a word for
    // each range. All three buffers outlive the synchronisation below.
    unsafe {
        let grid = (parts.len() as u32, 1, 1);
        result::launch_kernel(module.digest, grid, (THREADS, 1, 1), 0, std::ptr::null_mut(), &mut arguments)
    }
    .map_err(gpu.fail("start the digest kernel"))?;
    gpu.context.synchronize().map_err(gpu.fail("digest its memory"))?;
    let kernel_s = started.elapsed().as_secs_f64();
    let mut sums = vec![0u8; 8 * ranges.len()];
    sums_buffer.read(0, &mut sums)?;
    let (words, _) = sums.as_chunks::<8>();
    let finished =
        words.iter().zip(ranges).map(|(sum, (_, bytes))| digest::finish(u64::from_le_bytes(*sum), *bytes));
    Ok((finished.collect(), kernel_s))
}

/// Cuts ranges into parts of [`PART_BYTES`]; refuses those outside the buffer.
fn parts(gpu: &Gpu, buffer_bytes: u64, ranges: &[(u64, u64)]) -> Result<Vec<Part>, GpuError> {
    let mut parts = Vec::new();
    for (tensor, (offset, bytes)) in ranges.iter().enumerate() {
        if offset.checked_add(*bytes).is_none_or(|end| end > buffer_bytes) {
            let (gpu, what) = (gpu.label.clone(), format!("digest {bytes} bytes at {offset}"));
            return Err(GpuError { gpu, what, cause: format!("the buffer has {buffer_bytes} bytes") });
        }
        let mut start = 0u64;
        while start < *bytes {
            let part_bytes = PART_BYTES.min(bytes - start);
            parts.push(Part {
                offset: offset + start,
                start,
                bytes: part_bytes as u32,
                tensor: tensor as u32,
            });
            start += part_bytes;
        }
    }
    Ok(parts)
}

fn arg<T>(value: &mut T) -> *mut std::ffi::c_void {
    (value as *mut T).cast()
}

fn as_bytes(parts: &[Part]) -> &[u8] {
    // SAFETY: `Part` is repr(C) of two u64 and two u32: 24 bytes, no padding, every byte initialised.
    unsafe { std::slice::from_raw_parts(parts.as_ptr().cast(), std::mem::size_of_val(parts)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    unsafe extern "C" {
        fn sg_host_digest(part: *const u8, bytes: u64, first_word: u64, threads: u32) -> u64;
        fn sg_host_fill(at: *mut u8, bytes: u64, word: u64, threads: u64);
    }

    proptest! {
        /// The same source that nvcc compiles, compiled for the host, against the Rust digest.
        #[test]
        fn the_digest_kernels_body_is_the_rust_digests_twin(
            bytes in prop::collection::vec(any::<u8>(), 16..600),
            skip in 0usize..16, start in 0u64..1000, threads in 1u32..70,
        ) {
            // The body reads whole aligned words, so the ends are left to it as on the device.
            let part = &bytes[skip.min(bytes.len() - 16)..bytes.len() - 8];
            // SAFETY: the part has at least 8 bytes of room behind it, and a Vec's start is 8-aligned or better.
            let sum = unsafe { sg_host_digest(part.as_ptr(), part.len() as u64, start, threads) };
            prop_assert_eq!(sum, digest::partial(part, start * 8));
        }

        #[test]
        fn the_fill_kernels_body_covers_every_byte(bytes in 0usize..300, threads in 1u64..70) {
            let mut memory = vec![0u64; 64];
            // SAFETY: 512 bytes are there, at most 300 are filled.
            unsafe { sg_host_fill(memory.as_mut_ptr().cast(), bytes as u64, POISON, threads) };
            let filled: Vec<u8> = memory.iter().flat_map(|w| w.to_le_bytes()).collect();
            let wanted = POISON.to_le_bytes().into_iter().cycle().take(bytes).chain(std::iter::repeat(0)).take(512);
            prop_assert!(filled.into_iter().eq(wanted));
        }
    }
}
