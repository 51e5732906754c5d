//! cuFile's parameters, which count from the next opening of the driver on.
//!
//! That opening uses them up, also one that fails: what the next one does not name is as the configuration has it again
//! (tried with 1.14, 1.15 and 1.20). Only what was set without an opening behind it stays, and nothing takes it back.

use std::collections::BTreeSet;

use crate::cufile::checked::Calls;
use crate::cufile::error::{CufileError, What};
use crate::cufile::options::DriverOptions;
use crate::cufile::raw;

/// The names of parameters that are set, and that no opening has used up.
pub(super) type Pending = BTreeSet<&'static str>;

#[derive(Clone, Copy)]
enum Value {
    Bytes(u64),
    Switch(bool),
}

/// Sets what the options name. Refuses where an earlier opening got stuck between: its settings would count for this one.
pub(super) fn set(calls: &Calls, pending: &mut Pending, options: &DriverOptions) -> Result<(), CufileError> {
    let given = given(options);
    if let Some(name) = pending.iter().find(|name| given.iter().all(|(known, ..)| known != *name)) {
        let cause =
            format!("an opening that failed before it began has set {name}, and cuFile takes nothing back");
        let remedy = "give that setting, too, or use a new process";
        return Err(CufileError::other("cuFileDriverOpen", What::Refused, cause, remedy));
    }
    for (name, parameter, value) in given {
        match value {
            // In KiB.
            Value::Bytes(bytes) => {
                calls.set_size(parameter, usize::try_from(bytes >> 10).unwrap_or(usize::MAX))?
            }
            Value::Switch(on) => calls.set_bool(parameter, on)?,
        }
        pending.insert(name);
    }
    Ok(())
}

/// What is not left to the configuration, by the names that the configuration has.
fn given(options: &DriverOptions) -> Vec<(&'static str, u32, Value)> {
    let bytes = |bytes: Option<u64>| bytes.map(Value::Bytes);
    let switch = |on: Option<bool>| on.map(Value::Switch);
    let all = [
        (
            "max_direct_io_size_kb",
            raw::CUFILE_PARAM_PROPERTIES_MAX_DIRECT_IO_SIZE_KB,
            bytes(options.max_direct_io_bytes),
        ),
        (
            "max_device_cache_size_kb",
            raw::CUFILE_PARAM_PROPERTIES_MAX_DEVICE_CACHE_SIZE_KB,
            bytes(options.max_device_cache_bytes),
        ),
        (
            "per_buffer_cache_size_kb",
            raw::CUFILE_PARAM_PROPERTIES_PER_BUFFER_CACHE_SIZE_KB,
            bytes(options.per_buffer_cache_bytes),
        ),
        (
            "max_device_pinned_mem_size_kb",
            raw::CUFILE_PARAM_PROPERTIES_MAX_DEVICE_PINNED_MEM_SIZE_KB,
            bytes(options.max_pinned_bytes),
        ),
        ("allow_compat_mode", raw::CUFILE_PARAM_PROPERTIES_ALLOW_COMPAT_MODE, switch(options.allow_compat)),
        ("use_pci_p2pdma", raw::CUFILE_PARAM_USE_PCIP2PDMA, switch(options.use_p2pdma)),
        ("force_odirect_mode", raw::CUFILE_PARAM_FORCE_ODIRECT_MODE, switch(options.force_direct)),
    ];
    all.into_iter().filter_map(|(name, parameter, value)| Some((name, parameter, value?))).collect()
}
