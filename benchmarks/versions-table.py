"""What versions.sh measured, as a Markdown table: python3 versions-table.py OUT_DIR"""
import glob, json, random, statistics, sys

out = sys.argv[1]
rows, failed = {}, []
for line in open(f"{out}/turns.jsonl"):
    if not line.strip():
        continue
    one = json.loads(line)
    rows.setdefault(one["row"], {}).setdefault(one["turn"], {})[one["build"]] = one
for path in sorted(glob.glob(f"{out}/pool-*")):
    _, build, turn = path.rsplit("/", 1)[1].split("-")
    for file in glob.glob(f"{path}/*_cached.json"):
        loads = [record for record in json.load(open(file)) if record.get("error") is None]
        elapsed_s = statistics.median(record["loading_time"] for record in loads)
        rows.setdefault("pool", {}).setdefault(int(turn), {})[build] = {"elapsed_s": elapsed_s, "bytes": loads[0]["bytes"], "path": loads[-1]["path"]}


def interval(ratios):
    dice = random.Random(1)
    medians = sorted(statistics.median(dice.choices(ratios, k=len(ratios))) for _ in range(2000))
    return medians[50], medians[1949]


print("Rates before and after are medians; the ratio is the median over turns of after to before, with its 95 % bootstrap interval.\n")
print("| row | path | before GB/s | after GB/s | after / before | turns |\n| --- | --- | --- | --- | --- | --- |")
for name, turns in rows.items():
    both = [turn for turn in turns.values() if len(turn) == 2]
    if not both:
        print(f"| {name} | a build did not load it | | | | 0 |")
        continue
    ratios = [turn["before"]["elapsed_s"] / turn["after"]["elapsed_s"] for turn in both]
    rate = lambda build: statistics.median(turn[build]["bytes"] / turn[build]["elapsed_s"] / 1e9 for turn in both)
    low, high = interval(ratios)
    middle = statistics.median(ratios)
    print(f"| {name} | {both[-1]['after']['path']} | {rate('before'):.2f} | {rate('after'):.2f} | {middle:.3f} ({low:.3f} to {high:.3f}) | {len(both)} |")


def lines(file):
    try:
        return [json.loads(line) for line in open(f"{out}/{file}") if line.strip()]
    except FileNotFoundError:
        return []


whole = None
for file, title in [("whole.jsonl", "one loader, the 8B model"), ("slices.jsonl", "one loader, halves of it"), ("many.jsonl", "one loader, 311,040 tensors"), ("kept.jsonl", "one loader, opt-125m")]:
    kinds = {}
    for one in lines(file):
        kinds.setdefault(one["what"], []).append(one)
    if kinds:
        print(f"\n**{title}**: seconds from the call to its return, GB/s of what was read\n\n| what | first load s | later loads s | GB/s | to the 8B model's |\n| --- | --- | --- | --- | --- |")
    for what, loads in kinds.items():
        later = loads[1:] or loads
        rate = statistics.median(one["read_gb_per_s"] for one in later)
        if file == "whole.jsonl":
            whole = rate
        beside = f"{rate / whole:.2f}" if whole else ""
        middle = statistics.median(one["elapsed_s"] for one in later)
        print(f"| {what} | {loads[0]['elapsed_s']:.4f} | {middle:.4f} | {rate:.2f} | {beside} |")
