"""What is loaded of a checkpoint: its tensors whole, or a slice along one axis of each."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, Iterable, Sequence, Union

from . import _core
from ._errors import NotFoundError, refuse
from ._memory import BITS

PathLike = Union[str, "os.PathLike[str]"]
#: The axis along which ranks share a tensor: one for all, or by name and shape; None is every rank's, whole.
Axis = Union[int, None, Callable[[str, Sequence[int]], Union[int, None]]]


@dataclass
class Part:
    """A tensor as it is delivered. `axis` is None of one that is whole."""

    name: str
    dtype: str
    shape: Sequence[int]
    #: In elements; None where they are contiguous.
    strides: Sequence[int] | None
    #: From the first byte of the checkpoint's files laid end to end, of the whole tensor.
    offset: int
    nbytes: int
    axis: int | None = None
    start: int = 0
    stop: int = 0
    #: Of a slice: the extent of the whole tensor along the axis.
    extent: int = 0
    #: Whether other ranks want the same bytes of the files.
    is_shared: bool = False

    def range(self) -> tuple[int, int] | None:
        """Where its bytes lie as one run: from which offset, and how many. None where they are several runs."""
        if self.axis is None:
            return self.offset, self.nbytes
        if math.prod(self.shape[: self.axis]) != 1:
            return None
        return self.offset + self.nbytes // max(self.stop - self.start, 1) * self.start, self.nbytes

    def slice(self, axis: int, start: int, stop: int) -> "Part":
        """Its elements from `start` to before `stop` along an axis."""
        extent = self.shape[axis]
        shape = [*self.shape]
        shape[axis] = stop - start
        bits = math.prod(shape) * BITS[self.dtype]
        row_bits = math.prod(self.shape[axis + 1 :]) * BITS[self.dtype]
        if self.strides is not None:
            raise refuse(f"slice of tensor '{self.name}': its elements do not lie side by side; load it whole")
        if any(n * row_bits % 8 for n in (start, stop, extent)):
            raise refuse(f"slice of tensor '{self.name}': elements {start}..{stop} of axis {axis} do not begin and end at whole bytes")
        if (start, stop) == (0, extent):
            return self
        return Part(self.name, self.dtype, shape, None, self.offset, bits // 8, axis, start, stop, extent)


def parts_of(checkpoint: _core.Checkpoint) -> list[Part]:
    """All of its tensors, in the order in which they lie in its files."""
    return [Part(*row) for row in checkpoint.tensors()]


def select(checkpoint: _core.Checkpoint, names: Iterable[str] | None, prefix: str | None) -> list[Part]:
    """Those of these names, or whose names begin so; all where neither is given."""
    parts = parts_of(checkpoint)
    if names is not None:
        if isinstance(names, str):
            raise refuse(f"names={names!r} is one string: give a list of names, or prefix={names!r}")
        wanted = set(names)
        parts = [part for part in parts if part.name in wanted]
        missing = sorted(wanted - {part.name for part in parts})
        if missing:
            more = f" and {len(missing) - 1} more that were named" if missing[1:] else ""
            raise NotFoundError(f"{checkpoint.dir} has no tensor '{missing[0]}'{more}")
    if prefix is not None:
        parts = [part for part in parts if part.name.startswith(prefix)]
        if not parts:
            raise NotFoundError(f"{checkpoint.dir} has no tensor whose name begins with '{prefix}'")
    return parts


def share(parts: list[Part], rank: int, world_size: int, axis: Axis) -> list[Part]:
    """What one rank of `world_size` holds of them: an equal share along the axis of each that has one."""
    if not 0 <= rank < world_size:
        raise refuse(f"there is no rank {rank} of {world_size}: they count from 0")
    if world_size == 1:
        return parts
    shared = []
    for part in parts:
        along = axis(part.name, tuple(part.shape)) if callable(axis) else axis
        if along is None:
            shared.append(replace(part, is_shared=True))
            continue
        rank_of = len(part.shape)
        index = along + rank_of if along < 0 else along
        extent = part.shape[index] if 0 <= index < rank_of else 1
        if extent % world_size:
            raise refuse(f"tensor '{part.name}' of shape {list(part.shape)} can't be shared out to {world_size} ranks along axis {along}")
        if not 0 <= index < rank_of:
            raise refuse(f"tensor '{part.name}' of shape {list(part.shape)} can't be shared out to {world_size} ranks along axis {along}")
        length = extent // world_size
        own = part.slice(index, rank * length, (rank + 1) * length)
        # Rows of several ranks lie between one another.
        shared.append(replace(own, is_shared=own.range() is None))
    return shared


def find(name: PathLike, storage_path: PathLike | None) -> Path:
    """The path that a name stands for: itself where it is there, else below the storage path, else in the hub's cache."""
    path = Path(name)
    if path.exists() or path.is_symlink() or path.is_absolute():
        return path
    below = Path(storage_path if storage_path is not None else "models") / path
    if below.exists():
        return below
    cached = _in_hub_cache(str(name))
    if cached is not None:
        return cached
    raise NotFoundError(f"there is no checkpoint '{name}': neither {path.absolute()} nor {below.absolute()} is there, and the hub's cache has none of this name")


def _in_hub_cache(name: str) -> Path | None:
    if name.count("/") > 1 or name.startswith("."):
        return None
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
    except ImportError:
        return None
    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None
