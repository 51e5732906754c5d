"""What links.sh measured, as a Markdown table: python3 links-table.py OUT_DIR"""
import json, random, statistics, sys

WANTED = {
    ("one GPU", "all", "pool"): 1.92, ("one GPU", "all", "page cache"): 1.68,
    ("balanced", "auto", "pool"): 1.94, ("balanced", "auto", "page cache"): 1.68,
    ("replicate", "auto", "pool"): 1.90, ("replicate", "auto", "page cache"): 1.60,
}
out = sys.argv[1]
lines = [json.loads(line) for line in open(f"{out}/links.jsonl") if line.startswith("{")]
copies = {line["turn"]: line["gb_per_s"] for line in lines if line["what"] == "pinned copy"}
rows = {}
for line in lines:
    if line["what"] != "pinned copy" and line["turn"] > 0:
        rows.setdefault((line["what"], line["links"], line["source"]), []).append(line)


def interval(values):
    dice = random.Random(1)
    medians = sorted(statistics.median(dice.choices(values, k=len(values))) for _ in range(2000))
    return medians[50], medians[1949]


turns = max(copies)
print(f"Median of {turns} turns, of the ratio to a plain pinned copy to one GPU in the same turn ({statistics.median(copies.values()):.1f} GB/s), with its 95 % bootstrap")
print("interval; by `transfer_s`, and beside it by the seconds of the whole call. A replicated load's bytes count once.\n")
print("| into | over | from | GB/s | over a pinned copy | at least | reached | by the whole call | passed on |")
print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
for key, loads in rows.items():
    what, links, source = key
    rate = lambda load, clock: load["bytes"] / load[clock] / 1e9
    ratios = [rate(load, "transfer_s") / copies[load["turn"]] for load in loads]
    whole = [rate(load, "call_s") / copies[load["turn"]] for load in loads]
    low, high = interval(ratios)
    middle = statistics.median(ratios)
    wanted = WANTED.get(key)
    reached = "" if wanted is None else "yes" if middle >= wanted else "NO"
    passed = sum(link["passed_on_bytes"] for load in loads for link in load["carried"])
    carried = sum(link["bytes"] for load in loads for link in load["carried"])
    share = f"{passed / carried:.2f}" if carried else ""
    speed = statistics.median(rate(load, "transfer_s") for load in loads)
    print(f"| {what} | {links} | {source} | {speed:.1f} | {middle:.3f} ({low:.3f} to {high:.3f}) | {wanted or ''} | {reached} | {statistics.median(whole):.3f} | {share} |")
