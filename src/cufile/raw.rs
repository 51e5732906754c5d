//! bindgen's output from `ffi/cufile.h`: types, constants, and `CuFile`, a table of optional functions. Only
//! `checked` calls them, and never through the generated methods, which panic where a function is missing.

#![allow(dead_code, non_camel_case_types, non_snake_case, clippy::all, clippy::undocumented_unsafe_blocks)]

include!(concat!(env!("OUT_DIR"), "/cufile.rs"));
