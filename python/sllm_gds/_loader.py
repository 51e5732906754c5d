"""Loaders: what they keep from one load to the next, and which process they are of."""

from __future__ import annotations

import os
import threading
from typing import Any

from . import _core
from ._errors import refuse

FORKED = (
    "this process was forked from one that had loaded to a GPU, and CUDA does not survive that: start processes by spawn "
    "(multiprocessing.get_context('spawn'))"
)


class Loader:
    """Keeps pinned memory, streams and a pool from one load to the next. Loads may run side by side, from any threads.

    Without one, functions share a loader of the process's with the defaults. A loader that is used after `fork` raises
    `RefusedError`.

    Args:
        io: `"auto"` asks the page cache range by range, `"direct"` reads past it, `"buffered"` through it.
        engine: `"auto"`, or `"gds"`, `"pinned"`, `"host"`.
        threads: reader threads of each load, 1 to 1024. Default: 4 to 16, by cores.
        chunk_bytes: bytes of one read.
        copy_bytes: bytes of one copy to a GPU. Default: 16 MiB.
        ring_bytes: pinned host memory of each load to a GPU. Default: 64 MiB.
        pool_bytes: keeps what was loaded to GPUs in so much pinned host memory, so that loading it again reads nothing.
        prefault: takes and pins all of the pool at the first load.
        gds_helper: path of the program `sllm-gds`, which proves that GPUDirect Storage works. Without it that is not used.

    Raises:
        RefusedError: settings that make no sense, alone or together.
        OutOfMemoryError: memory has no room for the pool.
    """

    def __init__(self, **settings: Any):
        self._core = _core.Loader(**settings)
        self._settings = settings
        self._used_gpu = False
        #: What the last load did: bytes, read_bytes, elapsed_s, gb_per_s, path, path_reason and more; None before it.
        self.report: dict[str, Any] | None = None
        self._shared: Loader | None = None
        self._lock = threading.Lock()

    def _buffered(self) -> "Loader":
        """One like it that reads through the page cache: for bytes that several processes want."""
        with self._lock:
            if self._shared is None:
                settings = {name: value for name, value in self._settings.items() if name not in ("pool_bytes", "prefault")}
                self._shared = Loader(**{**settings, "io": "buffered", "engine": "auto"})
            return self._shared

    def used_gpu(self) -> bool:
        """Whether it, or one of its likes, loaded to a GPU."""
        return self._used_gpu or (self._shared is not None and self._shared.used_gpu())


_lock = threading.Lock()
_of_process: tuple[int, Loader] | None = None
#: Loaders of the processes that this one was forked from: what they hold of CUDA must not be freed here.
_left: list[Loader] = []


def loader(given: Loader | None, memory: Any) -> Loader:
    """The loader that was given, or that of this process."""
    global _of_process
    if memory.is_forked():
        raise refuse(FORKED)
    if given is not None:
        return given
    pid = os.getpid()
    with _lock:
        if _of_process is not None and _of_process[0] != pid:
            _left.append(_of_process[1])
            _of_process = None
        if memory.gpu is not None and any(old.used_gpu() for old in _left):
            raise refuse(FORKED)
        if _of_process is None:
            _of_process = (pid, Loader())
        return _of_process[1]


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
