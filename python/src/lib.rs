//! The extension under `sllm_gds`: checkpoints, loads and saves. What Python is for (frameworks, their memory, their types)
//! is done there, in `sllm_gds/`.

mod checkpoint;
mod client;
mod dlpack;
mod error;
mod interrupt;
mod loader;
mod save;
mod stream;
mod wanted;

use pyo3::prelude::*;

/// Sets up `sllm_gds._core`.
#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<checkpoint::Checkpoint>()?;
    module.add_class::<loader::Loader>()?;
    module.add_class::<loader::Load>()?;
    module.add_class::<stream::Stream>()?;
    module.add_class::<client::Client>()?;
    module.add_class::<dlpack::OwnTensor>()?;
    module.add_function(wrap_pyfunction!(save::save, module)?)
}
