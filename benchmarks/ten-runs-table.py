"""The table of ten-runs.sh, and whether its runs say the same. Argument: its output directory."""

import glob
import json
import statistics
import sys

BASELINE = "safetensors"
LIMIT = 0.15

out = sys.argv[1]


def records(run):
    """The records of one run by format, in turns."""
    found = {}
    for path in glob.glob(f"{run}/*_c*.json") + glob.glob(f"{run}/*_random.json"):
        with open(path) as file:
            for record in json.load(file):
                found.setdefault(record["format"], []).append(record)
    return found


def seconds(loads):
    """The times of loads that went well, by turn."""
    return {r["iteration"]: r["loading_time"] for r in loads if not r.get("error") and "loading_time" in r}


def line(*cells):
    print("| " + " | ".join(cells) + " |")


runs = sorted(glob.glob(f"{out}/run-*"), key=lambda path: int(path.rsplit("-", 1)[1]))
medians, ratios, faster = {}, {}, set()
line("run", "format", "median s", "slowest s", "transfer s, slowest", "loads", "times as fast, by turn", "faster")
line(*["---"] * 8)
for run in runs:
    by_format = records(run)
    baseline = seconds(by_format.get(BASELINE, []))
    for form, loads in sorted(by_format.items()):
        times = seconds(loads)
        if not times:
            sys.exit(f"{run}: no load of {form} went well: {loads[0].get('error')}")
        medians.setdefault(form, []).append(statistics.median(times.values()))
        transfer = max((r.get("phases") or {}).get("transfer_s", 0.0) for r in loads)
        ratio, who = "", ""
        if form != BASELINE and baseline:
            ratios.setdefault(form, []).append(
                statistics.median(baseline[turn] / times[turn] for turn in times if turn in baseline)
            )
            who = form if ratios[form][-1] > 1 else BASELINE
            faster.add((form, who))
            ratio = f"{ratios[form][-1]:.2f}"
        name = run.rsplit("-", 1)[1]
        count = str(len(times)) if len(times) == len(loads) else f"{len(times)} of {len(loads)}"
        line(name, form, f"{medians[form][-1]:.4f}", f"{max(times.values()):.4f}", f"{transfer:.4f}", count, ratio, who)

print()
good = True
for what, figures in [("median s of", medians), ("times as fast, by turn,", ratios)]:
    for form, values in sorted(figures.items()):
        middle = statistics.median(values)
        far = max(abs(value / middle - 1) for value in values)
        good &= far <= LIMIT
        verdict = "within" if far <= LIMIT else "NOT within"
        print(
            f"{what} {form}: {middle:.4f} in the middle of {len(values)} runs, {min(values):.4f} to {max(values):.4f}; "
            f"the farthest is {far:.1%} off, {verdict} {LIMIT:.0%}"
        )
for form in sorted(ratios):
    names = sorted(who for other, who in faster if other == form)
    good &= len(names) == 1
    print(f"faster of {form} and {BASELINE}: {' or '.join(names)} in {'all' if len(names) == 1 else 'some'} runs")
sys.exit(0 if good else 1)
