//! Texts and lists that come in by pointer.

use std::ffi::{CStr, CString, c_char};
use std::mem::MaybeUninit;

use crate::capi::status::{Failure, invalid};

/// What a pointer leads to.
///
/// # Safety
/// It is null, or leads to a `T` that stays as long as `'a` and is not written to meanwhile.
pub(super) unsafe fn given<'a, T>(pointer: *const T, what: &str) -> Result<&'a T, Failure> {
    // SAFETY: our own contract.
    match unsafe { pointer.as_ref() } {
        Some(value) => Ok(value),
        None => invalid(format!("{what} is a null pointer")),
    }
}

/// A text, `None` for a null pointer.
///
/// # Safety
/// It is null, or leads to bytes that end with a zero, stay as long as `'a` and are not written to meanwhile.
pub(super) unsafe fn text<'a>(pointer: *const c_char, what: &str) -> Result<Option<&'a str>, Failure> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: our own contract.
    match unsafe { CStr::from_ptr(pointer) }.to_str() {
        Ok(text) => Ok(Some(text)),
        Err(_) => invalid(format!("{what} is not UTF-8")),
    }
}

/// A list.
///
/// # Safety
/// `pointer` leads to `count` items that stay as long as `'a` and are not written to meanwhile, or `count` is 0.
pub(super) unsafe fn list<'a, T>(pointer: *const T, count: usize, what: &str) -> Result<&'a [T], Failure> {
    match (count, pointer.is_null()) {
        (0, _) => Ok(&[]),
        (_, true) => invalid(format!("{what} is a null pointer, and {count} were promised")),
        // SAFETY: our own contract.
        _ => Ok(unsafe { std::slice::from_raw_parts(pointer, count) }),
    }
}

/// A list of texts.
///
/// # Safety
/// As of [`list`] and, for each of them, [`text`].
pub(super) unsafe fn texts(
    pointer: *const *const c_char,
    count: usize,
    what: &str,
) -> Result<Vec<String>, Failure> {
    // SAFETY: our own contract.
    let pointers = unsafe { list(pointer, count, what) }?;
    let one = |pointer: &*const c_char| {
        // SAFETY: our own contract.
        match unsafe { text(*pointer, what) }? {
            Some(text) => Ok(text.to_string()),
            None => invalid(format!("one of {what} is a null pointer")),
        }
    };
    pointers.iter().map(one).collect()
}

/// A struct whose first field says how many bytes of it the caller knows: an older header's is shorter, and what it lacks is
/// zero; a newer one's is longer, and what we do not know must be zero.
///
/// # Safety
/// `pointer` is null, or leads to as many readable bytes as its first field, a `usize`, says. `T` is made of integers and raw
/// pointers, so that any bytes are one.
pub(super) unsafe fn sized<T>(pointer: *const T, what: &str) -> Result<Option<T>, Failure> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: the first field is there, by our own contract.
    let bytes = unsafe { pointer.cast::<usize>().read() };
    if !(size_of::<usize>()..=1 << 16).contains(&bytes) {
        return invalid(format!(
            "the field struct_bytes of {what} says {bytes}: set it to sizeof of its type"
        ));
    }
    let known = bytes.min(size_of::<T>());
    // SAFETY: as many bytes are there, by our own contract.
    let unknown = unsafe { std::slice::from_raw_parts(pointer.cast::<u8>().add(known), bytes - known) };
    if unknown.iter().any(|byte| *byte != 0) {
        return invalid(format!("{what} asks for something that this version of the library does not know"));
    }
    let mut value = MaybeUninit::<T>::zeroed();
    // SAFETY: `known` bytes are readable there and writable here; zeros and whatever else are a `T`, by our own contract.
    unsafe {
        std::ptr::copy_nonoverlapping(pointer.cast::<u8>(), value.as_mut_ptr().cast::<u8>(), known);
        Ok(Some(value.assume_init()))
    }
}

/// A text to be given out. One with a zero byte in it, which only a hostile checkpoint has, ends there.
pub(super) fn out(text: &str) -> CString {
    CString::new(text.split('\0').next().unwrap_or_default()).unwrap_or_default()
}

/// Gives something out through a pointer, which the caller then owns.
///
/// # Safety
/// `to` is null, or may be written to.
pub(super) unsafe fn give<T>(to: *mut *mut T, value: T) -> Result<(), Failure> {
    if to.is_null() {
        return invalid("the pointer for the result is null");
    }
    // SAFETY: our own contract.
    unsafe { to.write(Box::into_raw(Box::new(value))) };
    Ok(())
}

/// Takes back what [`give`] gave out, and drops it.
///
/// # Safety
/// `pointer` is null, or came from [`give`] and was not taken back before.
pub(super) unsafe fn take_back<T>(pointer: *mut T) {
    if !pointer.is_null() {
        // SAFETY: our own contract.
        super::status::quietly((), || drop(unsafe { Box::from_raw(pointer) }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(C)]
    #[derive(Debug, PartialEq)]
    struct Sized2 {
        struct_bytes: usize,
        a: u64,
        b: u64,
    }

    #[test]
    fn structs_of_older_and_newer_headers_are_understood_or_refused() {
        let read = |words: &[u64]| {
            // SAFETY: the first word says how many bytes there are, and they are there.
            unsafe { sized(words.as_ptr().cast::<Sized2>(), "the thing") }
        };
        assert_eq!(read(&[16, 7]).ok().flatten(), Some(Sized2 { struct_bytes: 16, a: 7, b: 0 }));
        assert_eq!(read(&[24, 7, 8]).ok().flatten(), Some(Sized2 { struct_bytes: 24, a: 7, b: 8 }));
        assert_eq!(read(&[32, 7, 8, 0]).ok().flatten().map(|s| s.b), Some(8));
        assert!(matches!(read(&[32, 7, 8, 9]), Err(Failure::Argument(why)) if why.contains("does not know")));
        assert!(matches!(read(&[0, 7, 8]), Err(Failure::Argument(why)) if why.contains("struct_bytes")));
    }
}
