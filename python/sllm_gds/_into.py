"""Loads into tensors that there are."""

from __future__ import annotations

import itertools
import math
from typing import Any, Mapping

from . import _core
from ._errors import NotFoundError, RefusedError, refuse
from ._fill import Links, Loads
from ._loader import Loader, loader as loader_of
from ._memory import Torch, packed
from ._parts import Axis, Part, PathLike, find, parts_of, share


def load_into(
    name: PathLike,
    tensors: Mapping[str, Any],
    verify: bool = False,
    *,
    storage_path: PathLike | None = None,
    rank: int = 0,
    world_size: int = 1,
    axis: Axis = None,
    links: Links = "auto",
    loader: Loader | None = None,
) -> None:
    """Loads straight into torch tensors that there are, as a model's parameters, with no copy between.

    Names, types, shapes and places are checked before a byte moves. A tensor may be contiguous, or rows of a larger one
    (`qkv[:4096]`, `w[:, :1024]`). Before the first byte the load waits for all that the current stream of each device has
    queued; when it returns, all copies have ended. Gradients are none of its business: it writes as under `torch.no_grad()`.

    Args:
        name: as of `load`.
        tensors: which tensor of the checkpoint goes where. They may lie on several devices.
        verify, storage_path, links, loader: as of `load`.
        rank, world_size, axis: as of `load`: then the tensors have the shapes of the rank's shares.

    Raises:
        RefusedError: a tensor whose type or shape is not the checkpoint's, that is not laid out as rows, or that shares memory
            with another. Nothing was written.
        NotFoundError: the checkpoint has no tensor of a name. Nothing was written.
        As `load`. The error's `half_written` names the tensors whose bytes may be half old, half new, and its words do.
    """
    checkpoint = _core.Checkpoint(find(name, storage_path))
    known = {part.name: part for part in parts_of(checkpoint)}
    missing = [wanted for wanted in tensors if wanted not in known]
    if missing:
        raise NotFoundError(f"{checkpoint.dir} has no tensor '{missing[0]}'" + (f" and {len(missing) - 1} more that were named" if missing[1:] else ""))
    parts = {part.name: part for part in share([known[wanted] for wanted in tensors], rank, world_size, axis)}
    by_device: dict[Any, list[tuple[Part, Any]]] = {}
    for wanted, tensor in tensors.items():
        _check(parts[wanted], tensor)
        by_device.setdefault(tensor.device, []).append((parts[wanted], tensor.detach()))
    plans = [(Torch(device), *_plan(some)) for device, some in by_device.items()]
    for memory, pieces, given, places in plans:
        keeper = loader_of(loader, memory)
        loads = Loads()
        try:
            loads.begin(checkpoint, pieces, given, places, keeper, verify, links, memory.mark())
            loads.wait()
        except BaseException as error:
            _tell(error, pieces)
            raise


def _check(part: Part, tensor: Any) -> None:
    memory = Torch("cpu")
    if not isinstance(tensor, memory.torch.Tensor):
        raise refuse(f"'{part.name}' goes to a {type(tensor).__name__}: torch tensors are taken")
    if tensor.device.type not in ("cpu", "cuda") or tensor.layout is not memory.torch.strided:
        raise refuse(f"'{part.name}' goes to a tensor on {tensor.device} of layout {tensor.layout}: strided ones on cpu and cuda are taken")
    kind = memory.dtype(part.dtype, part.name)
    if tensor.dtype != kind:
        raise refuse(f"'{part.name}' is {kind} in the checkpoint, and the tensor that it is to go to {tensor.dtype}: nothing was written")
    shape, _ = packed(part.dtype, part.shape, None, part.name)
    if tuple(tensor.shape) != shape:
        raise refuse(f"'{part.name}' has the shape {list(shape)}, and the tensor that it is to go to {list(tensor.shape)}: nothing was written")
    if part.strides is not None:
        raise refuse(f"'{part.name}' does not lie contiguously in the checkpoint: load it by load, and copy it")
    if any(stride == 0 and extent > 1 for stride, extent in zip(tensor.stride(), tensor.shape)):
        raise refuse(f"'{part.name}' goes to an expanded tensor, whose elements share memory: nothing was written")


def _plan(some: list[tuple[Part, Any]]) -> tuple[list[Part], list[tuple[int | None, int, int]], list[tuple[int, int]]]:
    """Parts as they are loaded, the memory of the tensors, and where in it each part goes."""
    pieces: list[Part] = []
    given: list[tuple[int | None, int, int]] = []
    places: list[tuple[int, int]] = []
    numbers: dict[int, int] = {}
    for part, tensor in some:
        if not part.nbytes:
            continue
        storage = tensor.untyped_storage()
        number = numbers.setdefault(storage.data_ptr(), len(given))
        if number == len(given):
            given.append((tensor.device.index if tensor.device.type == "cuda" else None, storage.data_ptr(), storage.nbytes()))
        first = tensor.data_ptr() - storage.data_ptr()
        if tensor.is_contiguous():
            pieces.append(part)
            places.append((number, first))
            continue
        for piece, at in _rows(part, tensor):
            pieces.append(piece)
            places.append((number, first + at))
    return pieces, given, places


def _rows(part: Part, tensor: Any) -> list[tuple[Part, int]]:
    """A tensor's contiguous rows, each as a part of its own, and where each goes, from the tensor's first byte."""
    inner, axis = 1, tensor.dim()
    while axis and (tensor.shape[axis - 1] == 1 or tensor.stride(axis - 1) == inner):
        axis -= 1
        inner *= tensor.shape[axis]
    span = part.range()
    if axis == tensor.dim() or inner == 1 or span is None:
        raise refuse(f"'{part.name}' goes to a tensor of strides {list(tensor.stride())}: its rows do not lie contiguously; nothing was written")
    row_bytes = inner * tensor.element_size()
    outer = itertools.product(*(range(extent) for extent in tensor.shape[:axis]))
    found = []
    for number, index in enumerate(outer):
        at = sum(i * stride for i, stride in zip(index, tensor.stride())) * tensor.element_size()
        row = Part(f"{part.name} row {number}", "U8", [row_bytes], None, span[0] + number * row_bytes, row_bytes, is_shared=part.is_shared)
        found.append((row, at))
    assert math.prod(tensor.shape[:axis]) == len(found)
    return found


def _tell(error: BaseException, pieces: list[Part]) -> None:
    """Names what may be half-written. What is refused was refused before the first byte."""
    if isinstance(error, RefusedError):
        return
    names = list(dict.fromkeys(piece.name.split(" row ")[0] for piece in pieces))
    error.half_written = names  # type: ignore[attr-defined]
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if names[3:] else "")
    words = f"these tensors may be half-written: {shown} (the error's half_written names them all)"
    if len(error.args) == 1 and isinstance(error.args[0], str):
        error.args = (f"{error.args[0]}; {words}",)
