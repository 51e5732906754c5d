#!/usr/bin/env python3
"""By how much a bf16 matrix product (8192 x 8192 x 8192) slows while a packed model is loaded by another thread of the process.
Called by packed-gpu.sh with the model's directory; prints a line of JSON."""

import json
import statistics
import sys
import threading
import time

import torch

import sllm_gds

SIZE, TURNS = 8192, 5
a = torch.randn(SIZE, SIZE, device="cuda", dtype=torch.bfloat16)
b = torch.randn(SIZE, SIZE, device="cuda", dtype=torch.bfloat16)
c = torch.empty_like(a)


def products(until):
    """The median time of products, one after the other, until something is over; at least a hundred of them."""
    times = []
    while not until() or len(times) < 100:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        torch.matmul(a, b, out=c)
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times), len(times)


def load():
    started = time.perf_counter()
    model = sllm_gds.load(sys.argv[1], device="cuda:0")
    torch.cuda.synchronize()
    elapsed_s = time.perf_counter() - started
    bytes_loaded = sum(tensor.nbytes for tensor in model.values())
    return elapsed_s, bytes_loaded


load()
turns = []
for _ in range(TURNS):
    alone_ms, _ = products(lambda: True)
    load_alone_s, loaded = load()
    result = []
    thread = threading.Thread(target=lambda: result.append(load()))
    thread.start()
    beside_ms, count = products(lambda: not thread.is_alive())
    thread.join()
    turns.append({
        "product_ms": alone_ms, "product_beside_ms": beside_ms, "products": count,
        "load_s": load_alone_s, "load_beside_s": result[0][0], "bytes": loaded,
    })
print(json.dumps({"size": SIZE, "turns": turns}))
