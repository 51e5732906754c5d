#!/usr/bin/env bash
# Two builds of sllm-gds in turns, row by row: is the second as fast as the first? Wants an NVIDIA GPU (with two, loads to
# both are rows, too), root (a RAM-backed block device, dropping caches), 100 GB of memory, python3 with numpy.
#   SLLM_GDS=AFTER benchmarks/versions.sh OUT_DIR BEFORE      turns.jsonl and table.md go to OUT_DIR
# With the example `slices` beside AFTER, slices, a loader that is kept, and 311,040 small tensors are measured by it.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "$0")/common.sh"
before=$(readlink -f "$2")
slices=$(dirname "$program")/slices
model=synthetic:meta-llama/Meta-Llama-3-8B # 16.06 GB
mount_fast
tell_udev
# What the first build writes both must read.
"$before" bench --model $model --storage-path $fast --gpus 0 --formats sllm --replicas 1 --no-verify --results "$out/made" >>"$log" 2>&1
m=$fast/synthetic/meta-llama/Meta-Llama-3-8B_0
"$program" export $m --to $fast/st >>"$log"
"$before" save --model synthetic:facebook/opt-125m --storage-path $fast --name small >>"$log"
say "saved"
warm() { cat "$@" >/dev/null; }

# A turn of a row: both builds load once, the second first in every other turn.
row() { # row COUNT NAME cold|warm FILES… -- ARGUMENTS…
  local count=$1 name=$2 state=$3 files=()
  shift 3
  while [ "$1" != -- ]; do files+=("$1"); shift; done
  shift
  [ "$state" = cold ] || warm "${files[@]}"
  for turn in $(seq "$count"); do
    local order=(before after)
    [ $((turn % 2)) = 0 ] || order=(after before)
    for which in "${order[@]}"; do
      local binary=$program
      [ "$which" = after ] || binary=$before
      [ "$state" = warm ] || evict "${files[@]}"
      "$binary" load "$@" --json 2>>"$log" | tr -d '\n' |
        sed "s/^{/{\"row\": \"$name\", \"turn\": $turn, \"build\": \"$which\", /" >>"$out/turns.jsonl"
      echo >>"$out/turns.jsonl"
    done
  done
  say "$name"
}
ours=("$m"/tensor.data_*)
shards=("$fast"/st/*.safetensors)
row 9 warm warm "${ours[@]}" -- $m --gpus 0
row 9 warm-safetensors warm "${shards[@]}" -- $fast/st --gpus 0
row 25 small warm "$fast"/small/tensor.data_0 -- $fast/small --gpus 0
row 7 host warm "${ours[@]}" -- $m --gpus none
row 7 compat warm "${ours[@]}" -- $m --gpus 0 --engine gds --allow-compat
row 9 one-gpu-twice warm "${ours[@]}" -- $m --gpus 0,0
if [ "$(nvidia-smi -L | wc -l)" -gt 1 ]; then
  row 7 balanced warm "${ours[@]}" -- $m --gpus 0,1
  row 7 replicate warm "${ours[@]}" -- $m --gpus 0,1 --placement replicate
fi
row 7 cold cold "${ours[@]}" -- $m --gpus 0
row 7 cold-safetensors cold "${shards[@]}" -- $fast/st --gpus 0
warm "${ours[@]}"
for turn in 1 2 3 4 5; do
  order=(before after)
  [ $((turn % 2)) = 0 ] || order=(after before)
  for which in "${order[@]}"; do
    binary=$program
    [ "$which" = after ] || binary=$before
    "$binary" bench --model $model --storage-path $fast --gpus 0 --mode cached --formats sllm --replicas 3 --mem-pool-size 20GB \
      --prefault --no-verify --results "$out/pool-$which-$turn" >>"$log" 2>&1
  done
done
say "pool"
if [ -x "$slices" ]; then
  "$slices" $m 2 5 >"$out/slices.jsonl"
  "$slices" $fast/small 2 20 >"$out/kept.jsonl"
  rm -rf $fast/st
  python3 "$here/many.py" $fast/many
  warm $fast/many/*.safetensors
  "$slices" $fast/many 1 5 whole >"$out/many.jsonl"
  warm "${ours[@]}"
  "$slices" $m 1 5 whole >"$out/whole.jsonl"
  say "slices, a kept loader, 311,040 tensors"
fi
python3 "$here/versions-table.py" "$out" | tee "$out/table.md" >&3
say "done"
