"""Which of a peer's documented settings is fastest here. Not part of `bench`: peers.sh runs it first, so that every
peer is measured at its best.

    python3 tune.py try PEER DIRECTORY DEVICE [ROUNDS] >>trials.jsonl     a line a load, as it ends
    python3 tune.py best trials.jsonl                                     for SLLM_GDS_PEER_SETTINGS
"""

import contextlib
import ctypes
import gc
import glob
import json
import mmap
import os
import statistics
import sys
import time

import loaders


# The share of the files that the page cache may hold before a load that is meant to be cold.
COLD_AT_MOST = 0.01


def evict(paths):
    for path in paths:
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def warm(paths):
    buffer = bytearray(1 << 24)
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def resident_share(paths):
    """What the page cache holds of the files. A peer that keeps them mapped keeps them there, whatever is evicted."""
    held = pages = 0
    libc = ctypes.CDLL(None, use_errno=True)
    for path in paths:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
            flags = ctypes.create_string_buffer(-(-len(mapped) // mmap.PAGESIZE))
            start = ctypes.c_char.from_buffer(mapped)
            failed = libc.mincore(ctypes.byref(start), ctypes.c_size_t(len(mapped)), flags)
            del start  # the mapping cannot be closed while it is there
            if failed:
                raise OSError(ctypes.get_errno(), f"mincore of {path}")
            held += flags.raw.count(b"\x01")
            pages += len(flags)
    return held / pages


def seconds(loader, paths, device, settings, free, synchronize):
    """One load: its seconds, or what went wrong. What it brought is freed."""
    try:
        started = time.perf_counter()
        tensors, _ = loader.load(paths, device, settings)
        synchronize()
        return time.perf_counter() - started, None
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"
    finally:
        tensors = None
        gc.collect()
        free()


def try_all(name, directory, device, rounds):
    import torch

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    loader = loaders.LOADERS[name]()
    loader.prepare([device])
    synchronize, free = torch.cuda.synchronize, torch.cuda.empty_cache
    if device == "cpu":
        synchronize = free = contextlib.nullcontext
    paths = sorted(glob.glob(os.path.join(directory, "*.safetensors")))
    # Broken off half-way, it has tried every choice in both states before any of them twice.
    for number in range(rounds):
        for state in ("warm", "cold"):
            choices = loader.choices[state]
            if state == "warm":
                warm(paths)
            if number == 0:
                # What a process does once (contexts, pools) is in the first load, which does not count.
                seconds(loader, paths, device, choices[0], free, synchronize)
            for settings in choices:
                if state == "cold":
                    evict(paths)
                resident = resident_share(paths)
                took, error = seconds(loader, paths, device, settings, free, synchronize)
                trial = {"peer": name, "state": state, "settings": settings, "resident_before": resident}
                trial |= {"seconds": took, "error": error}
                print(json.dumps(trial), file=answers, flush=True)


def best(trials):
    """By peer and state the settings with the smallest mean among those that never failed. What was meant to be cold and
    was not does not count."""
    groups = {}
    for trial in map(json.loads, trials):
        key = (trial["peer"], trial["state"], json.dumps(trial["settings"]))
        counts = trial["state"] == "warm" or trial["resident_before"] <= COLD_AT_MOST
        groups.setdefault(key, []).extend([trial["seconds"]] if counts else [])
    found, means = {}, {}
    for (peer, state, settings), times in groups.items():
        if None in times or not times:
            continue
        mean = statistics.mean(times)
        if mean < means.get((peer, state), float("inf")):
            means[peer, state] = mean
            found.setdefault(peer, {})[state] = json.loads(settings)
    for peer, state, _ in groups:
        if state not in found.get(peer, {}):
            print(f"{peer}: no {state} trial that counts: it runs at its defaults", file=sys.stderr)
    return found


if sys.argv[1] == "best":
    with open(sys.argv[2]) as file:
        print(json.dumps(best(file)))
else:
    rounds = int(sys.argv[5]) if len(sys.argv) > 5 else 2
    try_all(*sys.argv[2:5], rounds)
