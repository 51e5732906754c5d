"""Why the Rust baseline is faster than safetensors' own path to the GPU: the two ways of the Python library.

    python3 benchmarks/safetensors-paths.py DIRECTORY      wants torch, safetensors and a GPU
"""

import glob
import os
import sys
import time

import torch
from safetensors.torch import load_file

paths = sorted(glob.glob(os.path.join(sys.argv[1], "*.safetensors")))


def straight():
    return {name: t for path in paths for name, t in load_file(path, device="cuda").items()}


def by_way_of_the_cpu():
    return {name: t.cuda() for path in paths for name, t in load_file(path).items()}


torch.zeros(1, device="cuda")
for way in (straight, by_way_of_the_cpu):
    for _ in range(2):
        torch.cuda.empty_cache()
        torch.cuda.synchronize()
        started = time.perf_counter()
        tensors = way()
        torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        size = sum(t.nbytes for t in tensors.values())
        del tensors
        print(f"{way.__name__}: {seconds:.3f} s, {size / seconds / 1e9:.2f} GB/s")
