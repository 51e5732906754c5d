//! The pool of a loader: made at its first load to GPUs, and there as long as the loader.

use std::sync::{Arc, Mutex, MutexGuard};

use anyhow::Result;

use crate::gpu::Gpu;
use crate::gpu::pinned::{Pinned, pin_for};
use crate::load::pool::{Pool, check_room};
use crate::os::error::Error;
use crate::os::text::size;

/// As long as a copy that is at the link's rate; small enough that little lies idle behind a file's end.
const CHUNK_BYTES: u64 = 16 << 20;

/// What was asked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct PoolChoice {
    pub bytes: Option<u64>,
    pub chunk_bytes: Option<u64>,
    /// Make all of it at once.
    pub prefault: bool,
    /// Keep what is loaded to host memory, too.
    pub host_loads: bool,
}

/// A pool, if one was asked for.
pub struct OwnPool {
    settings: PoolChoice,
    /// Those that the loader has opened: the pool's memory is near them.
    gpus: Arc<Mutex<Vec<Arc<Gpu>>>>,
    made: Mutex<Option<Arc<Pool<Pinned>>>>,
}

impl OwnPool {
    /// Refuses what can't be, while nothing depends on it.
    pub fn new(settings: PoolChoice, gpus: Arc<Mutex<Vec<Arc<Gpu>>>>) -> Result<OwnPool, Error> {
        let chunk_bytes = settings.chunk_bytes.unwrap_or(CHUNK_BYTES);
        if chunk_bytes == 0 {
            let why = "a pool chunk size of 0 bytes would keep nothing: 4MB to 64MB are usual";
            return Err(Error::Refused(why.into()));
        }
        if let Some(bytes) = settings.bytes {
            if bytes < chunk_bytes {
                return Err(Error::Refused(format!(
                    "a pool of {} holds no chunk of {}: raise the pool size, or lower the pool's chunk size",
                    size(bytes),
                    size(chunk_bytes)
                )));
            }
            check_room(bytes).map_err(anyhow::Error::from)?;
        }
        Ok(OwnPool { settings, gpus, made: Mutex::default() })
    }

    /// Whether loads to host memory go through it.
    pub fn takes_host_loads(&self) -> bool {
        self.settings.bytes.is_some() && self.settings.host_loads
    }

    /// The pool, if it was made.
    pub fn made(&self) -> Option<Arc<Pool<Pinned>>> {
        self.made.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// What was asked for, in bytes: of the pool, and of a chunk.
    pub fn sizes(&self) -> Option<(u64, u64)> {
        Some((self.settings.bytes?, self.settings.chunk_bytes.unwrap_or(CHUNK_BYTES)))
    }

    /// The pool, made now if it was not before. Its memory is pinned where a GPU was opened before, or is there to be.
    pub fn get(&self, threads: usize) -> Result<Option<Arc<Pool<Pinned>>>> {
        let Some(bytes) = self.settings.bytes else { return Ok(None) };
        let mut made = self.made.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(pool) = &*made {
            return Ok(Some(pool.clone()));
        }
        let gpus = self.gpus.clone();
        let make = move |count, bytes, threads| {
            let gpus = lock(&gpus).clone();
            Ok(pin_for(&gpus, bytes, count, threads)?)
        };
        let pool = Pool::new(bytes, self.settings.chunk_bytes.unwrap_or(CHUNK_BYTES), Box::new(make))?;
        // Other loads wait for it here: they would find the pool full.
        if self.settings.prefault {
            pool.prefault(threads)?;
        }
        Ok(Some(made.insert(Arc::new(pool)).clone()))
    }
}

fn lock(gpus: &Mutex<Vec<Arc<Gpu>>>) -> MutexGuard<'_, Vec<Arc<Gpu>>> {
    gpus.lock().unwrap_or_else(|e| e.into_inner())
}
