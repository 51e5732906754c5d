"""The extension; what users call is in `sllm_gds`."""

import os
from typing import Any, Sequence

__version__: str

class Checkpoint:
    """A checkpoint on disk, opened and validated."""

    def __init__(self, path: str | os.PathLike[str]) -> None: ...
    @property
    def dir(self) -> os.PathLike[str]: ...
    @property
    def layout(self) -> str: ...
    @property
    def files(self) -> list[os.PathLike[str]]: ...
    @property
    def file_bytes(self) -> int: ...
    @property
    def tensor_bytes(self) -> int: ...
    def tensors(self) -> list[tuple[str, str, list[int], list[int] | None, int, int]]: ...
    def metadata(self) -> list[dict[str, str] | None]: ...

class Loader:
    """Keeps pinned memory, streams and a pool from one load to the next."""

    def __init__(
        self,
        *,
        io: str = "auto",
        engine: str = "auto",
        threads: int | None = None,
        chunk_bytes: int | None = None,
        copy_bytes: int | None = None,
        ring_bytes: int | None = None,
        pool_bytes: int | None = None,
        prefault: bool = False,
        gds_helper: str | os.PathLike[str] | None = None,
    ) -> None: ...
    def start(
        self, checkpoint: Checkpoint, group: Any, *, verify: bool = False, links: Any = None
    ) -> Load: ...
    def load_own(
        self, checkpoint: Checkpoint, device: int | None, names: Sequence[str] | None, *, verify: bool = False, links: Any = None
    ) -> list[tuple[str, OwnTensor]]: ...

class Load:
    """A load under way."""

    def wait(self) -> dict[str, Any]: ...
    def cancel(self) -> None: ...
    def close(self) -> None: ...

class Stream:
    """A load that goes on from group to group."""

    def __init__(self, loader: Loader, checkpoint: Checkpoint, *, links: Any = None) -> None: ...
    def give(self, group: Any) -> int: ...
    def end(self) -> None: ...
    def wait(self, number: int) -> None: ...
    def finish(self) -> None: ...
    def close(self) -> None: ...

class Client:
    """A store server, connected to."""

    def __init__(self, address: str) -> None: ...
    def status(self) -> str: ...
    def load(self, model: str, gpu: int) -> list[tuple[str, OwnTensor]]: ...

class OwnTensor:
    """A tensor in memory of the loader's own."""

    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> list[int]: ...
    @property
    def nbytes(self) -> int: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...
    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any: ...

def save(
    path: str | os.PathLike[str],
    tensors: Sequence[tuple[str, str, Sequence[int], int | None, int, int]],
    *,
    partitions: int,
    max_partition_bytes: int,
    beside: Sequence[tuple[str, str]],
    made_from: str,
    overwrite: bool,
) -> tuple[int, int, float]: ...
