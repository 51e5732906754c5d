#!/usr/bin/env bash
# Ten runs of one bench, each after ten idle seconds, and whether they say the same.
#   benchmarks/ten-runs.sh OUT_DIR [COMMAND…]
# COMMAND is a bench by the program's own words [bench --mode cached]; RUNS and IDLE_S change the tens. Wants a machine on
# which nothing else runs. OUT_DIR gets a results directory a run, log.txt and table.txt.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "$0")/common.sh"
shift
rm -rf "$out"/run-* # as above
[ $# -gt 0 ] || set -- bench --mode cached
say "$* ($("$program" --version)), load average $(cut -d' ' -f1-3 /proc/loadavg)"
for run in $(seq "${RUNS:-10}"); do
  sleep "${IDLE_S:-10}"
  # What it says stands in its records; a load that failed is one of them, and the table names it.
  "$program" "$@" --results "$out/run-$run" >>"$log" 2>&1 || say "run $run ended with exit code $?"
  say "run $run done, load average $(cut -d' ' -f1 /proc/loadavg)"
done
python3 "$here/ten-runs-table.py" "$out" | tee "$out/table.txt"
