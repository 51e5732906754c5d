//! Files and memory that cuFile knows, and reads from the one to the other.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use crate::cufile::driver::Driver;
use crate::cufile::error::{CufileError, What};
use crate::cufile::raw;

const READ: &str = "cuFileRead";
/// `CU_FILE_HANDLE_NOT_REGISTERED`, from a registration.
const NOT_IDENTIFIED: i32 = 5027;

/// A file that cuFile reads from, by any number of threads at once.
#[derive(Debug)]
pub struct Handle {
    raw: raw::CUfileHandle_t,
    driver: Arc<Driver>,
    /// Closed after the handle was deregistered: fields drop after `drop`.
    file: File,
}

// SAFETY: the pointer is a name that cuFile looks up, never followed here. cuFile's calls may come from any thread,
// and several may read by one handle at once: each read names its own offset, and no call but `drop`, which has the
// handle to itself, changes it.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

impl Handle {
    /// Registers a file that is open for reading; best with `O_DIRECT`, without which older versions refuse it.
    pub fn register(driver: &Arc<Driver>, file: File) -> Result<Self, CufileError> {
        let registered = driver.library().calls.handle_register(file.as_raw_fd());
        let raw = registered.map_err(|error| match error.code() {
            Some(NOT_IDENTIFIED) => driver.explain(name_device(error, &file)),
            _ => driver.explain(error),
        })?;
        Ok(Self { raw, driver: Arc::clone(driver), file })
    }

    pub fn file(&self) -> &File {
        &self.file
    }

    pub fn driver(&self) -> &Arc<Driver> {
        &self.driver
    }

    /// Reads `[file_offset, file_offset + bytes)` to `[base + base_offset, … + bytes)`, in device or host memory.
    /// Returns how many bytes were read: fewer than asked at the file's end (0 at or past it), and at other times
    /// too. After an error, `bytes` of the destination may hold anything.
    ///
    /// Where the range is registered, `base` should be the registration's address: reads by any other go through a
    /// bounce buffer. Where it is not, `base` is any address in its allocation.
    ///
    /// # Safety
    /// From the call until it returns:
    /// - `[base + base_offset, base + base_offset + bytes)` lies in one live allocation, of a GPU that CUDA knows in
    ///   this process or of host memory, and may be written;
    /// - nobody else reads or writes that range, and no kernel or copy that does is queued.
    pub unsafe fn read_raw(
        &self,
        base: u64,
        base_offset: u64,
        bytes: u64,
        file_offset: u64,
    ) -> Result<u64, CufileError> {
        let too_large = |what: &'static str| {
            CufileError::other(
                READ,
                What::Refused,
                format!("{what} is over what cuFile takes"),
                "please report it",
            )
        };
        let base_offset = i64::try_from(base_offset).map_err(|_| too_large("the memory's offset"))?;
        let file_offset = i64::try_from(file_offset).map_err(|_| too_large("the file's offset"))?;
        let size = isize::try_from(bytes).map_err(|_| too_large("the size"))?.unsigned_abs();
        // SAFETY: the handle is registered until `drop`; the memory is the caller's word.
        let read =
            unsafe { self.driver.library().calls.read(self.raw, base, base_offset, size, file_offset) };
        read.map_err(|error| match error.is_transient() {
            // To be tried again, so not worth reading the log for.
            true => error,
            false => self.driver.explain(error),
        })
    }

    /// Reads into host memory, as `read_raw` does.
    pub fn read_host(&self, destination: &mut [u8], file_offset: u64) -> Result<u64, CufileError> {
        let (base, bytes) = (destination.as_mut_ptr() as u64, destination.len() as u64);
        // SAFETY: the slice lies in one live allocation, and is borrowed mutably for the call.
        unsafe { self.read_raw(base, 0, bytes, file_offset) }
    }
}

/// Puts the file's own device into the explanation of a missing udev entry.
fn name_device(mut error: CufileError, file: &File) -> CufileError {
    let Ok(device) = file.metadata().map(|metadata| metadata.dev()) else { return error };
    let (major, minor) = (libc::major(device), libc::minor(device));
    if major == 0 {
        error.cause = format!(
            "cuFile could not identify the file's block device: the file system has none of its own \
             (device {major}:{minor}: overlay, btrfs, network or memory)"
        )
        .into();
        error.remedy = "keep the files on ext4 or xfs on a drive, mounted into the container as it is".into();
    } else {
        error.cause = error.cause.replace("<major>:<minor>", &format!("{major}:{minor}")).into();
    }
    error
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: registered in `register`, and nobody else has the handle now. An error has nobody to go to.
        let _ = unsafe { self.driver.library().calls.handle_deregister(self.raw) };
    }
}

/// Memory that cuFile has pinned, so that drives can write to it.
#[derive(Debug)]
pub struct Registration {
    driver: Arc<Driver>,
    address: u64,
    bytes: u64,
}

impl Registration {
    /// Registers `[address, address + bytes)`: device memory that takes room in BAR1, or host memory.
    ///
    /// # Safety
    /// The range is one live allocation, or part of one, and stays so until this is dropped; none of it is
    /// registered already; this is dropped only when no read into it is under way.
    pub unsafe fn register(driver: &Arc<Driver>, address: u64, bytes: u64) -> Result<Self, CufileError> {
        let size = usize::try_from(bytes).map_err(|_| {
            CufileError::other(
                "cuFileBufRegister",
                What::Refused,
                "more than an address can hold",
                "please report it",
            )
        })?;
        // SAFETY: the caller's word.
        unsafe { driver.library().calls.buffer_register(address, size) }
            .map_err(|error| driver.explain(error))?;
        Ok(Self { driver: Arc::clone(driver), address, bytes })
    }

    /// The base that reads into it name.
    pub fn address(&self) -> u64 {
        self.address
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: registered in `register`; that no read is under way is its caller's word.
        let _ = unsafe { self.driver.library().calls.buffer_deregister(self.address) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_udev_entry_names_the_device() {
        let error = || CufileError::from_code("cuFileHandleRegister", NOT_IDENTIFIED.into(), None);
        let file = tempfile::tempfile().unwrap();
        let device = file.metadata().unwrap().dev();
        let (major, minor) = (libc::major(device), libc::minor(device));
        let line = name_device(error(), &file).to_string();
        let expected = match major {
            0 => format!("(device 0:{minor}: overlay"),
            _ => format!("/run/udev/data/b{major}:{minor} with E:ID_FS_USAGE=filesystem"),
        };
        assert!(line.contains(&expected), "{line}");
        // /proc never lies on a drive.
        let line = name_device(error(), &File::open("/proc/self/stat").unwrap()).to_string();
        assert!(line.contains("the file system has none of its own"), "{line}");
    }
}
