#!/usr/bin/env bash
# `qualify` several times on one machine, and whether it says the same each time; then with reads held back, and against
# floors that nothing reaches: both must fail.
#   benchmarks/qualify.sh OUT_DIR [DIRECTORY]
# DIRECTORY is what is measured [a RAM-backed device, which it mounts as root]; RUNS [3], PROFILE [none], HELD [1.5e9 bytes/s, with a profile]
# and GB_PER_S [70] of the floors change it. Wants a machine on which nothing else runs; HELD a cgroup with io.max or blkio.
# OUT_DIR gets a results directory and page.txt a run, log.txt and table.txt. Ends with 1 where a verdict is not as expected.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "$0")/common.sh"
path=${2:-}
[ -n "$path" ] || { mount_fast && path=$fast; }
profile=()
[ -z "${PROFILE:-}" ] || profile=(--profile "$PROFILE")
rm -rf "$out"/run-* "$out"/held "$out"/raised

qualify() { # run, more arguments
  local run=$1 code=0
  shift
  mkdir -p "$out/$run"
  "$program" qualify --path "$path" --results "$out/$run" "$@" >"$out/$run/page.txt" 2>>"$log" || code=$?
  say "$run: exit code $code, $(head -n 1 "$out/$run/page.txt")"
}
say "$("$program" --version), load average $(cut -d' ' -f1-3 /proc/loadavg)"
for run in $(seq "${RUNS:-3}"); do qualify "run-$run" "${profile[@]}"; done

short=(--duration 20s --size 2GiB)
if [ -z "${PROFILE:-}" ]; then
  say "not held back: without a profile's floors no rate of a drive is judged"
elif hold_group; then
  hold_to "$(device_of "$path")" "$(printf '%.0f' "${HELD:-1.5e9}")"
  held qualify held "${short[@]}" "${profile[@]}"
else
  say "no cgroup here can hold reads back: neither io.max nor blkio"
fi
sed 's/^floor_gb_per_s = .*/floor_gb_per_s = '"${GB_PER_S:-70}"'/' "$here/../profiles/h200-pcie5.toml" >"$out/raised.toml"
qualify raised "${short[@]}" --profile "$out/raised.toml"
python3 "$here/qualify-table.py" "$out" | tee "$out/table.txt"
exit "${PIPESTATUS[0]}"
