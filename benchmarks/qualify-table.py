#!/usr/bin/env python3
"""What several runs of `qualify` on one machine said, side by side. Called by qualify.sh with its directory of results."""

import json
import sys
from pathlib import Path

out = Path(sys.argv[1])


def told(name):
    path = out / name / "qualify.json"
    return json.loads(path.read_text()) if path.exists() else {"verdict": "no result", "why": "", "criteria": []}


runs = sorted((path.name for path in out.glob("run-*") if path.is_dir()), key=lambda name: int(name.split("-")[1]))
runs = {name: told(name) for name in runs}
others = {name: told(name) for name in ("held", "raised") if (out / name).is_dir()}
columns = runs | others

rows = []
for result in columns.values():
    for criterion in result["criteria"]:
        row = (criterion["what"], criterion["of"])
        if row not in rows:
            rows.append(row)

print(f"| criterion | {' | '.join(columns)} |")
print("| --- |" + " --- |" * len(columns))
print(f"| **verdict** | {' | '.join(result['verdict'] for result in columns.values())} |")
for what, of in rows:
    cells = []
    for result in columns.values():
        found = [c for c in result["criteria"] if (c["what"], c["of"]) == (what, of)]
        cells.append(f"{found[0]['measured']}, {found[0]['judged']}" if found else "")
    print(f"| {what}, {of} | {' | '.join(cells)} |")
print()
verdicts = {result["verdict"] for result in runs.values()}
same = len(verdicts) == 1
print(f"{len(runs)} runs: {'all say ' + verdicts.pop() if same else 'NOT ALL say the same'}")
failed = all(result["verdict"] == "failed" for result in others.values())
if others:
    print(f"{' and '.join(others)}: {'failed, as expected' if failed else 'NOT all failed'}")
sys.exit(0 if same and failed else 1)
