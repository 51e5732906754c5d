"""safetensors' functions for numpy, with its signatures: change the import, and the files are loaded by sllm-gds.

What is saved, and what is in memory already, goes through safetensors, as before.
"""

from __future__ import annotations

from typing import Any

from safetensors.numpy import load, save, save_file

from ._open import safe_open
from ._parts import PathLike

__all__ = ["load", "load_file", "save", "save_file"]


def load_file(filename: PathLike, *, backend: str = "mmap") -> dict[str, Any]:
    """As `safetensors.numpy.load_file`: all arrays of a file. `backend` changes nothing.

    Raises:
        As `sllm_gds.load_file`.
    """
    with safe_open(filename, framework="np") as file:
        return file.get_tensors()
