//! Errors of the driver that no later call in the process gets past.

/// The driver's codes that end a context: from then on every call there answers with the same, and only a new process gets
/// a new context. By number, since later drivers answer with codes that cudarc does not name.
const STICKY: [u32; 15] = [
    214, // ECC_UNCORRECTABLE
    220, // NVLINK_UNCORRECTABLE
    226, // CONTAINED
    700, // ILLEGAL_ADDRESS
    702, // LAUNCH_TIMEOUT
    710, // ASSERT
    714, // HARDWARE_STACK_ERROR
    715, // ILLEGAL_INSTRUCTION
    716, // MISALIGNED_ADDRESS
    717, // INVALID_ADDRESS_SPACE
    718, // INVALID_PC
    719, // LAUNCH_FAILED
    721, // TENSOR_MEMORY_LEAK
    810, // MPS_CLIENT_TERMINATED
    911, // EXTERNAL_DEVICE
];

/// Whether the driver's answer `code` means that the context is lost, with all that is in it.
pub fn is_sticky(code: u32) -> bool {
    STICKY.contains(&code)
}

#[cfg(test)]
mod tests {
    use cudarc::driver::sys::CUresult;

    use super::*;

    #[test]
    fn what_ends_a_context_is_told_from_what_ends_a_call() {
        use CUresult as C;
        for sticky in [
            C::CUDA_ERROR_ECC_UNCORRECTABLE,
            C::CUDA_ERROR_NVLINK_UNCORRECTABLE,
            C::CUDA_ERROR_ILLEGAL_ADDRESS,
            C::CUDA_ERROR_LAUNCH_TIMEOUT,
            C::CUDA_ERROR_ASSERT,
            C::CUDA_ERROR_HARDWARE_STACK_ERROR,
            C::CUDA_ERROR_ILLEGAL_INSTRUCTION,
            C::CUDA_ERROR_MISALIGNED_ADDRESS,
            C::CUDA_ERROR_INVALID_ADDRESS_SPACE,
            C::CUDA_ERROR_INVALID_PC,
            C::CUDA_ERROR_LAUNCH_FAILED,
            C::CUDA_ERROR_MPS_CLIENT_TERMINATED,
            C::CUDA_ERROR_EXTERNAL_DEVICE,
        ] {
            assert!(is_sticky(sticky as u32), "{sticky:?}");
        }
        for passing in [
            C::CUDA_SUCCESS,
            C::CUDA_ERROR_INVALID_VALUE,
            C::CUDA_ERROR_OUT_OF_MEMORY,
            C::CUDA_ERROR_INVALID_CONTEXT,
            C::CUDA_ERROR_NO_BINARY_FOR_GPU,
            C::CUDA_ERROR_NOT_READY,
            C::CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES,
            C::CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED,
            C::CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED,
            C::CUDA_ERROR_SYSTEM_NOT_READY,
            C::CUDA_ERROR_UNKNOWN,
        ] {
            assert!(!is_sticky(passing as u32), "{passing:?}");
        }
    }
}
