"""Tensors one after the other, while the next ones come."""

from __future__ import annotations

from collections import deque
from typing import Any, Iterable, Iterator

from . import _core
from ._errors import refuse
from ._fill import Links, group_of
from ._loader import Loader, loader as loader_of
from ._memory import align, framework
from ._parts import Axis, Part, PathLike, find, select, share

#: Groups that a window is cut into, and bytes of one at most: the first is handed over while the next ones come.
CUTS = 8
MOST_BYTES = 64 << 20


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
    links: Links = "auto",
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
        links: as of `load_file`. With others than `"auto"` and `"own"`, and from a pool, by cuFile or of packed weights, the stream
            is many small loads, and slower.
        loader: takes this loader.

    Raises:
        As `load_file`, at the first tensor or under way. RefusedError: a window of no bytes.
    """
    if window_bytes < 1:
        raise refuse(f"a window of {window_bytes} bytes has room for nothing; 256 MiB to 1 GiB are usual")
    memory = framework(device)
    keeper = loader_of(loader, memory)
    checkpoint = _core.Checkpoint(find(name, storage_path))
    parts = share(select(checkpoint, names, prefix), rank, world_size, axis)
    for part in parts:
        memory.dtype(part.dtype, part.name)
    return _stream(checkpoint, parts, memory, _Feeds(checkpoint, keeper, links), window_bytes)


def _groups(parts: list[Part], window_bytes: int) -> Iterator[tuple[list[Part], int]]:
    """Neighbours that are loaded together, and their bytes. One that is larger than a cut of the window is alone."""
    most = min(max(window_bytes // CUTS, 1), MOST_BYTES)
    group: list[Part] = []
    size = 0
    for part in parts:
        nbytes = align(part.nbytes)
        if group and (size + nbytes > most or part.is_shared is not group[0].is_shared):
            yield group, size
            group, size = [], 0
        group.append(part)
        size += nbytes
    if group:
        yield group, size


class _Feeds:
    """The loads of a stream: one, and a second for what other ranks want, too, where there is some."""

    def __init__(self, checkpoint: _core.Checkpoint, keeper: Loader, links: Links):
        self._checkpoint, self._keeper, self._links = checkpoint, keeper, links
        self._streams: dict[bool, _core.Stream] = {}

    def give(self, group: list[Part], blocks: list[Any], memory: Any) -> Any:
        """Has a group loaded into its blocks; what waits for that."""
        mark = memory.mark()
        given = [memory.given(block) for block in blocks]
        wanted = group_of(group, given, [(i, 0) for i in range(len(blocks))], mark)
        if wanted is None:
            return lambda: None
        is_shared = group[0].is_shared
        stream = self._streams.get(is_shared)
        if stream is None:
            keeper = self._keeper._buffered() if is_shared else self._keeper
            keeper._used_gpu |= memory.gpu is not None
            stream = self._streams[is_shared] = _core.Stream(keeper._core, self._checkpoint, links=self._links)
        number = stream.give(wanted)
        # The event must stay until the group is there.
        return lambda mark=mark: stream.wait(number)

    def finish(self) -> None:
        """Nothing more is given: waits for the end."""
        for stream in self._streams.values():
            stream.end()
        for stream in self._streams.values():
            stream.finish()

    def close(self) -> None:
        """Loads write until they have ended, whatever became of the caller."""
        for stream in self._streams.values():
            stream.close()


def _stream(checkpoint: _core.Checkpoint, parts: list[Part], memory: Any, feeds: _Feeds, window_bytes: int) -> Iterator[tuple[str, Any]]:
    groups = deque(_groups(parts, window_bytes))
    coming: deque[tuple[list[Part], list[Any], Any]] = deque()
    # Of tensors that were not yielded yet, and of the last that was: the caller still has it when it asks for the next.
    ahead_bytes = held_bytes = 0
    try:
        while groups or coming:
            while groups and (not ahead_bytes or ahead_bytes + held_bytes + groups[0][1] <= window_bytes):
                group, size = groups.popleft()
                blocks = [memory.empty(part.nbytes) for part in group]
                ahead_bytes += size
                coming.append((group, blocks, feeds.give(group, blocks, memory)))
            group, blocks, wait = coming[0]
            wait()
            part, block = group.pop(0), blocks.pop(0)
            tensor = memory.view(block, 0, part.dtype, part.shape, part.strides, part.name)
            if not group:
                coming.popleft()
            held_bytes = align(part.nbytes)
            ahead_bytes -= held_bytes
            # Nothing of it may stay here.
            del block, blocks, wait, group
            yield part.name, tensor
            del tensor
        feeds.finish()
    finally:
        feeds.close()
