"""sllm-gds: loads LLM checkpoints into GPU or host memory at the speed of the wires, and proves that every byte arrived.

    import sllm_gds

    tensors = sllm_gds.load_file("model.safetensors", device="cuda:0")

Safetensors files and directories of them, and ServerlessLLM's layout. torch, numpy and safetensors are used where they are
installed; none is needed to install this.
"""

from ._client import Client
from ._core import __version__
from ._errors import SllmGdsError as SafetensorError
from ._errors import (
    BusyError,
    CancelledError,
    CheckpointError,
    CorruptError,
    CudaError,
    DeniedError,
    NotFoundError,
    OutOfMemoryError,
    ReadError,
    RefusedError,
    ServerError,
    SllmGdsError,
    UnreachableError,
)
from ._into import load_into
from ._load import load, load_dlpack, load_file
from ._loader import Loader
from ._open import safe_open
from ._save import save
from ._stream import stream

__all__ = [
    "BusyError",
    "CancelledError",
    "CheckpointError",
    "Client",
    "CorruptError",
    "CudaError",
    "DeniedError",
    "Loader",
    "NotFoundError",
    "OutOfMemoryError",
    "ReadError",
    "RefusedError",
    "SafetensorError",
    "ServerError",
    "SllmGdsError",
    "UnreachableError",
    "__version__",
    "load",
    "load_dlpack",
    "load_file",
    "load_into",
    "safe_open",
    "save",
    "stream",
]
