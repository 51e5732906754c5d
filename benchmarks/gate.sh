#!/usr/bin/env bash
# The gate of `analyze --max-regression` against a device that is really slower: cold loads of one build, twice as the disk is
# and once where a cgroup holds its reads to a share of what the first reached. Plain against plain must pass, held back
# must fail.
#   benchmarks/gate.sh OUT_DIR
# MODEL [synthetic:facebook/opt-6.7b@0.125], LOADS [15], STORAGE [OUT_DIR/models], SHARE [0.78] and LIMIT [10%] change it. BASE holds
# the plain runs to so many bytes/s, too: a device that others use is steady then, and one that is over in a tenth of a second is
# slow enough for the kernel to hold it back.
# Wants root, a cgroup controller of block devices (io.max, or blkio of version 1), and a disk that nothing else uses.
# OUT_DIR gets a results directory a run, log.txt and gate.txt. Ends with 1 where the gate says anything else.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "$0")/common.sh"
model=${MODEL:-synthetic:facebook/opt-6.7b@0.125}
storage=${STORAGE:-$out/models}
mkdir -p "$storage"
device=$(device_of "$storage")
hold_group || {
  echo "no cgroup here can hold reads back: neither io.max nor blkio" >&2
  exit 2
}

# shellcheck disable=SC2329 # `held` calls it
bench() {
  "$program" bench --model "$model" --mode cached --cold --replicas "${LOADS:-15}" --formats sllm --storage-path "$storage" \
    --results "$out/$1" >>"$log" 2>&1
  say "$1 done, load average $(cut -d' ' -f1 /proc/loadavg)"
}
for run in plain-1 plain-2 throttled; do rm -rf "${out:?}/$run"; done
say "$("$program" --version), $model, device $device"
[ -z "${BASE:-}" ] || hold_to "$device" "$(printf '%.0f' "$BASE")"
held bench plain-1
held bench plain-2
rate=$("$program" analyze "$out/plain-1" --json --fail-on none 2>>"$log" | python3 -c \
  'import json, sys; group = json.load(sys.stdin)["groups"][0]; print(int(group["gb_per_s"] * group["mean_s"] / group["p50_s"] * 1e9))')
limit=$(awk -v r="$rate" -v s="${SHARE:-0.78}" 'BEGIN {printf "%d", r * s}')
say "$knob of $limit bytes/s, ${SHARE:-0.78} of the $rate that plain-1 reached by its median"
hold_to "$device" "$limit"
held bench throttled

gate() { # expected code, run
  local code=0
  echo "analyze $2 --baseline plain-1 --max-regression ${LIMIT:-10%}"
  (cd "$out" && "$program" analyze "$2" --baseline plain-1 --max-regression "${LIMIT:-10%}" --table comparison 2>&1) || code=$?
  echo "exit code $code, expected $1"
  echo
  [ "$code" = "$1" ]
}
as_expected=0
{
  echo "reads of throttled held to $limit bytes/s, ${SHARE:-0.78} of what plain-1 reached"
  echo
  gate 0 plain-2 || as_expected=1
  gate 1 throttled || as_expected=1
} >"$out/gate.txt"
cat "$out/gate.txt"
exit "$as_expected"
