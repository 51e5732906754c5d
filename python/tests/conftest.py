"""Checkpoints for tests, written without any library."""

import json
import struct

import pytest


def write_file(path, tensors, metadata=None):
    """A safetensors file of (name, dtype, shape, bytes) in this order."""
    header, at = {}, 0
    if metadata:
        header["__metadata__"] = metadata
    for name, dtype, shape, data in tensors:
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data for *_, data in tensors))
    return path


def pattern(count, seed):
    """Bytes that differ from place to place, and from seed to seed."""
    return bytes((i * 31 + i // 251 * 7 + seed * 97) % 256 for i in range(count))


@pytest.fixture
def small(tmp_path):
    """A file whose tensors begin anywhere, and their bytes by name."""
    shapes = {"bytes": ("U8", [3]), "w": ("F32", [10, 6]), "half": ("F16", [4, 5]), "n": ("I64", []), "none": ("F32", [0, 4]), "flag": ("BOOL", [2])}
    sizes = {"U8": 1, "F32": 4, "F16": 2, "I64": 8, "BOOL": 1}
    tensors = []
    for seed, (name, (dtype, shape)) in enumerate(shapes.items()):
        count = sizes[dtype]
        for extent in shape:
            count *= extent
        data = b"\x01\x00" if dtype == "BOOL" else pattern(count, seed)
        tensors.append((name, dtype, shape, data))
    path = write_file(tmp_path / "small.safetensors", tensors, {"made": "by a test"})
    return path, {name: data for name, _, _, data in tensors}
