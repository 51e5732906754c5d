//! Whose fault it is that a load by cuFile does not come to its first byte.

use crate::cufile::CufileError;

/// Why a load by cuFile does not come to its first byte.
#[derive(Debug, thiserror::Error)]
pub enum NoStart {
    /// For cuFile's own reasons: without cuFile the load may well work.
    #[error("{0:#}")]
    Refused(anyhow::Error),
    /// For any other reason, such as memory that is short: with another engine it would be the same.
    #[error("{0:#}")]
    Failed(anyhow::Error),
}

impl NoStart {
    /// A refusal where it was cuFile that failed.
    pub fn of(error: anyhow::Error) -> NoStart {
        match error.chain().any(|cause| cause.is::<CufileError>()) {
            true => NoStart::Refused(error),
            false => NoStart::Failed(error),
        }
    }
}

impl From<anyhow::Error> for NoStart {
    /// Whoever means a refusal says so.
    fn from(error: anyhow::Error) -> NoStart {
        NoStart::Failed(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cufile::What;
    use crate::gpu::GpuError;
    use crate::os::cancel::Interrupted;

    fn of_cufile() -> anyhow::Error {
        let (call, what) = ("cuFileBufRegister", What::Code(5036));
        let (cause, remedy) = ("BAR1 may be full".into(), "close other programs".into());
        CufileError { call, what, cuda: None, cause, remedy, log: Vec::new() }.into()
    }

    #[test]
    fn only_what_cufile_refused_is_a_refusal() {
        let refused = NoStart::of(of_cufile().context("cuFile refused memory of GPU 0"));
        assert!(matches!(&refused, NoStart::Refused(_)), "{refused:?}");
        let text = refused.to_string();
        assert!(text.starts_with("cuFile refused memory of GPU 0: cuFileBufRegister: "), "{text}");
        let out_of_memory = 2;
        let others: [anyhow::Error; 3] =
            [Interrupted.into(), GpuError::made_up(out_of_memory).into(), std::io::Error::other("no").into()];
        for other in others {
            let failed = NoStart::of(other.context("load"));
            assert!(matches!(failed, NoStart::Failed(_)), "{failed:?}");
        }
        // What comes by `?` is no refusal, whoever failed.
        assert!(matches!(NoStart::from(of_cufile()), NoStart::Failed(_)));
    }
}
