//! The kernels' code, and its handles in a context.

use std::ffi::CString;

use cudarc::driver::{result, sys};

/// A fat binary made by nvcc, or PTX that ends in NUL: the driver tells them apart.
const IMAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kernels.bin"));

/// How the kernels came into this binary.
pub const MADE_BY: &str = env!("SLLM_GDS_KERNELS");

/// The loaded module of one context.
pub(super) struct Module {
    module: sys::CUmodule,
    pub(super) digest: sys::CUfunction,
    pub(super) fill: sys::CUfunction,
    pub(super) scatter: sys::CUfunction,
    pub(super) unpack: sys::CUfunction,
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

/// Loads the kernels into the current context; on an error, at which step.
pub(super) fn load() -> Result<Module, (String, result::DriverError)> {
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
    Ok(Module {
        module,
        digest: function("sg_digest")?,
        fill: function("sg_fill")?,
        scatter: function("sg_scatter")?,
        unpack: function("sg_unpack")?,
    })
}
