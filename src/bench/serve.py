"""A loader of benchmarks/peers/loaders.py, whose text stands before this one, driven over stdin and stdout, a JSON
object a line. Arguments: the loader's name, then the devices to load to, as torch names them; files are shared out
in order.

first              -> the versions: {"python", loader's name, "numpy", "torch"}
{"load": [file, ...], "cold": bool, "keep": bool}
                   -> {"elapsed_s", "bytes", "path", "reason"}; with keep the tensors stay until they are digested
{"digests": true}  -> {"digests": {name: 16 hex digits}}; the same digest as src/digest.rs
Anything that fails -> {"error": text}; at the start with {"install": what is missing}
"""

import gc
import sys
import time

# Answers have the real stdout for themselves; whatever a library prints goes to stderr.
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)


def say(answer):
    print(json.dumps(answer), file=answers, flush=True)


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


def drop(tensors):
    """Frees them. What lay on a GPU is overwritten first: bytes that the next load leaves out must not pass for it."""
    on_gpus = torch is not None and torch.cuda.is_initialized()
    if on_gpus:
        for tensor in tensors.values():
            as_bytes(tensor).fill_(0xA5)
            torch.cuda.synchronize(tensor.device)
        tensor = None
    tensors.clear()
    gc.collect()
    if on_gpus:
        torch.cuda.empty_cache()


def load(loader, name, question, devices):
    """Loads and takes the time; the clock stands before the first file is opened and after the last copy."""
    paths = question["load"]
    settings = settings_of(name, question["cold"])
    shares = {}
    for i, path in enumerate(paths):
        shares.setdefault(devices[i * len(devices) // len(paths)], []).append(path)
    tensors, way = {}, ""
    started = time.perf_counter()
    for device, share in shares.items():
        loaded, way = loader.load(share, device, settings)
        tensors.update(loaded)
    for device in set(devices) - {"cpu"}:
        torch.cuda.synchronize(device)
    elapsed_s = time.perf_counter() - started
    size = sum(as_bytes(tensor).nbytes for tensor in tensors.values())
    reason = f"{name} in Python to {', '.join(devices)}, {json.dumps(settings) if settings else 'as it comes'}"
    return tensors, {"elapsed_s": elapsed_s, "bytes": size, "path": way, "reason": reason}


def main(name, devices):
    loader = LOADERS[name]()
    try:
        versions = {"python": sys.version.split()[0], name: loader.prepare(devices), "numpy": np.__version__}
        versions["torch"] = torch.__version__ if torch is not None else None
        settings_of(name, False)
    except Exception as error:
        # A shared library that is missing is an OSError, a package that is broken may be anything.
        say({"error": f"{type(error).__name__}: {error} (in {sys.executable})", "install": loader.install})
        return
    if torch is None and (devices != ["cpu"] or name != "safetensors"):
        say({"error": f"torch is needed, and is not installed (in {sys.executable})", "install": "torch"})
        return
    for device in set(devices) - {"cpu"}:
        # The context is no part of a load.
        torch.zeros(1, device=device)
        torch.cuda.synchronize(device)
    say(versions)
    tensors = {}
    for line in sys.stdin:
        try:
            question = json.loads(line)
            if "load" in question:
                drop(tensors)
                tensors, answer = load(loader, name, question, devices)
                if not question["keep"]:
                    drop(tensors)
                say(answer)
            else:
                found = {key: digest(as_bytes(tensor)) for key, tensor in tensors.items()}
                drop(tensors)
                say({"digests": found})
        except Exception as error:
            say({"error": f"{type(error).__name__}: {error}"})


try:
    import numpy as np
except ImportError as error:
    say({"error": f"{error} (in {sys.executable})", "install": "numpy"})
    sys.exit(0)
try:
    import torch
except ImportError:
    torch = None
main(sys.argv[1], sys.argv[2:])
