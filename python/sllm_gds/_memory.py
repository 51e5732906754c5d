"""Frameworks: their memory, their types, and views of both. The only place that knows torch from numpy."""

from __future__ import annotations

import importlib.util
import math
import sys
from typing import Any, Sequence

from ._errors import NotFoundError, refuse

#: Tensors begin at multiples of this.
ALIGN = 256

#: Bits of an element.
BITS = {
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64, "C64": 64,
}  # fmt: skip

TORCH = {
    "F4": "float4_e2m1fn_x2", "BOOL": "bool", "U8": "uint8", "I8": "int8", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu", "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz", "U16": "uint16", "I16": "int16", "F16": "float16", "BF16": "bfloat16",
    "U32": "uint32", "I32": "int32", "F32": "float32", "U64": "uint64", "I64": "int64", "F64": "float64",
    "C64": "complex64",
}  # fmt: skip

NUMPY = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "F16": "float16", "U32": "uint32",
    "I32": "int32", "F32": "float32", "U64": "uint64", "I64": "int64", "F64": "float64", "C64": "complex64",
}  # fmt: skip

#: numpy's by the package ml_dtypes.
ML_DTYPES = {
    "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
}  # fmt: skip

FRAMEWORKS = {"pt": "pt", "torch": "pt", "pytorch": "pt", "np": "np", "numpy": "np"}


def align(offset: int) -> int:
    """The next place for a tensor."""
    return -(-offset // ALIGN) * ALIGN


def has_torch() -> bool:
    """Whether torch is there. It is imported at its first use."""
    return "torch" in sys.modules or importlib.util.find_spec("torch") is not None


def framework(device: Any, wanted: str | None = None) -> "Torch | Numpy":
    """The memory of the framework that is wanted (`"pt"`, `"np"`), or of torch where it is there, else of numpy."""
    if wanted is not None and wanted not in FRAMEWORKS:
        raise refuse(f"framework '{wanted}': it is pt (torch) or np (numpy); from either others make their own")
    if FRAMEWORKS.get(wanted or "", "pt") == "pt" and (wanted is not None or has_torch()):
        return Torch(device)
    return Numpy(device)


class Torch:
    """Memory of torch's allocator on one device."""

    def __init__(self, device: Any):
        try:
            import torch
        except ImportError as error:
            raise refuse("torch is not installed, and its tensors were asked for: pip install torch, or take numpy") from error
        self.torch = torch
        if isinstance(device, int):
            device = f"cuda:{device}"
        try:
            device = torch.device(device)
        except RuntimeError as error:
            raise refuse(f"device {device!r}: {error}".splitlines()[0]) from error
        if device.type not in ("cpu", "cuda") or (device.type == "cuda" and torch.version.cuda is None):
            raise refuse(f"device '{device}': loads go to cpu and to NVIDIA GPUs, as cuda:0")
        self.gpu: int | None = None
        if device.type == "cuda":
            count = torch.cuda.device_count()
            index = torch.cuda.current_device() if device.index is None and count else device.index or 0
            if index >= count:
                raise NotFoundError(f"there is no GPU {index}: torch {torch.__version__} sees {count}; look at nvidia-smi and CUDA_VISIBLE_DEVICES")
            self.gpu, device = index, torch.device("cuda", index)
        self.device = device

    def empty(self, nbytes: int) -> Any:
        """A block of bytes, not set to anything."""
        return self.torch.empty(nbytes, dtype=self.torch.uint8, device=self.device)

    def given(self, block: Any) -> tuple[int | None, int, int]:
        """A block as the loader takes it: GPU, address, bytes."""
        return self.gpu, block.data_ptr(), block.numel()

    def dtype(self, name: str, tensor: str) -> Any:
        """torch's type for safetensors' name of one."""
        found = getattr(self.torch, TORCH.get(name, ""), None)
        if found is None:
            raise refuse(f"tensor '{tensor}' is {name}, for which torch {self.torch.__version__} has no type: leave it out, or take a newer torch")
        return found

    def view(self, block: Any, offset: int, dtype: str, shape: Sequence[int], strides: Sequence[int] | None, tensor: str) -> Any:
        """A tensor at byte `offset` of a block; strides are in elements."""
        kind = self.dtype(dtype, tensor)
        shape, strides = packed(dtype, shape, strides, tensor)
        if strides is None:
            nbytes = math.prod(shape) * kind.itemsize
            return block[offset : offset + nbytes].view(kind).view(shape)
        bytes_of = sum((n - 1) * s for n, s in zip(shape, strides)) + 1 if math.prod(shape) else 0
        flat = block[offset : offset + bytes_of * kind.itemsize].view(kind)
        return flat.as_strided(shape, strides, flat.storage_offset())

    def copy(self, tensor: Any) -> Any:
        """A contiguous tensor with memory of its own."""
        return tensor.clone(memory_format=self.torch.contiguous_format)

    def views(self, block: Any, parts: Sequence[Any], offsets: Sequence[int]) -> dict[str, Any]:
        """Tensors at these bytes of a block, by name."""
        found, flats = {}, {}
        for part, at in zip(parts, offsets):
            if part.strides is not None or part.dtype == "F4":
                found[part.name] = self.view(block, at, part.dtype, part.shape, part.strides, part.name)
                continue
            known = flats.get(part.dtype)
            if known is None:
                kind = self.dtype(part.dtype, part.name)
                nbytes = block.numel() // kind.itemsize * kind.itemsize
                known = flats[part.dtype] = (block[:nbytes].view(kind), kind.itemsize)
            flat, itemsize = known
            found[part.name] = flat.narrow(0, at // itemsize, part.nbytes // itemsize).view(part.shape)
        return found

    def mark(self) -> Any:
        """An event that stands for all that the caller's current stream has queued so far: until it has come, new memory may be in
        use there. None on the host."""
        if self.gpu is None:
            return None
        event = self.torch.cuda.Event()
        event.record(self.torch.cuda.current_stream(self.gpu))
        return event

    def is_forked(self) -> bool:
        """Whether CUDA was started in the process that this one was forked from."""
        return self.gpu is not None and self.torch.cuda._is_in_bad_fork()


class Numpy:
    """Memory of numpy's, in host memory."""

    gpu = None

    def __init__(self, device: Any):
        if str(device) != "cpu":
            raise refuse(
                f"device {device!r}: without torch there are no tensors on it. Install torch, or take sllm_gds.load_dlpack, "
                "whose tensors other frameworks take over by DLPack"
            )
        try:
            import numpy
        except ImportError as error:
            raise refuse("neither torch nor numpy is installed: pip install numpy, or torch") from error
        self.numpy = numpy

    def empty(self, nbytes: int) -> Any:
        """A block of bytes, not set to anything."""
        return self.numpy.empty(nbytes, dtype=self.numpy.uint8)

    def given(self, block: Any) -> tuple[int | None, int, int]:
        """A block as the loader takes it: GPU, address, bytes."""
        return None, block.ctypes.data, block.nbytes

    def dtype(self, name: str, tensor: str) -> Any:
        """numpy's type for safetensors' name of one."""
        if name == "F4":
            return self.numpy.dtype("uint8")
        if name in NUMPY:
            return self.numpy.dtype(NUMPY[name])
        try:
            import ml_dtypes
        except ImportError:
            ml_dtypes = None
        found = getattr(ml_dtypes, ML_DTYPES.get(name, ""), None)
        if found is None:
            raise refuse(f"tensor '{tensor}' is {name}, for which numpy has no type: pip install ml_dtypes, or take torch")
        return self.numpy.dtype(found)

    def view(self, block: Any, offset: int, dtype: str, shape: Sequence[int], strides: Sequence[int] | None, tensor: str) -> Any:
        """An array at byte `offset` of a block; strides are in elements. Of F4 it has the bytes, two elements in each."""
        kind = self.dtype(dtype, tensor)
        shape, strides = packed(dtype, shape, strides, tensor)
        steps = None if strides is None else [stride * kind.itemsize for stride in strides]
        return self.numpy.ndarray(shape, kind, buffer=block, offset=offset, strides=steps)

    def copy(self, tensor: Any) -> Any:
        """A contiguous array with memory of its own; a number of numpy's has that."""
        return self.numpy.array(tensor, order="C")

    def views(self, block: Any, parts: Sequence[Any], offsets: Sequence[int]) -> dict[str, Any]:
        """Arrays at these bytes of a block, by name."""
        return {part.name: self.view(block, at, part.dtype, part.shape, part.strides, part.name) for part, at in zip(parts, offsets)}

    def mark(self) -> None:
        """Nothing is queued on host memory."""

    def is_forked(self) -> bool:
        """Host memory survives a fork."""
        return False


class Own:
    """Memory of the loader's own, on a GPU or the host (None)."""

    def __init__(self, gpu: int | None):
        self.gpu = gpu

    def is_forked(self) -> bool:
        """What torch did is not asked: it need not be there."""
        return False


def packed(dtype: str, shape: Sequence[int], strides: Sequence[int] | None, tensor: str) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """A shape as frameworks count it: two elements of F4 to a byte."""
    shape = tuple(shape)
    if dtype == "F4":
        if not shape or shape[-1] % 2:
            raise refuse(f"tensor '{tensor}' is F4 of shape {list(shape)}: its last axis does not fill whole bytes")
        halved = None if strides is None else (*(stride // 2 for stride in strides[:-1]), 1)
        return (*shape[:-1], shape[-1] // 2), halved
    return shape, None if strides is None else tuple(strides)
