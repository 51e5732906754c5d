//! What the pool's memory is made of.

use anyhow::Result;

use crate::os::memory::HostBuffer;

/// Memory of one chunk: pinned for GPU loads, plain in tests without a GPU.
pub trait Chunk: Send + Sync {
    fn as_slice(&self) -> &[u8];
    fn as_mut_slice(&mut self) -> &mut [u8];
}

impl Chunk for HostBuffer {
    fn as_slice(&self) -> &[u8] {
        HostBuffer::as_slice(self)
    }
    fn as_mut_slice(&mut self) -> &mut [u8] {
        HostBuffer::as_mut_slice(self)
    }
}

/// Makes that many chunks of that many bytes, with that many threads.
pub type Make<C> = Box<dyn Fn(usize, u64, usize) -> Result<Vec<C>> + Send + Sync>;
