"""Ranks as processes of their own."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("numpy")

from conftest import pattern, write_file  # noqa: E402

ROWS, ROW_BYTES = 512, 1 << 15
#: Four threads' chunks of 2 MiB, and as much again.
AT_ONCE_BYTES = 16 << 20

#: One rank: loads its share when it is told to, and says which bytes came, and how many its reads took from storage.
RANK = """
import hashlib, json, sys
import sllm_gds

def from_storage():
    return int(next(line for line in open("/proc/self/io") if line.startswith("read_bytes")).split()[1])

path, way, rank, axis = sys.argv[1], sys.argv[2], int(sys.argv[3]), json.loads(sys.argv[4])
load = sllm_gds.load if way == "load" else lambda *a, **k: dict(sllm_gds.stream(*a, window_bytes=4 << 20, **k))
print("ready", flush=True)
sys.stdin.readline()
before = from_storage()
found = load(path, "cpu", rank=rank, world_size=2, axis=lambda name, shape: axis if name == "w" else None)
digests = {name: hashlib.sha256(found[name].numpy().tobytes() if hasattr(found[name], "numpy") else found[name].tobytes()).hexdigest() for name in found}
print(json.dumps({"from_storage": from_storage() - before, "digests": digests}), flush=True)
"""


def out_of_the_page_cache(path):
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@pytest.mark.parametrize("axis", [0, 1, None])
@pytest.mark.parametrize("way", ["load", "stream"])
def test_two_ranks_read_each_byte_from_storage_once_between_them(tmp_path, way, axis):
    import hashlib

    import numpy as np

    w = np.frombuffer(pattern(ROW_BYTES, 1) * ROWS, np.uint8).reshape(ROWS, ROW_BYTES)
    all_of = pattern(1 << 20, 2) * 32
    path = write_file(tmp_path / "m.safetensors", [("w", "U8", w.shape, w.tobytes()), ("all", "U8", [len(all_of)], all_of)])
    out_of_the_page_cache(path)
    words = [sys.executable, "-c", RANK, str(path), way]
    ranks = [
        subprocess.Popen([*words, str(rank), json.dumps(axis)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    for rank in ranks:
        assert rank.stdout.readline() == "ready\n"
    for rank in ranks:
        rank.stdin.write("go\n")
        rank.stdin.flush()
    answers = [json.loads(rank.communicate(timeout=120)[0]) for rank in ranks]
    for number, answer in enumerate(answers):
        share = w if axis is None else np.split(w, 2, axis)[number]
        assert answer["digests"] == {"w": hashlib.sha256(share.tobytes()).hexdigest(), "all": hashlib.sha256(all_of).hexdigest()}
    nbytes, taken = path.stat().st_size, sum(answer["from_storage"] for answer in answers)
    if taken < nbytes // 2:
        pytest.skip("the file did not leave the page cache: this file system keeps it in memory, or tells nothing of reads")
    # What two readers ask for at the same moment both may take: a chunk of each thread, and read-ahead.
    assert taken <= nbytes + AT_ONCE_BYTES
