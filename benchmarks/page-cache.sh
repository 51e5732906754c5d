#!/usr/bin/env bash
# What the choice between the page cache and O_DIRECT buys: a load by each way, with the files out of the
# page cache, half in it, and in it. Ways take turns, so that drift of the drive hits all of them.
#   benchmarks/page-cache.sh [rounds] [model] [storage path]
set -euo pipefail
rounds=${1:-5} model=${2:-synthetic:facebook/opt-6.7b@0.13} storage=${3:-./models}
# shellcheck source-path=SCRIPTDIR source=program.sh
source "$(dirname "$0")/program.sh"
name=page-cache-test # stays, for the next time
[ -d "$storage/$name" ] || "$program" save --model "$model" --storage-path "$storage" --name "$name"
files=("$storage/$name"/tensor.data_*)

evict() { for f in "${files[@]}"; do dd if="$f" iflag=nocache count=0 status=none; done; }
prepare() { # prepare STATE
  evict
  case $1 in
  warm) cat "${files[@]}" >/dev/null ;;
  half) for f in "${files[@]}"; do dd if="$f" of=/dev/null bs=16M count=$(($(stat -c %s "$f") / 2 / 16777216)) status=none; done ;;
  esac
}

declare -A rates
for round in $(seq "$rounds"); do
  for state in cold half warm; do
    for io in auto direct buffered; do
      prepare $state
      # In virtual machines fresh memory is slow at first touch: an unmeasured direct load, which leaves the page
      # cache alone, brings it in.
      "$program" load "$name" --storage-path "$storage" --gpus none --io direct --json >/dev/null
      rate=$("$program" load "$name" --storage-path "$storage" --gpus none --io $io --json | sed -n 's/ *"gb_per_s": \([0-9.]*\).*/\1/p')
      rates[$state,$io]+="$rate "
    done
  done
  echo "round $round of $rounds" >&2
done

median() { tr ' ' '\n' <<<"$1" | sed '/^$/d' | sort -g | awk '{v[NR]=$1} END {print (NR%2) ? v[(NR+1)/2] : (v[NR/2]+v[NR/2+1])/2}'; }
echo "GB/s, median of $rounds"
printf '%-6s %8s %8s %8s\n' cache auto direct buffered
for state in cold half warm; do
  printf '%-6s %8.2f %8.2f %8.2f\n' $state "$(median "${rates[$state,auto]}")" "$(median "${rates[$state,direct]}")" "$(median "${rates[$state,buffered]}")"
done
