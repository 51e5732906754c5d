#!/usr/bin/env python3
"""Makes up the results of a fleet, to try and to time `sllm-gds analyze` on.

    python3 benchmarks/make-fleet.py OUT [--hosts 10000] [--loads 100] [--seed 0] [--flat]
    sllm-gds analyze OUT

Each node gets a folder as `bench` would leave it: environment.json, and a result file for each of two models and
two formats, with a quarter of its loads in each. With --flat all lie in one folder. One node in a hundred is slow
(its GPU's link has lost lanes), one in two hundred too (an old driver), one in five hundred fails a tenth of its
loads, one in a thousand has no results but for its description. The same seed gives the same bytes.
OUT/../OUT.truth.json tells which node has which fault. Times are invented: they show the analyzer, no machine.
"""

import argparse
import json
import pathlib
import random

MODELS = [("facebook/opt-6.7b", 13_316_947_968, 25.0), ("meta-llama/Meta-Llama-3-8B", 16_060_522_496, 26.0)]
FORMATS = [("sllm", "auto", 1.0), ("safetensors", "baseline-python", 0.19)]
# One in so many nodes, and how many times as long its loads take.
FAULTS = {"link": (100, 3.8), "driver": (200, 1.35), "failing": (500, 1.0), "silent": (1000, 1.0)}


def environment(run_id, node, fault, dice):
    return {run_id: {
        "program": {"name": "sllm-gds", "version": "0.1.0", "commit": "0000000"},
        "command": ["sllm-gds", "bench", "--results", "OUT"],
        "host": node,
        "kernel": "6.8.0-45-generic",
        "os": "Ubuntu 24.04.3 LTS",
        "cpu": {"model": "Intel(R) Xeon(R) Platinum 8480+", "threads": 224},
        "virtual_machine": False,
        "memory_bytes": 2_164_123_844_608 + 4096 * dice.randrange(2000),
        "gpus": [{
            "name": "NVIDIA H100 80GB HBM3",
            "uuid": f"GPU-{dice.getrandbits(32):08x}",
            "memory_bytes": 85_520_809_984,
            "link": "PCIe 5 x4" if fault == "link" else "PCIe 5 x16",
        }],
        "nvidia_driver": "550.54.15" if fault == "driver" or dice.random() < 0.002 else "580.159.04",
        "storage": {
            "file_system": "ext4",
            "device": "nvme0n1",
            "model": "NVME DRIVE A" if dice.random() < 0.7 else "NVME DRIVE B",
            "scheduler": "[none] mq-deadline",
        },
        "notes": [],
        "context_s": round(dice.uniform(0.2, 0.5), 6),
    }}


# As bench writes a record, with what changes from load to load left open.
RECORD = """  {
    "model_name": "%s_%d",
    %s
    "format": "%s",
    "mode": "random",
    "engine": "%s",
    "path": "pinned-direct",
    "path_reason": "the page cache held too little of any range",
    "bytes": %d,
    "gpus": [
      "0"
    ],
    "replica": %d,
    "iteration": %d,
    "started_at_s": %.3f,
    "phases": {
      "open_s": 0.000180649,
      "plan_s": 3.766e-6,
      "allocate_s": 0.000917617,
      "register_s": 0.002349031,
      "transfer_s": %.9f
    },
    "resident_before": 0.0,
    "cache_state": "cold",
    "meant_cold": true,
    "verified": true,
    "verify_s": 0.024122303,
    "chunk_bytes": 4194304,
    "threads": 12,
    "run_id": "%s"
  }"""


def result(model, size, format_name, engine, count, median_s, fault, run_id, started_s, dice):
    records = []
    for iteration in range(count):
        time_s = median_s * dice.gauss(1.0, 0.01) * (1.5 if dice.random() < 0.01 else 1.0)
        failed = fault == "failing" and iteration % 10 == 3
        outcome = '"error": "read: Input/output error (os error 5)",' if failed else f'"loading_time": {time_s:.9f},'
        records.append(RECORD % (model, iteration, outcome, format_name, engine, size, iteration, iteration,
                                 started_s + iteration, time_s, run_id))
    return "[\n" + ",\n".join(records) + "\n]\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--hosts", type=int, default=10_000)
    parser.add_argument("--loads", type=int, default=100, help="of each node")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--flat", action="store_true", help="all nodes in one folder")
    args = parser.parse_args()

    truth, flat = {}, {}
    count = max(1, args.loads // (len(MODELS) * len(FORMATS)))
    for index in range(args.hosts):
        dice = random.Random(f"{args.seed}-{index}")
        node = f"node-{index:05}"
        # Each fault hits its share of the nodes, spread over the fleet; the rarest first.
        hit = [name for name, (every, _) in reversed(FAULTS.items()) if index % every == every // 3]
        fault = hit[0] if hit else None
        if fault:
            truth[node] = fault
        run_id = f"{1_795_500_000_000 + index * 1000}-{1000 + index % 60000}"
        described = environment(run_id, node, fault, dice)
        folder = args.out if args.flat else args.out / node
        folder.mkdir(parents=True, exist_ok=True)
        if args.flat:
            flat.update(described)
        else:
            (folder / "environment.json").write_text(json.dumps(described, indent=2) + "\n")
        if fault == "silent":
            continue
        slower = FAULTS[fault][1] if fault else 1.0
        for model, size, gb_per_s in MODELS:
            for format_name, engine, share in FORMATS:
                # Nodes differ by 2 %.
                median_s = size / 1e9 / gb_per_s / share * dice.gauss(1.0, 0.02) * slower
                text = result(model, size, format_name, engine, count, median_s, fault, run_id, 1.7955e9 + index, dice)
                prefix = f"{node}_" if args.flat else ""
                name = f"{prefix}{model.replace('/', '_')}_{format_name}_{count}_random.json"
                (folder / name).write_text(text)
    if args.flat:
        (args.out / "environment.json").write_text(json.dumps(flat, indent=2) + "\n")
    args.out.with_name(args.out.name + ".truth.json").write_text(json.dumps(truth, indent=2) + "\n")
    print(f"{args.hosts} nodes, {count * len(MODELS) * len(FORMATS)} loads each, {len(truth)} with a fault: {args.out}")


if __name__ == "__main__":
    main()
