//! Loaders, and loads.

use std::ffi::c_char;

use crate::capi::checkpoint::sllm_gds_checkpoint;
use crate::capi::model::sllm_gds_model;
use crate::capi::request::{request_of, sllm_gds_request};
use crate::capi::status::{invalid, run, sllm_gds_status};
use crate::capi::strings::{give, given, sized, take_back, text};
use crate::load::{EngineChoice, IoChoice, Loader};

pub const SLLM_GDS_ENGINE_AUTO: u32 = 0;
pub const SLLM_GDS_ENGINE_GDS: u32 = 1;
pub const SLLM_GDS_ENGINE_PINNED: u32 = 2;
pub const SLLM_GDS_ENGINE_HOST: u32 = 3;

pub const SLLM_GDS_IO_AUTO: u32 = 0;
pub const SLLM_GDS_IO_DIRECT: u32 = 1;
pub const SLLM_GDS_IO_BUFFERED: u32 = 2;

/// How a loader loads. What is 0 has its default.
#[repr(C)]
#[allow(non_camel_case_types)]
pub struct sllm_gds_settings {
    /// `sizeof(sllm_gds_settings)`.
    pub struct_bytes: usize,
    pub engine: u32,
    pub io: u32,
    pub threads: u64,
    pub chunk_bytes: u64,
    pub copy_bytes: u64,
    pub ring_bytes: u64,
    /// 0: no pool.
    pub pool_bytes: u64,
    pub pool_chunk_bytes: u64,
    /// Not 0: all of the pool at the first load.
    pub prefault: u32,
    /// The program `sllm-gds`, that proves which way reads by cuFile go; null: none.
    pub gds_helper: *const c_char,
}

/// A loader.
#[allow(non_camel_case_types)]
pub struct sllm_gds_loader(Loader);

/// # Safety
/// The header's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_gds_loader_new(
    settings: *const sllm_gds_settings,
    loader: *mut *mut sllm_gds_loader,
) -> sllm_gds_status {
    run(|| {
        let mut builder = Loader::builder();
        // SAFETY: the header asks for settings whose first field is their size, or null.
        if let Some(settings) = unsafe { sized(settings, "the settings") }? {
            builder = builder.engine(match settings.engine {
                SLLM_GDS_ENGINE_AUTO => EngineChoice::Auto,
                SLLM_GDS_ENGINE_GDS => EngineChoice::Gds,
                SLLM_GDS_ENGINE_PINNED => EngineChoice::Pinned,
                SLLM_GDS_ENGINE_HOST => EngineChoice::Host,
                other => return invalid(format!("there is no engine {other}: SLLM_GDS_ENGINE_… names them")),
            });
            builder = builder.io(match settings.io {
                SLLM_GDS_IO_AUTO => IoChoice::Auto,
                SLLM_GDS_IO_DIRECT => IoChoice::Direct,
                SLLM_GDS_IO_BUFFERED => IoChoice::Buffered,
                other => return invalid(format!("there is no I/O {other}: SLLM_GDS_IO_… names them")),
            });
            if settings.threads > 0 {
                builder = builder.threads(usize::try_from(settings.threads).unwrap_or(usize::MAX));
            }
            if settings.chunk_bytes > 0 {
                builder = builder.chunk_bytes(settings.chunk_bytes);
            }
            if settings.copy_bytes > 0 {
                builder = builder.copy_bytes(settings.copy_bytes);
            }
            if settings.ring_bytes > 0 {
                builder = builder.ring_bytes(settings.ring_bytes);
            }
            if settings.pool_bytes > 0 {
                builder = builder.pool_bytes(settings.pool_bytes);
            }
            if settings.pool_chunk_bytes > 0 {
                builder = builder.pool_chunk_bytes(settings.pool_chunk_bytes);
            }
            // SAFETY: the header asks for a text, or null.
            if let Some(helper) = unsafe { text(settings.gds_helper, "the helper") }? {
                builder = builder.gds_helper(helper);
            }
            builder = builder.prefault(settings.prefault != 0);
        }
        // SAFETY: the header asks for a pointer that may be written to.
        unsafe { give(loader, sllm_gds_loader(builder.build()?)) }
    })
}

/// # Safety
/// The header's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_gds_loader_free(loader: *mut sllm_gds_loader) {
    // SAFETY: the header asks for one that was given out and not freed.
    unsafe { take_back(loader) }
}

/// # Safety
/// The header's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_gds_load(
    loader: *const sllm_gds_loader,
    checkpoint: *const sllm_gds_checkpoint,
    request: *const sllm_gds_request,
    model: *mut *mut sllm_gds_model,
) -> sllm_gds_status {
    run(|| {
        if model.is_null() {
            return invalid("the pointer for the model is null");
        }
        // SAFETY: the header asks for what was given out and not freed.
        let (loader, checkpoint) =
            unsafe { (given(loader, "the loader")?, given(checkpoint, "the checkpoint")?) };
        // SAFETY: the header asks for a request whose pointers hold what it says while this call lasts.
        let request = unsafe { request_of(request) }?;
        let loaded = loader.0.load(&checkpoint.checkpoint, &request)?;
        // SAFETY: the header asks for a pointer that may be written to.
        unsafe { give(model, sllm_gds_model::new(loaded)) }
    })
}
