"""How fast the Python package is, beside the command and beside what people use: one table, in turns, warm.

    python benchmarks/python.py DIR [--turns 5] [--device cuda:0] [--command sllm-gds] [--safetensors-next DIR] [--json]

DIR holds safetensors shards, and for the cases `model …` a config.json of transformers'. Each case is a process of its own,
which loads once off the clock and then once a turn, a small model several times. A case that fails is a row with its error. `--safetensors-next`
names a folder with safetensors 0.9 (pip install --target DIR safetensors==0.9.0rc1). `--window-bytes` is the stream's.
"""

import argparse
import gc
import glob
import json
import os
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time

CASES = {
    "command": "the command's own load",
    "own memory": "sllm_gds.load_dlpack, memory of the loader's own",
    "load_file": "sllm_gds.load_file of the directory",
    "load_file by shard": "sllm_gds.load_file of one shard after the other",
    "load_into": "sllm_gds.load_into parameters that there are",
    "stream": "sllm_gds.stream, copied into parameters that there are",
    "stream kept": "sllm_gds.stream, every tensor kept",
    "safetensors load_file": "safetensors.torch.load_file of one shard after the other",
    "safetensors prefetch": "safetensors 0.9 prefetch of all shards",
    "model by sllm_gds": "sllm_gds.transformers.from_pretrained",
    "model by prefetch": "the same model, built and assigned in the same way, weights by safetensors 0.9 prefetch",
    "model by from_pretrained": "transformers' own from_pretrained",
    "small model": "sllm_gds.load_file of 197 tensors of 250 MB (opt-125m's shapes)",
    "small model in own memory": "the same by sllm_gds.load_dlpack",
    "small model again": "the same as the first, in memory that torch kept from the load before",
    "small model by step": "the same as the first, with a look at the clock after each step",
}
#: Loads of a small model in each turn.
SMALL_LOADS = 12
NEXT = ("safetensors prefetch", "model by prefetch")


def main():
    words = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    words.add_argument("directory", nargs="?")
    words.add_argument("--turns", type=int, default=5)
    words.add_argument("--device", default="cuda:0")
    words.add_argument("--command", help="the program sllm-gds")
    words.add_argument("--safetensors-next", metavar="DIR")
    words.add_argument("--window-bytes", type=int, default=512 << 20)
    words.add_argument("--cases", help="comma-separated; all by default")
    words.add_argument("--json", action="store_true")
    words.add_argument("--table", metavar="FILE", help="prints the table of what --json wrote, and measures nothing")
    words.add_argument("--case", help=argparse.SUPPRESS)
    args = words.parse_args()
    if args.table:
        with open(args.table) as file:
            print_table(json.load(file)["rows"])
        return 0
    if args.directory is None:
        words.error("name a directory")
    if args.case:
        return serve(args)
    chosen = args.cases.split(",") if args.cases else list(CASES)
    unknown = [name for name in chosen if name not in CASES]
    if unknown:
        words.error(f"there is no case '{unknown[0]}': {', '.join(CASES)}")
    rows = measure(args, chosen)
    add_ratios(rows)
    if args.json:
        print(json.dumps({"directory": args.directory, "device": args.device, "turns": args.turns, "rows": rows}, indent=1))
    else:
        print_table(rows)
    return 0


# The side that measures.


def measure(args, chosen):
    with tempfile.TemporaryDirectory(dir=os.path.dirname(os.path.abspath(args.directory)) if any("small" in name for name in chosen) else None) as folder:
        small = os.path.join(folder, "small.safetensors")
        workers = {name: Worker(name, args, small) for name in chosen}
        try:
            if any("small" in name for name in chosen):
                write_small(small)
            for turn in range(args.turns):
                for name, worker in workers.items():
                    print(f"turn {turn + 1} of {args.turns}: {name}", file=sys.stderr, flush=True)
                    worker.turn()
        finally:
            for worker in workers.values():
                worker.end()
    return [worker.row() for worker in workers.values()]


class Worker:
    """A case's process. It starts with its first turn, and its first failure is its last turn."""

    def __init__(self, name, args, small):
        self.name, self.args, self.small = name, args, small
        self.process, self.error, self.found = None, None, []

    def start(self):
        environment = dict(os.environ)
        if self.name in NEXT:
            if not self.args.safetensors_next:
                raise RuntimeError("needs --safetensors-next")
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, [self.args.safetensors_next, environment.get("PYTHONPATH")]))
        directory = self.small if "small" in self.name else self.args.directory
        words = [sys.executable, os.path.abspath(__file__), directory, "--case", self.name, "--device", self.args.device]
        words += ["--window-bytes", str(self.args.window_bytes)] + (["--command", self.args.command] if self.args.command else [])
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True, env=environment)

    def turn(self):
        if self.error:
            return
        try:
            if self.process is None:
                self.start()
            self.process.stdin.write("go\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
            while answer and not answer.startswith("{"):
                answer = self.process.stdout.readline()
            if not answer:
                self.log.seek(0)
                raise RuntimeError("its process ended: " + " ".join(self.log.read().strip().splitlines()[-1:]))
            answer = json.loads(answer)
            if "error" in answer:
                raise RuntimeError(answer["error"])
            self.found.append(answer)
        except Exception as error:  # Every failure is a row.
            self.error = str(error) or type(error).__name__

    def end(self):
        if self.process is not None:
            self.process.stdin.close()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()

    def row(self):
        row = {"case": self.name, "what": CASES[self.name], "error": self.error}
        if self.found:
            seconds = sorted(answer["elapsed_s"] for answer in self.found)
            row.update(median_s=statistics.median(seconds), least_s=seconds[0], most_s=seconds[-1], turns=len(seconds))
            row.update({name: value for name, value in self.found[-1].items() if name != "elapsed_s"})
            if "first_ms" in row:
                row["first_ms"] = statistics.median(answer["first_ms"] for answer in self.found)
            if "steps_ms" in row:
                row["steps_ms"] = {name: statistics.median(answer["steps_ms"][name] for answer in self.found) for name in row["steps_ms"]}
            row["all_s"] = [answer["elapsed_s"] for answer in self.found]
            if row.get("bytes"):
                row["gb_per_s"] = row["bytes"] / row["median_s"] / 1e9
        return row


def add_ratios(rows):
    """How many times as fast each is as what the issue holds it against."""
    by_name = {row["case"]: row for row in rows if "median_s" in row}
    command = "command" if "command" in by_name else "own memory"
    against = {
        "load_file": command, "load_file by shard": command, "load_into": "load_file", "stream": "load_file",
        "stream kept": "load_file", "safetensors load_file": "load_file", "safetensors prefetch": "load_file",
        "model by prefetch": "model by sllm_gds", "model by from_pretrained": "model by sllm_gds",
    }  # fmt: skip
    for name, other in against.items():
        if name in by_name and other in by_name:
            by_name[name]["times_as_fast_as"] = {other: by_name[other]["median_s"] / by_name[name]["median_s"]}
    # What a small load costs beside its bytes, at the rate of the large one.
    if "small model" in by_name and by_name.get("load_file", {}).get("gb_per_s"):
        for name in (name for name in by_name if name.startswith("small model")):
            if by_name[name].get("bytes"):
                row = by_name[name]
                row["overhead_ms"] = 1e3 * (row["median_s"] - row["bytes"] / by_name["load_file"]["gb_per_s"] / 1e9)
    logits = {row.get("logits") for row in rows if row.get("logits")}
    for row in rows:
        if row.get("logits"):
            row["same_logits"] = len(logits) == 1


def print_table(rows):
    print(f"{'case':26} {'median s':>9} {'least':>8} {'most':>8} {'GB/s':>7}  beside")
    for row in rows:
        if row["error"] and "median_s" not in row:
            print(f"{row['case']:26} {'-':>9} {'-':>8} {'-':>8} {'-':>7}  failed: {row['error'][:200]}")
            continue
        beside = [f"{value:.3f} x {other}" for other, value in row.get("times_as_fast_as", {}).items()]
        if "peak_beside_bytes" in row:
            beside.append(f"beside the model {row['peak_beside_bytes'] / (1 << 20):.0f} MiB allocated, {row['reserved_beside_bytes'] / (1 << 20):.0f} MiB reserved; largest tensor {row['largest_bytes'] / (1 << 20):.0f} MiB")
        if "overhead_ms" in row:
            beside.append(f"{row['overhead_ms']:.2f} ms beside its bytes; the first of a turn {row['first_ms']:.2f} ms")
        if "steps_ms" in row:
            beside.append("; ".join(f"{name} {ms:.2f}" for name, ms in row["steps_ms"].items()) + " ms")
        if "first_token_s" in row:
            beside.append(f"first token {row['first_token_s']:.3f} s after; logits {'the same' if row['same_logits'] else 'DIFFER'}")
        if "path" in row:
            beside.append(row["path"])
        if row["error"]:
            beside.append(f"failed later: {row['error'][:200]}")
        print(f"{row['case']:26} {row['median_s']:9.4f} {row['least_s']:8.4f} {row['most_s']:8.4f} {row.get('gb_per_s', 0):7.2f}  {'; '.join(beside)}")


def write_small(path):
    """opt-125m's shapes, in float16."""
    shapes = {"decoder.embed_tokens.weight": [50272, 768], "decoder.embed_positions.weight": [2050, 768], "decoder.final_layer_norm.weight": [768], "decoder.final_layer_norm.bias": [768]}
    parts = {"self_attn.k_proj": [768, 768], "self_attn.v_proj": [768, 768], "self_attn.q_proj": [768, 768], "self_attn.out_proj": [768, 768], "fc1": [3072, 768], "fc2": [768, 3072], "self_attn_layer_norm": [768], "final_layer_norm": [768]}
    for layer in range(12):
        for part, shape in parts.items():
            shapes[f"decoder.layers.{layer}.{part}.weight"] = shape
            shapes[f"decoder.layers.{layer}.{part}.bias"] = shape[:1]
    header, at = {}, 0
    for name, shape in shapes.items():
        nbytes = 2 * shape[0] * (shape[1] if shape[1:] else 1)
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [at, at + nbytes]}
        at += nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for start in range(0, at, 1 << 24):
            file.write(os.urandom(min(1 << 24, at - start)))


# The side that loads: one case, once for each line that comes.


def serve(args):
    out = os.dup(1)
    os.dup2(2, 1)
    try:
        once = LOADS[args.case](args)
        once()
    except Exception as error:
        failed = json.dumps({"error": f"{type(error).__name__}: {error}"})
        once = lambda: {"error": json.loads(failed)["error"]}  # noqa: E731
    for _ in sys.stdin:
        try:
            answer = several(once, args.case) if args.case.startswith("small model") else once()
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        clean(args.case)
        os.write(out, (json.dumps(answer) + "\n").encode())
    return 0


def several(once, case):
    """Loads one after the other: the median of those behind the first, which comes after other processes' turns, and finds the
    processor's caches and the GPU with nothing of this one."""
    found = []
    for _ in range(SMALL_LOADS):
        found.append(once())
        clean(case)
        if "error" in found[-1]:
            return found[-1]
    typical = sorted(found[1:], key=lambda answer: answer["elapsed_s"])[(len(found) - 1) // 2]
    return {**typical, "first_ms": 1e3 * found[0]["elapsed_s"]}


def clean(case):
    gc.collect()
    if case != "small model again" and "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
        sys.modules["torch"].cuda.empty_cache()


def shards(directory):
    found = sorted(glob.glob(os.path.join(directory, "*.safetensors")))
    if not found:
        raise FileNotFoundError(f"{directory} holds no safetensors files")
    return found


def synchronize(args):
    if args.device.startswith("cuda") and "torch" in sys.modules:
        sys.modules["torch"].cuda.synchronize()


def timed(args, load):
    """A load to new tensors: seconds until they are all there, and what they hold."""

    def once():
        synchronize(args)
        started = time.perf_counter()
        tensors = load()
        synchronize(args)
        elapsed_s = time.perf_counter() - started
        return {"elapsed_s": elapsed_s, "bytes": sum(tensor.nbytes for tensor in tensors.values())}

    return once


def command(args):
    program = args.command or shutil.which("sllm-gds")
    if not program:
        raise FileNotFoundError("needs --command")
    gpus = args.device.removeprefix("cuda:") if args.device.startswith("cuda") else "none"

    def once():
        run = subprocess.run([program, "load", args.directory, "--gpus", gpus, "--json"], capture_output=True, text=True)
        if run.returncode:
            raise RuntimeError(run.stderr.strip())
        report = json.loads(run.stdout)
        return {"elapsed_s": report["elapsed_s"], "bytes": report["bytes"], "path": report["path"]}

    return once


def ours(args, by_shard=False):
    import torch  # noqa: F401

    import sllm_gds

    loader = sllm_gds.Loader()

    def load():
        if not by_shard:
            return sllm_gds.load_file(args.directory, args.device, loader=loader)
        return {name: tensor for path in shards(args.directory) for name, tensor in sllm_gds.load_file(path, args.device, loader=loader).items()}

    once = timed(args, load)
    return lambda: {**once(), "path": loader.report["path"]}


def by_step(args):
    """What `sllm_gds.load_file` does, step by step; of those of the load itself its report tells."""
    import torch  # noqa: F401

    import sllm_gds
    from sllm_gds import _core, _load
    from sllm_gds._memory import framework

    loader = sllm_gds.Loader()

    def once():
        synchronize(args)
        steps, last = {}, [time.perf_counter()]

        def step(name):
            now = time.perf_counter()
            steps[name] = 1e3 * (now - last[0])
            last[0] = now

        started = last[0]
        memory = framework(args.device)
        checkpoint = _core.Checkpoint(args.directory)
        step("open")
        parts = _load.select(checkpoint, None, None)
        step("list")
        # On its way the load itself begins.
        block = _load.Block(checkpoint, parts, memory, loader, False)
        step("allocate and begin")
        with block:
            tensors = block.tensors()
            step("make tensors")
        step("wait")
        synchronize(args)
        step("synchronize")
        elapsed_s = time.perf_counter() - started
        steps.update({f"load's {name.removesuffix('_s')}": 1e3 * seconds for name, seconds in loader.report["phases"].items()})
        return {"elapsed_s": elapsed_s, "bytes": sum(tensor.nbytes for tensor in tensors.values()), "steps_ms": steps}

    return once


def own_memory(args):
    import sllm_gds

    return timed(args, lambda: sllm_gds.load_dlpack(args.directory, args.device))


def existing(args, kind):
    """Into parameters that there are: once they are made, what is measured is the way there."""
    import torch

    import sllm_gds

    parameters = {name: torch.zeros_like(tensor) for name, tensor in sllm_gds.load_file(args.directory, args.device).items()}
    # Of a load before nothing is to be found again.
    nbytes, largest = sum(tensor.nbytes for tensor in parameters.values()), max(tensor.nbytes for tensor in parameters.values())
    on_gpu = args.device.startswith("cuda")

    def once():
        gc.collect()
        if on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        before = (torch.cuda.memory_allocated(), torch.cuda.memory_reserved()) if on_gpu else (0, 0)
        synchronize(args)
        started = time.perf_counter()
        if kind == "load_into":
            sllm_gds.load_into(args.directory, parameters)
        else:
            for name, tensor in sllm_gds.stream(args.directory, args.device, args.window_bytes):
                parameters[name].copy_(tensor, non_blocking=True)
        synchronize(args)
        answer = {"elapsed_s": time.perf_counter() - started, "bytes": nbytes, "largest_bytes": largest}
        if on_gpu:
            answer["peak_beside_bytes"] = torch.cuda.max_memory_allocated() - before[0]
            answer["reserved_beside_bytes"] = torch.cuda.max_memory_reserved() - before[1]
        else:
            answer["peak_beside_bytes"] = answer["reserved_beside_bytes"] = 0
        return answer

    return once


def stream_kept(args):
    import sllm_gds

    return timed(args, lambda: dict(sllm_gds.stream(args.directory, args.device, args.window_bytes)))


def theirs(args):
    from safetensors.torch import load_file

    return timed(args, lambda: {name: tensor for path in shards(args.directory) for name, tensor in load_file(path, device=args.device).items()})


def prefetched(args):
    import contextlib

    import safetensors
    import torch  # noqa: F401

    if not hasattr(safetensors.safe_open, "prefetch"):
        raise ImportError(f"safetensors {safetensors.__version__} has no prefetch: name a folder with 0.9 by --safetensors-next")
    tensors = {}
    with contextlib.ExitStack() as stack:
        loading = []
        for path in shards(args.directory):
            file = safetensors.safe_open(path, framework="pt", device=args.device, backend="mmap")
            loading.append(stack.enter_context(stack.enter_context(file).prefetch(threads=8)))
        for loader in loading:
            tensors.update(loader)
    return tensors


def model(args, kind):
    import concurrent.futures
    import hashlib

    import torch
    import transformers

    import sllm_gds.transformers as ours_of

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    auto = transformers.AutoModelForCausalLM

    def made():
        if kind == "ours":
            return ours_of.from_pretrained(auto, args.directory, device=args.device)
        if kind == "theirs":
            if transformers.utils.is_accelerate_available():
                return auto.from_pretrained(args.directory, device_map=args.device)
            return auto.from_pretrained(args.directory).to(args.device)
        config = transformers.AutoConfig.from_pretrained(args.directory)
        memory = ours_of.Torch(args.device)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            loading = pool.submit(prefetched, args)
            built = ours_of._build(auto, config, config.dtype, memory)
            state = loading.result()
        if not ours_of._fits(built, state) or not ours_of._assign(built, state, memory):
            raise RuntimeError("the names in the files are not the model's")
        return built.eval()

    def once():
        synchronize(args)
        started = time.perf_counter()
        ready = made()
        synchronize(args)
        elapsed_s = time.perf_counter() - started
        with torch.no_grad():
            started = time.perf_counter()
            logits = ready(torch.arange(1, 17, device=args.device)[None]).logits[0, -1].float().cpu().numpy()
            first_token_s = time.perf_counter() - started
        nbytes = sum(tensor.nbytes for tensor in ready.parameters())
        return {"elapsed_s": elapsed_s, "bytes": nbytes, "first_token_s": first_token_s, "logits": hashlib.sha256(logits.tobytes()).hexdigest()[:16]}

    return once


LOADS = {
    "command": command,
    "own memory": own_memory,
    "load_file": ours,
    "load_file by shard": lambda args: ours(args, by_shard=True),
    "load_into": lambda args: existing(args, "load_into"),
    "stream": lambda args: existing(args, "stream"),
    "stream kept": stream_kept,
    "safetensors load_file": theirs,
    "safetensors prefetch": lambda args: timed(args, lambda: prefetched(args)),
    "model by sllm_gds": lambda args: model(args, "ours"),
    "model by prefetch": lambda args: model(args, "prefetch"),
    "model by from_pretrained": lambda args: model(args, "theirs"),
    "small model": ours,
    "small model in own memory": own_memory,
    "small model again": ours,
    "small model by step": by_step,
}

if __name__ == "__main__":
    sys.exit(main())
