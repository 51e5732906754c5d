"""Tensors one after the other, while the next ones come."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Iterable, Iterator

from . import _core
from ._errors import refuse
from ._load import fill
from ._loader import Loader, loader as loader_of
from ._memory import align, framework
from ._parts import Axis, Part, PathLike, find, select, share

#: Loads under way at one time: while one ends the next one copies.
LOADS = 2
#: Loads that a window is cut into.
CUTS = 4


def stream(
    name: PathLike,
    device: Any = "cuda:0",
    window_bytes: int = 512 << 20,
    names: Iterable[str] | None = None,
    prefix: str | None = None,
    *,
    storage_path: PathLike | None = None,
    rank: int = 0,
    world_size: int = 1,
    axis: Axis = None,
    loader: Loader | None = None,
) -> Iterator[tuple[str, Any]]:
    """Yields `(name, tensor)` in the order in which tensors lie in the files, while the next ones come: what an engine's
    `load_weights` takes.

    Each tensor has memory of its own, which is free again when the caller drops it: what is kept costs its own bytes and no
    more. Tensors that are on their way or wait to be yielded never take more than the window; one that is larger than that
    comes alone. A tensor may be used on the stream that is current when it is yielded; let it be the same for all.

    Args:
        name: a path, the name of a checkpoint below `storage_path`, or a model's id that lies in the hub's cache.
        device: as of `load_file`.
        window_bytes: device memory for tensors that the caller does not have yet, with the one that it had last.
        names, prefix: as of `load_file`.
        rank, world_size, axis, storage_path: as of `load`. Each rank reads its own rows alone; what several ranks want is read
            through the page cache, so that it comes from storage once. With `axis=None` each tensor comes whole.
        loader: takes this loader; else one whose loads are small, since several are under way at a time.

    Raises:
        As `load_file`, at the first tensor or under way. RefusedError: a window of no bytes.
    """
    if window_bytes < 1:
        raise refuse(f"a window of {window_bytes} bytes has room for nothing; 256 MiB to 1 GiB are usual")
    memory = framework(device)
    keeper = loader_of(loader, memory).streaming() if loader is None else loader_of(loader, memory)
    checkpoint = _core.Checkpoint(find(name, storage_path))
    parts = share(select(checkpoint, names, prefix), rank, world_size, axis)
    for part in parts:
        memory.dtype(part.dtype, part.name)
    return _stream(checkpoint, parts, memory, keeper, window_bytes)


def _groups(parts: list[Part], window_bytes: int) -> Iterator[tuple[list[Part], int]]:
    """Neighbours that are loaded together, and their bytes. One that is larger than a cut of the window is alone."""
    most = max(window_bytes // CUTS, 1)
    group: list[Part] = []
    size = 0
    for part in parts:
        nbytes = align(part.nbytes)
        if group and size + nbytes > most:
            yield group, size
            group, size = [], 0
        group.append(part)
        size += nbytes
    if group:
        yield group, size


def _stream(checkpoint: _core.Checkpoint, parts: list[Part], memory: Any, keeper: Loader, window_bytes: int) -> Iterator[tuple[str, Any]]:
    cancel = _core.Cancel()
    groups = deque(_groups(parts, window_bytes))
    coming: deque[tuple[list[Part], list[Any], Future[None]]] = deque()
    # Of tensors that were not yielded yet, and of the last that was: the caller still has it when it asks for the next.
    ahead_bytes = held_bytes = 0
    with ThreadPoolExecutor(LOADS, thread_name_prefix="sllm-gds-stream") as pool:
        try:
            while groups or coming:
                while groups and (not ahead_bytes or ahead_bytes + held_bytes + groups[0][1] <= window_bytes):
                    group, size = groups.popleft()
                    blocks = [memory.empty(part.nbytes) for part in group]
                    ahead_bytes += size
                    coming.append((group, blocks, pool.submit(_load_group, checkpoint, group, blocks, memory, keeper, cancel, memory.mark())))
                group, blocks, loaded = coming[0]
                loaded.result()
                part, block = group.pop(0), blocks.pop(0)
                tensor = memory.view(block, 0, part.dtype, part.shape, part.strides, part.name)
                if not group:
                    coming.popleft()
                held_bytes = align(part.nbytes)
                ahead_bytes -= held_bytes
                # Nothing of it may stay here.
                del block, blocks, loaded, group
                yield part.name, tensor
                del tensor
        finally:
            # Loads write until they have ended, whatever became of the caller.
            cancel.set()


def _load_group(
    checkpoint: _core.Checkpoint, group: list[Part], blocks: list[Any], memory: Any, keeper: Loader, cancel: _core.Cancel, wait: Any
) -> None:
    # The caller takes parts and blocks off its lists only when this has ended.
    wait()
    fill(checkpoint, group, [memory.given(block) for block in blocks], [(i, 0) for i in range(len(blocks))], keeper, False, cancel)
