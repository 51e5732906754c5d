"""The safetensors library as its users call it, driven over stdin and stdout, a JSON object a line.
Arguments: the devices to load to, as torch names them; shards are shared out in order.

{"load": dir}     -> {"elapsed_s", "bytes", "path", "reason"}; the tensors stay until the next load
{"digests": true} -> {"digests": {name: 16 hex digits}}; the same digest as src/digest.rs
Anything that fails -> {"error": text}
"""

import gc
import glob
import json
import os
import sys
import time


def say(answer):
    print(json.dumps(answer), flush=True)


try:
    import numpy as np
    import safetensors

    try:
        import torch
        from safetensors.torch import load_file
    except ImportError:
        torch = None
        from safetensors.numpy import load_file
except ImportError as error:
    say({"error": f"{error} (in {sys.executable})"})
    sys.exit(0)



def signed(value):
    """The same 64 bits as the signed integer that numpy and torch compute with."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


G = 0x9E3779B97F4A7C15
FIRST, SECOND = signed(0xBF58476D1CE4E5B9), signed(0x94D049BB133111EB)


def shift(z, bits):
    """A logical shift: theirs copies the sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def mix(z):
    z = (z ^ shift(z, 30)) * FIRST
    z = (z ^ shift(z, 27)) * SECOND
    return z ^ shift(z, 31)


def words_of(part):
    """A part as int64 words, the last one padded with zeros, and the numbers of its words from 0."""
    padding = -len(part) % 8
    if torch is not None:
        words = torch.cat([part, part.new_zeros(padding)]).view(torch.int64)
        return words, torch.arange(len(words), device=part.device)
    words = np.concatenate([part, np.zeros(padding, np.uint8)]).view(np.int64)
    return words, np.arange(len(words), dtype=np.int64)


def digest(data):
    """data: one-dimensional, of uint8; where it lies, there it is digested."""
    total = 0
    step = 1 << 26
    for start in range(0, len(data), step):
        words, index = words_of(data[start : start + step])
        total += int(mix(words + (index + (start // 8 + 1)) * signed(G)).sum())
    last = np.array([signed((total & ((1 << 64) - 1)) ^ (len(data) * G))])
    return f"{int(mix(last)[0]) & ((1 << 64) - 1):016x}"


def as_bytes(tensor):
    if torch is not None:
        return tensor.contiguous().reshape(-1).view(torch.uint8)
    return np.ascontiguousarray(tensor).reshape(-1).view(np.uint8)


def load(directory, devices):
    tensors = {}
    paths = sorted(glob.glob(os.path.join(directory, "*.safetensors")))
    started = time.perf_counter()
    for i, path in enumerate(paths):
        device = devices[i * len(devices) // len(paths)]
        shard = load_file(path, device=device) if torch is not None else load_file(path)
        if torch is not None and device == "cpu":
            # On the CPU torch's tensors are views of a mapped file: nothing is read until it is touched.
            shard = {name: tensor.clone() for name, tensor in shard.items()}
        tensors.update(shard)
    for device in set(devices) - {"cpu"}:
        torch.cuda.synchronize(device)
    return tensors, time.perf_counter() - started


def main(devices):
    if torch is None and devices != ["cpu"]:
        say({"error": "torch is needed to load to a GPU, and is not installed"})
        return
    for device in set(devices) - {"cpu"}:
        # The context is no part of a load.
        torch.zeros(1, device=device)
        torch.cuda.synchronize(device)
    versions = {"python": sys.version.split()[0], "safetensors": safetensors.__version__, "numpy": np.__version__}
    versions["torch"] = torch.__version__ if torch is not None else None
    say(versions)
    if torch is not None:
        path, reason = "python-torch", f"safetensors.torch.load_file to {', '.join(devices)}"
        if devices == ["cpu"]:
            reason += ", then one clone a tensor"
    else:
        path, reason = "python-numpy", "safetensors.numpy.load_file"
    tensors = {}
    for line in sys.stdin:
        try:
            question = json.loads(line)
            if "load" in question:
                tensors.clear()
                gc.collect()
                if torch is not None and torch.cuda.is_initialized():
                    torch.cuda.empty_cache()
                tensors, elapsed_s = load(question["load"], devices)
                size = sum(as_bytes(tensor).nbytes for tensor in tensors.values())
                say({"elapsed_s": elapsed_s, "bytes": size, "path": path, "reason": reason})
            else:
                say({"digests": {name: digest(as_bytes(tensor)) for name, tensor in tensors.items()}})
        except Exception as error:
            say({"error": f"{type(error).__name__}: {error}"})


main(sys.argv[1:])
