//! The binding to cuFile: against a stand-in with the same ABI and faults to order, against NVIDIA's header, and
//! against its real library. The last two are skipped, and say so, where no wheel is: `pip install --no-deps
//! --target target/cufile nvidia-cufile` puts one where they look, SLLM_GDS_CUFILE_WHEEL_DIR says another place.

#[path = "cufile/driver.rs"]
mod driver;
#[path = "cufile/header.rs"]
mod header;
#[path = "cufile/reads.rs"]
mod reads;
#[path = "cufile/real.rs"]
mod real;
#[path = "cufile/standin.rs"]
mod standin;
#[path = "cufile/wheel.rs"]
mod wheel;
