"""The table of one run of h200.sh. Argument: its output directory."""

import glob
import json
import statistics
import sys

out = sys.argv[1]


def read(name):
    with open(f"{out}/{name}") as file:
        return json.load(file)


def lines(name):
    with open(f"{out}/{name}") as file:
        return [json.loads(line) for line in file]


def records(results, form):
    (path,) = glob.glob(f"{out}/{results}/*_{form}_*_c*.json")
    with open(path) as file:
        found = json.load(file)
    bad = [r for r in found if r.get("error") or r.get("verified") is not True]
    if bad:
        sys.exit(f"{path}: {bad[0].get('error') or 'not verified'}")
    return found


def rate(results, form):
    """Median GB/s."""
    return statistics.median(r["bytes"] / r["loading_time"] / 1e9 for r in records(results, form))


def seconds(results, form):
    return statistics.mean(r["loading_time"] for r in records(results, form))


def environment(results):
    (one,) = read(f"{results}/environment.json").values()
    return one


def row(case, what, value, wanted, good):
    print(f"| {case} | {what} | {value} | {wanted} | {'yes' if good else 'NO'} |")


gpu = environment("warm")["gpus"][0]["name"]
pool_copy = statistics.mean(one["median_gb_per_s"] for one in lines("ceiling-pool.jsonl"))
print(f"{gpu}; GB/s are 10^9 bytes a second; rows with turns: the median of their ratios, a ceiling and a load in each; others: the median load over the mean of two ceilings\n")
print("| case | measured | value | at least | reached |")
print("| --- | --- | --- | --- | --- |")


def ratio(case, got, ceiling, of, value, wanted):
    row(case, f"{got:.2f} GB/s over {of} {ceiling:.2f}", f"{value:.3f}", wanted, value >= wanted)


def turns(case, name, path, of, wanted):
    ceilings, loads = lines(f"ceiling-{name}.jsonl"), lines(f"load-{name}.jsonl")
    bad = [one for one in loads if not one["verified"] or one["path"] != path]
    if bad:
        sys.exit(f"{name}: a load was not verified, or went by {bad[0]['path']}")
    tops = [one["median_gb_per_s"] for one in ceilings]
    gots = [one["gb_per_s"] for one in loads]
    value = statistics.median(got / top for got, top in zip(gots, tops, strict=True))
    ratio(f"{case}, {len(loads)} turns", statistics.median(gots), statistics.median(tops), of, value, wanted)


got = rate("pool", "sllm")
ratio("pool to GPU, 16 GB", got, pool_copy, "a pinned copy's", got / pool_copy, 0.97)
turns("page cache warm to GPU, 16 GB", "warm", "pinned-buffered", "a pinned copy's", 0.94)
turns("the same, safetensors files as they are", "warm-safetensors", "pinned-buffered", "a pinned copy's", 0.94)
turns("cold, fast block device, 16 GB", "cold-fast", "pinned-direct", "raw reads'", 0.97)
turns("cold, the machine's disk, 2.3 GB", "cold-disk", "pinned-direct", "raw reads'", 0.97)
turns("cuFile, compatibility mode, warm", "gds-warm", "gds-compat", "a plain C program's", 0.95)
turns("cuFile, compatibility mode, cold, fast device", "gds-cold", "gds-compat", "a plain C program's", 0.95)
in_process = rate("warm", "sllm")
print(f"| page cache warm to GPU, 16 GB, one process | {in_process:.2f} GB/s over a pinned copy's {pool_copy:.2f} | {in_process / pool_copy:.3f} | | |")
auto, compat = rate("warm", "sllm"), rate("gds", "sllm")
print(f"| what auto takes (the ring) over cuFile, warm, one process | {auto:.2f} GB/s over {compat:.2f} GB/s | {auto / compat:.2f}× | | |")
ready = environment("pool-12GiB")["pool"]["ready_s"]
row("12 GiB pool ready", "seconds", f"{ready:.3f}", "≤ 0.5", ready <= 0.5)
staging = read("verify.json")["staging_bytes"] / 2**20
row("staging memory", "pinned MiB", f"{staging:.0f}", "≤ 256", staging <= 256)
ours, python, rust = seconds("warm", "sllm"), seconds("warm", "safetensors"), seconds("warm-rust", "safetensors")
row("warm, over safetensors in Python", f"{python:.3f} s over {ours:.3f} s", f"{python / ours:.1f}×", "8×", python / ours >= 8)
row("Rust baseline over Python's", f"{rust:.3f} s over {python:.3f} s", f"{rust / python:.2f}", "0.8 to 1.2", 0.8 <= rust / python <= 1.2)
cold_ours, cold_python = seconds("cold-fast", "sllm"), seconds("cold-fast", "safetensors")
print(f"| cold fast device, over safetensors in Python | {cold_python:.3f} s over {cold_ours:.3f} s | {cold_python / cold_ours:.1f}× | | |")
kernel = read("verify.json")["digest_kernel_gb_per_s"]
row("digest kernel", "GB/s of device memory", f"{kernel:.0f}", 1500, kernel >= 1500)
for name in ("verify", "two-balanced", "two-replicate"):
    one = read(f"{name}.json")
    row(f"load --verify, {name}", f"{one['gb_per_s']:.1f} GB/s, {one['path']}", "verified", "verified", one["verified"] is True)

phases = [r["phases"] for r in records("warm", "sllm")]
print("\nWhere the time of a warm load goes (median ms): ", end="")
print(", ".join(f"{k[:-2]} {1e3 * statistics.median(p[k] for p in phases):.1f}" for k in phases[0]))


def settings(name, kind):
    """GB/s by settings of the ring, which took turns."""
    cells = {}
    for one in lines(name):
        key = (one["threads"], one["chunk_bytes"] >> 20, one["copy_bytes"] >> 20, one["ring_mib"])
        cells.setdefault(key, []).append(one["gb_per_s"])
    count = min(len(rates) for rates in cells.values())
    print(f"\n{kind}, by settings of the ring, {count} loads each, in turns (the first line is the default):\n")
    print("| threads | chunk MiB | copy MiB | ring MiB | median GB/s | least | most |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for key, rates in cells.items():
        figures = [statistics.median(rates), min(rates), max(rates)]
        print("| " + " | ".join([*map(str, key), *(f"{rate:.1f}" for rate in figures)]) + " |")


settings("ring-warm.jsonl", "Warm")
settings("ring-cold.jsonl", "Cold, the fast block device")
