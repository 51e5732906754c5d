"""The safetensors format, for the fakes: (name, tensor) of one file in the order of the data. Types that numpy does
not know are taken as integers of their size."""

import json

import numpy as np
import torch

TYPES = {"F64": "f8", "F32": "f4", "F16": "f2", "BF16": "u2", "I64": "i8", "U8": "u1", "BOOL": "?"}


def tensors_of(path, device):
    with open(path, "rb") as file:
        data = file.read()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = entry["data_offsets"]
        array = np.frombuffer(data[start + begin : start + end], TYPES[entry["dtype"]]).reshape(entry["shape"])
        yield name, torch.on(array.copy(), device)
