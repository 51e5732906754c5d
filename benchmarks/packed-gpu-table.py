#!/usr/bin/env python3
"""The table of packed-gpu.sh, from its directory of results."""

import csv
import json
import statistics
import sys
from pathlib import Path

out = Path(sys.argv[1])


def rows_of_json(path):
    return [json.loads(line) for line in path.read_text().splitlines() if line.startswith("{")]


def loads(run, name):
    """Loads by turn: seconds, decoded and read bytes. All must be right."""
    found = []
    for path in sorted((out / run).glob("*.json")):
        records = json.loads(path.read_text())
        if isinstance(records, list):
            found += [record for record in records if record["format"] == name]
    wrong = [record for record in found if record.get("error") or not record.get("verified")]
    if wrong:
        sys.exit(f"{run}, {name}: {len(wrong)} loads failed or were not verified")
    return {record["iteration"]: record for record in found}


copies = rows_of_json(out / "ceiling.jsonl")
copy_gb_per_s = statistics.median(row.get("gb_per_s") or row["median_gb_per_s"] for row in copies)
print(f"Packed beside unpacked, in turns, verified; a pinned copy: {copy_gb_per_s:.2f} GB/s (10^9 bytes a second)\n")
print("| case | measured | value | at least |\n| --- | --- | --- | --- |")
for run, case, wanted in (("warm", "page cache warm", 1.42), ("pool", "pool", 1.42), ("cold", "cold, fast device", 1.40)):
    plain, packed = loads(run, "sllm"), loads(run, "sllm-packed")
    turns = sorted(plain.keys() & packed.keys())
    ratio = statistics.median(plain[turn]["loading_time"] / packed[turn]["loading_time"] for turn in turns)
    rates = [statistics.median(r["bytes"] / r["loading_time"] / 1e9 for r in of.values()) for of in (packed, plain)]
    first = packed[turns[0]]
    read = first["read_bytes"] / first["bytes"]
    path = first["path"]
    print(f"| {case}, {len(turns)} turns, {path} | {rates[0]:.1f} GB/s unpacked over {rates[1]:.1f}; {read:.3f} of the bytes read | {ratio:.2f} | {wanted} |")
    if run == "warm":
        print(f"| the same over a pinned copy | {rates[0]:.1f} GB/s over {copy_gb_per_s:.1f} | {rates[0] / copy_gb_per_s:.2f} | 1.35 |")

kernel = out / "kernel.csv"
lines = [line for line in kernel.read_text().splitlines() if line.startswith('"')] if kernel.exists() else []
if lines:
    units = {"nsecond": 1e-9, "ns": 1e-9, "usecond": 1e-6, "us": 1e-6, "msecond": 1e-3, "ms": 1e-3}
    times = [row for row in csv.DictReader(lines) if row["Metric Name"] == "gpu__time_duration.sum"]
    seconds = sum(float(row["Metric Value"].replace(",", "")) * units[row["Metric Unit"]] for row in times)
    unpacked = json.loads((out / "kernel.json").read_text())["saved"][0]["unpacked_bytes"]
    if seconds:
        print(f"| decode kernel alone, as a load launches it, {len(times)} launches (ncu) | {unpacked / 1e9:.2f} GB unpacked in {seconds * 1e3:.2f} ms | {unpacked / seconds / 1e9:.0f} GB/s | 1000 |")

product = out / "product.json"
if product.exists() and product.read_text().strip():
    turns = json.loads(product.read_text())["turns"]
    slower = statistics.median(turn["product_beside_ms"] / turn["product_ms"] for turn in turns) - 1
    alone, beside = (statistics.median(turn[key] for turn in turns) for key in ("load_s", "load_beside_s"))
    print(f"| a bf16 product of 8192³ in the process meanwhile, slower by | load {alone:.3f} s alone, {beside:.3f} s beside it | {slower:.1%} | at most 10 % |")
