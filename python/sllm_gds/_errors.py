"""What can go wrong. The words are the command's: what, where, why, and what to do."""

from __future__ import annotations

import errno as _errno
from typing import Any, Sequence


class SllmGdsError(Exception):
    """Every error of this package.

    Attributes:
        half_written: names of the caller's tensors whose bytes may be half old, half new, since a load into them failed.
            Empty where nothing of the caller's was touched.
    """

    half_written: Sequence[str] = ()

    def __str__(self) -> str:
        # OSError's own words begin with a number.
        return str(self.args[0]) if self.args else type(self).__name__

    def _facts(self, facts: dict[str, Any]) -> None:
        for name, fact in facts.items():
            setattr(self, name, fact)


class NotFoundError(SllmGdsError, FileNotFoundError):
    """There is no such checkpoint, file, tensor or GPU."""

    def __init__(self, words: str, **facts: Any):
        super().__init__(words)
        self.errno = _errno.ENOENT
        self._facts(facts)


class ReadError(SllmGdsError, OSError):
    """The system refused a file or a directory, or storage failed.

    Attributes:
        errno: the system's number, where it gave one.
        filename: which file.
        offset: from its first byte; 0 where it was not a read that failed.
    """

    offset: int = 0

    def __init__(self, words: str, **facts: Any):
        super().__init__(words)
        self._facts(facts)


class CudaError(SllmGdsError, OSError):
    """The CUDA driver refused something. After an error that breaks the CUDA context only a new process loads again."""

    def __init__(self, words: str, **facts: Any):
        super().__init__(words)
        self.errno = _errno.EIO
        self._facts(facts)


class OutOfMemoryError(SllmGdsError, OSError):
    """Host or device memory is short.

    Attributes:
        needed_bytes: bytes that were asked for.
        free_bytes: bytes that could be had, or None where that is not known.
    """

    needed_bytes: int = 0
    free_bytes: int | None = None

    def __init__(self, words: str, **facts: Any):
        super().__init__(words)
        self.errno = _errno.ENOMEM
        self._facts(facts)


class CheckpointError(SllmGdsError, ValueError):
    """The checkpoint's files do not fit together, some are missing, or they are none."""

    def __init__(self, words: str, **facts: Any):
        super().__init__(words)
        self._facts(facts)


class CorruptError(SllmGdsError, ValueError):
    """Bytes arrived that are not those that were written.

    Attributes:
        tensors: a line for each tensor, with its name and digests.
    """

    tensors: Sequence[str] = ()

    def __init__(self, words: str, **facts: Any):
        super().__init__(words)
        self._facts(facts)


class RefusedError(SllmGdsError, ValueError):
    """A setting or a request makes no sense, or the process was forked from the loader's."""

    def __init__(self, words: str, **facts: Any):
        super().__init__(words)
        self._facts(facts)


class CancelledError(SllmGdsError, OSError):
    """The load was asked to stop, as a stream is that is closed early."""

    def __init__(self, words: str = "interrupted", **facts: Any):
        super().__init__(words)
        self.errno = _errno.ECANCELED
        self._facts(facts)


class UnreachableError(SllmGdsError, ConnectionError):
    """No store server answers, or it went away."""

    def __init__(self, words: str, **facts: Any):
        super().__init__(words)
        self._facts(facts)


class DeniedError(SllmGdsError, PermissionError):
    """The store server takes such calls over its Unix socket only."""

    def __init__(self, words: str, **facts: Any):
        super().__init__(words)
        self.errno = _errno.EACCES
        self._facts(facts)


class BusyError(SllmGdsError, OSError):
    """The store server is short of something, as memory or places for loads, or is about to end: ask again later."""

    def __init__(self, words: str, **facts: Any):
        super().__init__(words)
        self.errno = _errno.EBUSY
        self._facts(facts)


class ServerError(SllmGdsError, RuntimeError):
    """Something failed within the store server: storage, the driver, or itself."""

    def __init__(self, words: str, **facts: Any):
        super().__init__(words)
        self._facts(facts)


def refuse(words: str) -> RefusedError:
    """The error for a request that makes no sense."""
    return RefusedError(words)
