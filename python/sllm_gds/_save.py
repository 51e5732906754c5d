"""Saves."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any, Mapping

from . import _core
from ._errors import refuse
from ._memory import ML_DTYPES, NUMPY, TORCH
from ._parts import PathLike


def save(
    model: Any,
    directory: PathLike,
    partitions: int = 1,
    *,
    max_partition_bytes: int = 10_000_000_000,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Saves a model or a state dict as a checkpoint in ServerlessLLM's layout, with a digest of every tensor, whole or not at
    all. Tensors on GPUs are read from there, bit by bit. Tied tensors are saved once.

    Args:
        model: something with `state_dict()`, or a mapping of names to torch tensors or numpy arrays. Of a model of
            transformers the configuration goes along, so that `sllm_gds.transformers.from_pretrained` takes the directory.
        directory: where to; it must not be there yet.
        partitions: groups of nearly equal bytes, cut at module boundaries: one for each GPU that it is to be loaded to.
        max_partition_bytes: no file grows past this, but for a single larger tensor.
        overwrite: replaces a checkpoint that is there. Nothing else is ever replaced.

    Returns:
        What was written: `bytes`, `files`, `elapsed_s`.

    Raises:
        RefusedError: something else stands there, or a tensor of a type that the layout does not have.
        ReadError, OutOfMemoryError, CudaError: as their names say; nothing is left of the save then.
    """
    state: Mapping[str, Any] = model.state_dict() if hasattr(model, "state_dict") else model
    # What tensors are made of here lives until the save has ended.
    rows, kept = [], []
    for name, tensor in state.items():
        row, holder = _row(name, tensor)
        rows.append(row)
        kept.append(holder)
    written, files, elapsed_s = _core.save(
        os.fspath(directory),
        rows,
        partitions=partitions,
        max_partition_bytes=max_partition_bytes,
        beside=_beside(model),
        made_from=f"a {type(model).__name__} in memory",
        overwrite=overwrite,
    )
    del kept
    return {"bytes": written, "files": files, "elapsed_s": elapsed_s}


def _row(name: str, tensor: Any) -> tuple[tuple[Any, ...], Any]:
    if hasattr(tensor, "untyped_storage"):
        import torch

        if tensor.device.type not in ("cpu", "cuda"):
            raise refuse(f"tensor '{name}' is on {tensor.device}: what lies on cpu and cuda is saved")
        tensor = tensor.detach().contiguous()
        if tensor.device.type == "cuda":
            torch.cuda.synchronize(tensor.device)
        kind = _name_of(str(tensor.dtype).removeprefix("torch."), TORCH, name)
        shape = list(tensor.shape)
        if kind == "F4":
            shape[-1] *= 2
        gpu = tensor.device.index if tensor.device.type == "cuda" else None
        return (name, kind, shape, gpu, tensor.data_ptr(), tensor.nbytes), tensor
    if hasattr(tensor, "__array_interface__"):
        import numpy

        array = numpy.asarray(tensor, order="C")
        if not array.dtype.isnative:
            array = array.astype(array.dtype.newbyteorder("="))
        kind = _name_of(array.dtype.name, {**NUMPY, **ML_DTYPES}, name)
        return (name, kind, list(array.shape), None, array.ctypes.data, array.nbytes), array
    raise refuse(f"'{name}' is a {type(tensor).__name__}: torch tensors and numpy arrays are saved")


def _name_of(kind: str, kinds: Mapping[str, str], tensor: str) -> str:
    for name, called in kinds.items():
        if called == kind:
            return name
    raise refuse(f"tensor '{tensor}' is {kind}, for which the layout has no type")


def _beside(model: Any) -> list[tuple[str, str]]:
    """The configuration of a model of transformers, as its files."""
    found: list[tuple[str, str]] = []
    with tempfile.TemporaryDirectory() as folder:
        for part in ("config", "generation_config"):
            written = getattr(model, part, None)
            if hasattr(written, "save_pretrained"):
                written.save_pretrained(folder)
        for path in sorted(Path(folder).iterdir()):
            found.append((path.name, path.read_text(encoding="utf-8")))
    return found
