"""safetensors' functions for torch, with its signatures: change the import, and the files are loaded by sllm-gds.

What is saved, what is in memory already, and models of torch's own go through safetensors, as before.
"""

from __future__ import annotations

from typing import Any

from safetensors.torch import load, save, save_file, save_model
from safetensors.torch import _remove_duplicate_names  # type: ignore[attr-defined]

from . import _load
from ._parts import PathLike

__all__ = ["load", "load_file", "load_model", "save", "save_file", "save_model"]


def load_file(filename: PathLike, device: Any = "cpu", *, backend: str = "mmap") -> dict[str, Any]:
    """As `safetensors.torch.load_file`: all tensors of a file, on the cpu where no device is given. `backend` changes nothing.

    Raises:
        As `sllm_gds.load_file`.
    """
    _load.framework(device, "pt")
    return _load.load_file(filename, device)


def load_model(model: Any, filename: PathLike, strict: bool = True, device: Any = "cpu", *, backend: str = "mmap") -> tuple[list[str], list[str]]:
    """As `safetensors.torch.load_model`: loads a file's tensors into a model of torch's.

    Returns:
        Names that the model has and the file lacks, and names that the file has and the model lacks.

    Raises:
        RuntimeError: with `strict`, names differ, or shapes do; as torch has it.
        As `sllm_gds.load_file`.
    """
    state = load_file(filename, device)
    shared = _remove_duplicate_names(model.state_dict(), preferred_names=state.keys())
    missing, unexpected = model.load_state_dict(state, strict=False)
    left = set(missing)
    for names in shared.values():
        for name in names:
            if name in left:
                left.discard(name)
            else:
                unexpected.append(name)
    if strict and (left or unexpected):
        raise RuntimeError(_differences(model, sorted(left), sorted(unexpected)))
    return sorted(left), unexpected


def _differences(model: Any, missing: list[str], unexpected: list[str]) -> str:
    """In torch's words."""
    words = f"Error(s) in loading state_dict for {type(model).__name__}:"
    for what, names in (("Missing", missing), ("Unexpected", unexpected)):
        if names:
            words += f"\n    {what} key(s) in state_dict: " + ", ".join(f'"{name}"' for name in names)
    return words
