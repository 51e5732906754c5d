"""`safe_open`, as safetensors has it."""

from __future__ import annotations

import os
from typing import Any

from . import _core
from ._errors import NotFoundError, refuse
from ._load import load_block
from ._loader import Loader, loader as loader_of
from ._memory import framework as framework_of
from ._parts import Part, PathLike, parts_of
from ._slice import indices


class safe_open:  # noqa: N801, the name that safetensors gave it
    """Opens a safetensors file, or a checkpoint's directory, and loads the tensors that are asked for.

        with safe_open("model.safetensors", framework="pt", device="cuda:0") as f:
            for name in f.keys():
                tensor = f.get_tensor(name)

    What is asked for together is loaded faster: `load_file` takes all, or those of some names.

    Args:
        filename: a safetensors file, or a directory of them or in ServerlessLLM's layout.
        framework: `"pt"` (torch) or `"np"` (numpy).
        device: as of `load_file`, but `"cpu"` where none is given.
        backend: safetensors' `"mmap"` or `"pread"`; it changes nothing.
        loader: takes this loader.

    Raises:
        As `load_file`.
    """

    def __init__(self, filename: PathLike, framework: str = "pt", device: Any = "cpu", *, backend: str = "mmap", loader: Loader | None = None):
        if backend not in ("mmap", "pread"):
            raise refuse(f"backend '{backend}': safetensors has mmap and pread, which are one here")
        if not os.path.lexists(filename):
            raise NotFoundError(f"No such file or directory: {os.fspath(filename)}")
        self._memory = framework_of(device, framework)
        self._loader = loader
        self._checkpoint: _core.Checkpoint | None = _core.Checkpoint(filename)
        self._parts = {part.name: part for part in parts_of(self._checkpoint)}
        self._name = os.fspath(filename)

    def __enter__(self) -> "safe_open":
        return self

    def __exit__(self, *_: object) -> None:
        self._checkpoint = None

    def _open(self) -> _core.Checkpoint:
        if self._checkpoint is None:
            raise refuse(f"{self._name} was closed: take what you need of it within `with`")
        return self._checkpoint

    def keys(self) -> list[str]:
        """The names of its tensors, sorted."""
        return sorted(self.offset_keys())

    def offset_keys(self) -> list[str]:
        """The names of its tensors, in the order in which they lie in the file."""
        self._open()
        return list(self._parts)

    def metadata(self) -> dict[str, str] | None:
        """What the header says beside tensors (`__metadata__`), None where that is nothing; of a directory all of its files'."""
        found = [metadata for metadata in self._open().metadata() if metadata is not None]
        return {name: text for metadata in found for name, text in metadata.items()} if found else None

    def get_tensor(self, name: str) -> Any:
        """One tensor, in memory of its own.

        Raises:
            NotFoundError: there is none of this name.
            As `load_file`.
        """
        return self._load([self._part(name)])[name]

    def get_tensors(self) -> dict[str, Any]:
        """All tensors, in the order in which they lie in the file."""
        return self._load(list(self._parts.values()))

    def get_slice(self, name: str) -> "Slice":
        """A tensor to be indexed, of which only what the indices name is read.

        Raises:
            NotFoundError: there is none of this name.
        """
        return Slice(self, self._part(name))

    def _part(self, name: str) -> Part:
        self._open()
        if name not in self._parts:
            raise NotFoundError(f"{self._name} has no tensor '{name}'")
        return self._parts[name]

    def _load(self, parts: list[Part]) -> dict[str, Any]:
        return load_block(self._open(), parts, self._memory, loader_of(self._loader, self._memory), False)


class Slice:
    """A tensor to be indexed with numbers, slices and `...`; made by `safe_open.get_slice`."""

    def __init__(self, file: safe_open, part: Part):
        self._file = file
        self._part = part

    def get_shape(self) -> list[int]:
        """Elements along each axis, as the file has them."""
        return list(self._part.shape)

    def get_dtype(self) -> str:
        """The type of its elements, by safetensors' name, as `"BF16"`."""
        return self._part.dtype

    def __getitem__(self, index: Any) -> Any:
        """What the indices name, in memory of its own. Read is what lies between the first and the last of them along the axis
        along which they name the least."""
        part = self._part
        if part.dtype in ("F4", "F6_E2M3", "F6_E3M2") and index != slice(None):
            raise refuse(f"tensor '{part.name}' is {part.dtype}, whose elements share bytes: take it whole, by [:] or get_tensor")
        wanted = indices(index, part.shape)
        spans = [(i, i + 1) if isinstance(i, int) else _span(i) for i in wanted]
        if part.strides is not None or not wanted:
            return self._file._load([part])[part.name][tuple(wanted)]
        # Of several the outermost: its rows are the longest.
        axis = min(range(len(spans)), key=lambda axis: (spans[axis][1] - spans[axis][0]) / max(part.shape[axis], 1))
        start, stop = spans[axis]
        read = self._file._load([part.slice(axis, start, stop)])[part.name]
        rest = list(wanted)
        here = wanted[axis]
        rest[axis] = 0 if isinstance(here, int) else slice(0, max(here.stop - start, 0), here.step)
        found = read[tuple(rest)]
        if found.shape == read.shape:
            return found
        # What was read beside it is not to be held.
        return self._file._memory.copy(found)


def _span(along: slice) -> tuple[int, int]:
    """From the first element to past the last."""
    return along.start, along.stop
