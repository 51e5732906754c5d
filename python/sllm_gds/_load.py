"""Loads into new memory."""

from __future__ import annotations

from typing import Any, Iterable

from . import _core
from ._errors import refuse
from ._fill import Links, Loads
from ._loader import Loader, loader as loader_of
from ._memory import Own, align, framework
from ._parts import Axis, Part, PathLike, find, select, share


def load_file(
    path: PathLike,
    device: Any = "cuda:0",
    names: Iterable[str] | None = None,
    prefix: str | None = None,
    verify: bool = False,
    *,
    links: Links = "auto",
    loader: Loader | None = None,
) -> dict[str, Any]:
    """Loads a safetensors file, or a checkpoint's directory, into new tensors.

    With torch they are torch tensors, all views of one allocation of torch's own: that lives as long as any of them. A tensor
    that is to outlive the others by far, or goes to `torch.save` alone, is better cloned. Without torch, and for the
    device `"cpu"`, they are numpy arrays. Each begins at a multiple of 256 bytes.

    Before the first byte is written the load's own streams wait, on the device, for all that the current stream has queued; when
    it returns, all copies have ended.

    Args:
        path: a safetensors file, or a directory of them or in ServerlessLLM's layout.
        device: `"cuda:0"`, `"cuda"` (torch's current one), a number, `"cpu"`, or a `torch.device`.
        names: loads these tensors only.
        prefix: loads those only whose names begin so.
        verify: digests every tensor where it lies, and holds that against what was recorded when it was saved, or else
            against a digest of the bytes as they were read, or a second read.
        links: over which GPUs' PCIe links the bytes come. `"auto"` and `"own"`: the device's own. `"all"`: those of all GPUs, which
            pass on by NVLink what is not theirs; a GPU that helps gets a context (some 500 MB). Or GPUs by their numbers, as
            `[0, 1]`. Where no NVLink is, the device is fed over its own link, and the report says so.
        loader: takes this loader, and leaves what the load did in its `report`.

    Returns:
        Tensors by name, in the order in which they lie in the file. Types and shapes are the checkpoint's; of float4 two
        elements share one of `torch.float4_e2m1fn_x2` (in numpy a byte), and the last axis is half as long.

    Raises:
        NotFoundError: no such file, tensor or GPU.
        CheckpointError: it is no checkpoint, or files are missing or cut.
        ReadError: a file can't be read.
        CorruptError: with `verify`, tensors that are not what they should be.
        OutOfMemoryError, torch.OutOfMemoryError: memory is short.
        CudaError: the driver failed.
        RefusedError: a request that makes no sense, such as a type that the framework lacks.
    """
    memory = framework(device)
    keeper = loader_of(loader, memory)
    checkpoint = _core.Checkpoint(path)
    return load_block(checkpoint, select(checkpoint, names, prefix), memory, keeper, verify, links)


def load(
    name: PathLike,
    device: Any = "cuda:0",
    names: Iterable[str] | None = None,
    prefix: str | None = None,
    verify: bool = False,
    *,
    storage_path: PathLike | None = None,
    rank: int = 0,
    world_size: int = 1,
    axis: Axis = None,
    links: Links = "auto",
    loader: Loader | None = None,
) -> dict[str, Any]:
    """Loads a checkpoint by its directory or its name; as `load_file`, which see for all else.

    Args:
        name: a path, the name of a checkpoint below `storage_path`, or a model's id that lies in the hub's cache.
        storage_path: where checkpoints live. Default: `./models`.
        rank, world_size, axis: loads one rank's share for tensor parallelism: of each tensor an equal share along `axis`,
            which is a number, or a function of name and shape that gives one, or None for what every rank holds whole.

    Raises:
        As `load_file`. RefusedError, too: shares that are no whole number of elements.
    """
    memory = framework(device)
    keeper = loader_of(loader, memory)
    checkpoint = _core.Checkpoint(find(name, storage_path))
    parts = share(select(checkpoint, names, prefix), rank, world_size, axis)
    return load_block(checkpoint, parts, memory, keeper, verify, links)


def load_dlpack(
    path: PathLike,
    device: Any = "cuda:0",
    names: Iterable[str] | None = None,
    verify: bool = False,
    *,
    links: Links = "auto",
    loader: Loader | None = None,
) -> dict[str, _core.OwnTensor]:
    """Loads into memory of the loader's own, for frameworks that take tensors over by DLPack, such as cupy and jax.

    float8 and float4 cross as uint8: view them. bool, complex and bfloat16 cross as such.

    Args:
        path, names, verify, links, loader: as of `load_file`.
        device: `"cuda:0"`, a number, or `"cpu"`.

    Returns:
        By name, objects with `__dlpack__` and `__dlpack_device__`: `cupy.from_dlpack(tensors["w"])`. The memory lives as long
        as any of them, or of what was made of them.

    Raises:
        As `load_file`.
    """
    gpu = _gpu_of(device)
    keeper = loader_of(loader, Own(gpu))
    keeper._used_gpu |= gpu is not None
    checkpoint = _core.Checkpoint(path)
    wanted = None if names is None else [part.name for part in select(checkpoint, names, None)]
    return dict(keeper._core.load_own(checkpoint, gpu, wanted, verify=verify, links=links))


def _gpu_of(device: Any) -> int | None:
    text = str(device)
    if text == "cpu":
        return None
    number = text.removeprefix("cuda:") if text != "cuda" else "0"
    if not number.isdecimal():
        raise refuse(f"device {device!r}: it is cpu, or a GPU by its number, as cuda:0")
    return int(number)


def load_block(
    checkpoint: _core.Checkpoint, parts: list[Part], memory: Any, keeper: Loader, verify: bool, links: Links | None = None
) -> dict[str, Any]:
    """Loads into one new block. Tensors that are tied in the checkpoint share their place."""
    block = Block(checkpoint, parts, memory, keeper, verify, links)
    with block:
        return block.tensors()


class Block:
    """One new block of memory, of the caller's current stream, that is being filled: `with` waits for the end of that."""

    def __init__(
        self, checkpoint: _core.Checkpoint, parts: list[Part], memory: Any, keeper: Loader, verify: bool, links: Links | None = None
    ):
        # First, so that it is the first to go: it waits for what still writes to the block.
        self._loads = Loads()
        for kind, name in {part.dtype: part.name for part in parts}.items():
            memory.dtype(kind, name)
        self._parts, self._memory = parts, memory
        self._offsets, nbytes = _offsets(parts)
        self._block = memory.empty(nbytes)
        given, places = [memory.given(self._block)], [(0, at) for at in self._offsets]
        self._loads.begin(checkpoint, parts, given, places, keeper, verify, links, memory.mark())

    def tensors(self) -> dict[str, Any]:
        """The tensors in it, whatever of them is there yet."""
        return self._memory.views(self._block, self._parts, self._offsets)

    def __enter__(self) -> "Block":
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        if kind is None:
            self._loads.wait()
        else:
            self._loads.close()


def _offsets(parts: list[Part]) -> tuple[list[int], int]:
    """Where each begins in a block, and the block's bytes."""
    offsets, known, end = [], {}, 0
    for part in parts:
        key = (part.offset, part.nbytes, part.axis, part.start)
        at = known.get(key) if part.nbytes else None
        if at is None:
            at = known[key] = align(end)
            end = at + part.nbytes
        offsets.append(at)
    return offsets, end
