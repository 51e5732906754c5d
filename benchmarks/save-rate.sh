#!/usr/bin/env bash
# The rate of `save` against that of `dd oflag=direct` on the same file system, in turns.
#   benchmarks/save-rate.sh [rounds] [model] [storage path]
set -euo pipefail
rounds=${1:-7} model=${2:-synthetic:facebook/opt-6.7b@0.125} storage=${3:-./models}
# shellcheck source-path=SCRIPTDIR source=program.sh
source "$(dirname "$0")/program.sh"
mkdir -p "$storage"
scratch=$storage/dd-scratch
trap 'rm -rf "$scratch" "$storage/save-rate-test"' EXIT

save() { rm -rf "$storage/save-rate-test"; "$program" save --model "$model" --storage-path "$storage" --name save-rate-test --json | sed -n 's/ *"'"$1"'": \([0-9.e-]*\),*/\1/p'; }
bytes=$(save bytes)
saves="" dds=""
for _ in $(seq "$rounds"); do
  sync
  start=$(date +%s.%N)
  dd if=/dev/zero of="$scratch" bs=16M count=$((bytes / 16777216)) oflag=direct conv=fsync status=none
  end=$(date +%s.%N)
  rm -f "$scratch"
  dds+="$(awk -v b=$((bytes / 16777216 * 16777216)) -v s="$start" -v e="$end" 'BEGIN {print b / (e - s) / 1e9}') "
  sync
  saves+="$(save gb_per_s) "
done
median() { tr ' ' '\n' <<<"$1" | sed '/^$/d' | sort -g | awk '{v[NR]=$1} END {print (NR%2) ? v[(NR+1)/2] : (v[NR/2]+v[NR/2+1])/2}'; }
awk -v s="$(median "$saves")" -v d="$(median "$dds")" -v b="$bytes" -v n="$rounds" \
  'BEGIN {printf "%d bytes, median of %d: save %.2f GB/s, dd oflag=direct %.2f GB/s, ratio %.2f\n", b, n, s, d, s / d}'
