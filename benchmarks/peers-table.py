"""The table of one run of peers.sh: our two ways and every peer, warm and cold. Argument: its output directory.

"ratio to ours" is the mean of a system's loads over the mean of our faster way: a slower one is above 1. The verdict
goes by it, and names the ratio to either way: safetensors-direct reads the same files as the peers.
"""

import glob
import json
import os
import statistics
import sys

OURS = ("sllm", "safetensors-direct")
WANTED = 1.4


def records(results):
    """By system, in order of name."""
    found = {}
    for path in sorted(glob.glob(os.path.join(results, "*.json"))):
        if os.path.basename(path) in ("environment.json", "summary.json"):
            continue
        with open(path) as file:
            for record in json.load(file):
                found.setdefault(record["format"], []).append(record)
    return found


def bad(record):
    return record.get("error") or (None if record.get("verified") else "not verified")


def row(*cells):
    print("| " + " | ".join(cells) + " |")


def section(state, results):
    """The rows of one state, fastest first; the verdict of its best peer."""
    systems = records(results)
    good = {system: [r for r in loads if not bad(r)] for system, loads in systems.items()}
    means = {s: statistics.mean(r["loading_time"] for r in loads) for s, loads in good.items() if loads}
    ours = min((means[s] for s in OURS if s in means), default=None)
    for system in sorted(systems, key=lambda s: means.get(s, float("inf"))):
        loads, failed = good[system], [bad(r) for r in systems[system] if bad(r)]
        if not loads:
            row(state, system, "", "", "", "", f"all {len(failed)} loads failed: {failed[0].splitlines()[0][:120]}")
            continue
        times = [r["loading_time"] for r in loads]
        rate = sum(r["bytes"] for r in loads) / sum(times) / 1e9
        ratio = f"{means[system] / ours:.2f}" if ours else ""
        states = {r["cache_state"] for r in loads}
        said = [loads[0]["path"]] + ([] if states == {state} else [f"page cache: {', '.join(sorted(states))}"])
        said += [f"{len(failed)} failed: {failed[0].splitlines()[0][:80]}"] if failed else []
        cells = f"{means[system]:.3f}", f"{statistics.median(times):.3f}", f"{rate:.2f}", ratio, "; ".join(said)
        row(state, system, *cells)
    peers = {s: mean for s, mean in means.items() if s not in OURS}
    if not peers or not ours:
        return f"- {state}: nothing to compare"
    peer = min(peers, key=peers.get)
    ratio = peers[peer] / ours
    missing = sorted(set(systems) - set(means))
    without = f" (without {', '.join(missing)}: every load failed)" if missing else ""
    verdict = "reached" if ratio >= WANTED else "NOT reached"
    each = " and ".join(f"{peers[peer] / means[s]:.2f} times {s}'s" for s in OURS if s in means)
    return f"- {state}: best peer {peer}, its mean is {each}; {WANTED} is {verdict}{without}"


def versions(results):
    with open(os.path.join(results, "environment.json")) as file:
        (environment,) = json.load(file).values()
    said = [f"{name} {peer[name]}" for name, peer in sorted(environment.get("peers", {}).items())]
    python = environment.get("python", {})
    said += [f"safetensors {python['safetensors']}, torch {python['torch']}"] if python else []
    gpus = environment["gpus"]
    return f"{gpus[0]['name'] if isinstance(gpus, list) else 'host memory'}; {', '.join(said)}"


out = sys.argv[1]
states = [s for s in ("warm", "cold") if os.path.isfile(os.path.join(out, s, "environment.json"))]
if not states:
    sys.exit(f"{out} holds no results")
print(f"{versions(os.path.join(out, states[0]))}. Times are means and medians of verified loads, GB are 10^9 bytes.\n")
row("page cache", "system", "mean s", "median s", "GB/s", "ratio to ours", "by way of")
row(*["---"] * 7)
verdicts = [section(state, os.path.join(out, state)) for state in states]
print()
print("\n".join(verdicts))
