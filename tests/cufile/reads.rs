//! Files, memory, and reads with everything that can go wrong in them.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::sync::Arc;
use std::thread;

use sllm_gds::cufile::{Driver, Handle, Registration, What};
use tempfile::NamedTempFile;

use crate::standin::{BUFFER, CODE, CORRUPT, ERRNO, EXCESS, HANDLE, OPEN, READ, SEEDED, SHORT, Standin};

const BYTES: usize = 64 << 10;

/// A driver, and a file of bytes that differ from their neighbours.
fn rig() -> (Standin, Arc<Driver>, NamedTempFile, Vec<u8>) {
    let standin = Standin::new();
    let driver = standin.open();
    let bytes: Vec<u8> = (0..BYTES as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(&bytes).unwrap();
    (standin, driver, file, bytes)
}

fn register(driver: &Arc<Driver>, file: &NamedTempFile) -> Handle {
    Handle::register(driver, File::open(file.path()).unwrap()).unwrap()
}

/// Reads all of a range, however many calls it takes.
fn read_all(handle: &Handle, destination: &mut [u8], offset: u64) -> u32 {
    let (mut done, mut calls) = (0, 0);
    while done < destination.len() {
        calls += 1;
        match handle.read_host(&mut destination[done..], offset + done as u64) {
            Ok(0) => panic!("the file ended at {done}"),
            Ok(read) => done += read as usize,
            Err(error) if error.is_transient() => {}
            Err(error) => panic!("{error}"),
        }
    }
    calls
}

#[test]
fn reads_what_is_there_and_ends_with_the_file() {
    let (_standin, driver, file, bytes) = rig();
    let handle = register(&driver, &file);
    let mut read = vec![0; 1000];
    assert_eq!(handle.read_host(&mut read, 777).unwrap(), 1000);
    assert_eq!(read, bytes[777..1777]);
    assert_eq!(handle.read_host(&mut read, BYTES as u64 - 10).unwrap(), 10);
    assert_eq!(handle.read_host(&mut read, BYTES as u64).unwrap(), 0);
    assert_eq!(handle.read_host(&mut [], 0).unwrap(), 0);
    assert_eq!(handle.read_host(&mut read, u64::MAX).unwrap_err().what, What::Refused);
}

#[test]
fn the_handle_keeps_its_file_open() {
    let (standin, driver, file, bytes) = rig();
    let handle = register(&driver, &file);
    let path = file.into_temp_path();
    std::fs::remove_file(&path).unwrap();
    let mut read = vec![0; BYTES];
    read_all(&handle, &mut read, 0);
    assert_eq!(read, bytes);
    assert_eq!(handle.file().metadata().unwrap().len(), BYTES as u64);
    drop(handle);
    assert_eq!(standin.live(HANDLE), 0);
}

#[test]
fn errno_is_kept_and_named() {
    let (standin, driver, file, _) = rig();
    let handle = register(&driver, &file);
    let errnos = [
        (libc::EINTR, ErrorKind::Interrupted, true),
        (libc::EAGAIN, ErrorKind::WouldBlock, true),
        (libc::EIO, std::io::Error::from_raw_os_error(libc::EIO).kind(), false),
        (libc::EINVAL, ErrorKind::InvalidInput, false),
        (libc::ESTALE, ErrorKind::StaleNetworkFileHandle, false),
    ];
    for (call, (errno, kind, transient)) in (1..).zip(errnos) {
        standin.fault(ERRNO, call, errno.into());
        let error = handle.read_host(&mut [0; 64], 0).unwrap_err();
        assert_eq!(
            (error.errno(), error.io_kind(), error.is_transient()),
            (Some(errno), Some(kind), transient)
        );
        assert_eq!(error.code(), None);
        assert_eq!(error.log.is_empty(), transient, "{error}");
    }
    assert_eq!(handle.read_host(&mut [0; 64], 0).unwrap(), 64);
}

#[test]
fn codes_known_and_unknown_keep_their_number() {
    let (standin, driver, file, _) = rig();
    let handle = register(&driver, &file);
    for (call, (value, what)) in (1..).zip([
        (5044, What::Code(5044)),
        (5011, What::Code(5011)),
        (5999, What::Code(5999)),
        (22, What::Unknown(-22)),
        // -1 without errno means nothing.
        (1, What::Unknown(-1)),
    ]) {
        standin.fault(CODE, call, value);
        let error = handle.read_host(&mut [0; 64], 0).unwrap_err();
        assert_eq!(error.what, what);
        assert!(error.to_string().contains(&value.to_string()) && !error.is_transient(), "{error}");
    }
}

#[test]
fn more_than_asked_is_not_believed() {
    let (standin, driver, file, _) = rig();
    let handle = register(&driver, &file);
    standin.fault(EXCESS, 1, 1);
    let error = handle.read_host(&mut [0; 64], 0).unwrap_err();
    assert_eq!(error.what, What::Unknown(65));
    assert!(error.to_string().contains("do not trust"), "{error}");
}

#[test]
fn short_and_interrupted_reads_lose_nothing() {
    let (standin, driver, file, bytes) = rig();
    let handle = register(&driver, &file);
    standin.fault(SHORT, 1, 100);
    assert_eq!(handle.read_host(&mut [0; 4096], 0).unwrap(), 100);
    for seed in 0..8 {
        standin.fault(SEEDED, 2, seed);
    }
    let mut calls = 0;
    for at in (0..BYTES).step_by(4096) {
        let mut read = vec![0; 4096];
        calls += read_all(&handle, &mut read, at as u64);
        assert_eq!(read, bytes[at..at + 4096]);
    }
    assert!(calls > 16, "the seed hit nothing in {calls} calls");
    assert_eq!(standin.calls(READ), u64::from(calls) + 1);
}

#[test]
fn the_stand_in_corrupts_on_order() {
    let (standin, driver, file, bytes) = rig();
    let handle = register(&driver, &file);
    standin.fault(CORRUPT, 1, 5);
    let mut read = vec![0; 64];
    assert_eq!(handle.read_host(&mut read, 0).unwrap(), 64);
    let wrong: Vec<usize> = (0..64).filter(|&at| read[at] != bytes[at]).collect();
    assert_eq!(wrong, [5]);
}

#[test]
fn failed_registrations_say_why_and_leave_nothing() {
    let (standin, driver, file, _) = rig();
    standin.fault(HANDLE, 1, 5027);
    let error = Handle::register(&driver, File::open(file.path()).unwrap()).unwrap_err();
    assert_eq!((error.call, error.code()), ("cuFileHandleRegister", Some(5027)));
    assert!(error.to_string().contains("could not identify the file's block device"), "{error}");

    standin.fault(BUFFER, 1, 2 * 10_000 + 5036);
    let memory = vec![0u8; 4096];
    let at = memory.as_ptr() as u64;
    // SAFETY: the vector lives to the end of the test, as in the other registrations here.
    let error = unsafe { Registration::register(&driver, at, 4096) }.unwrap_err();
    assert_eq!((error.code(), error.cuda), (Some(5036), Some(2)));
    // SAFETY: as above.
    let registration = unsafe { Registration::register(&driver, at, 4096) }.unwrap();
    // SAFETY: as above; the stand-in keeps only the range.
    let twice = unsafe { Registration::register(&driver, at, 4096) }.unwrap_err();
    assert_eq!(twice.code(), Some(5023));
    assert_eq!((registration.address(), registration.bytes(), standin.live(BUFFER)), (at, 4096, 1));
    drop(registration);
    drop(driver);
    assert_eq!((standin.live(BUFFER), standin.live(HANDLE), standin.live(OPEN)), (0, 0, 0));
}

#[test]
fn threads_share_a_handle_and_a_registration() {
    let (standin, driver, file, bytes) = rig();
    let handle = register(&driver, &file);
    let mut memory = vec![0u8; BYTES];
    let base = memory.as_mut_ptr() as u64;
    // SAFETY: the vector is not touched until the registration is gone.
    let registration = unsafe { Registration::register(&driver, base, BYTES as u64) }.unwrap();
    standin.fault(SEEDED, 3, 42);
    const PART: u64 = BYTES as u64 / 8;
    thread::scope(|scope| {
        for part in 0..8 {
            let handle = &handle;
            scope.spawn(move || {
                let mut at = part * PART;
                while at < (part + 1) * PART {
                    // SAFETY: within the registered vector, and each thread has a part to itself.
                    match unsafe { handle.read_raw(base, at, (part + 1) * PART - at, at) } {
                        Ok(read) => at += read,
                        Err(error) => assert!(error.is_transient(), "{error}"),
                    }
                }
            });
        }
    });
    // SAFETY: the range ends past the registration, which the stand-in refuses before it writes.
    let error = unsafe { handle.read_raw(base, PART, BYTES as u64, 0) }.unwrap_err();
    assert_eq!(error.code(), Some(5017));
    drop(registration);
    assert_eq!(memory, bytes);
}
