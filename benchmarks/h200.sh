#!/usr/bin/env bash
# Everything that the README says of GPU loads, in one run of under eight minutes, as ratios to ceilings that
# are measured in the same run. Wants one NVIDIA GPU, nvcc, root (a RAM-backed block device, dropping caches),
# 100 GB of memory, and python3 with safetensors and torch.
#   benchmarks/h200.sh OUT_DIR        records, logs and table.md go there
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "$0")/common.sh"
model=synthetic:meta-llama/Meta-Llama-3-8B # 16.06 GB
small=synthetic:facebook/opt-6.7b@0.15     # 2.3 GB, for the machine's own disk
slow=$out/disk

for tool in nvcc python3 mkfs.ext4; do
  command -v $tool >/dev/null || { echo "no $tool here, which this wants" >&2 && exit 2; }
done
mount_fast
nvcc -O3 -std=c++17 -o "$out/ceilings" "$here/ceilings.cu"
nvcc -O3 -std=c++17 -o "$out/cufile" "$here/cufile.cu" -lcufile -lcuda
tell_udev
bench() { # bench RESULTS ARGUMENTS…
  local results=$1
  shift
  say "bench $*"
  "$program" bench --gpus 0 --results "$out/$results" "$@" >>"$log" 2>&1
}
load() { "$program" load "$@" --json 2>>"$log"; }
ceiling() { # a program beside the results, and its arguments
  local program=$1
  shift
  (cd "$out" && "./$program" "$@" | tee -a "$log")
}

# A ceiling and a load in turns, so that drift of the machine hits both: a line each in ceiling-NAME.jsonl and
# load-NAME.jsonl. turns COUNT NAME CEILING… -- LOAD…
turns() {
  local count=$1 name=$2 ceiling=()
  shift 2
  while [ "$1" != -- ]; do ceiling+=("$1"); shift; done
  shift
  say "$name: a ceiling and a load in turns"
  for _ in $(seq "$count"); do
    ceiling "${ceiling[@]}" >>"$out/ceiling-$name.jsonl"
    load "$@" --gpus 0 --verify | tr -d '\n' >>"$out/load-$name.jsonl"
    echo >>"$out/load-$name.jsonl"
  done
}

bench warm --model $model --storage-path $fast --mode cached --formats sllm,safetensors,safetensors-direct --baseline python
bench warm-rust --model $model --storage-path $fast --mode cached --replicas 3 --formats safetensors --baseline rust
ceiling ceilings copy 2147483648 >"$out/ceiling-pool.jsonl"
bench pool --model $model --storage-path $fast --mode cached --formats sllm --mem-pool-size 20GB --prefault
ceiling ceilings copy 2147483648 >>"$out/ceiling-pool.jsonl"
bench pool-12GiB --model synthetic:facebook/opt-125m --storage-path $fast --mode cached --formats sllm --mem-pool-size 12GB --prefault

name=synthetic/meta-llama/Meta-Llama-3-8B
weights=("$fast/${name}_0"/tensor.data_*)
shards=("$fast/${name}_safetensors_0"/*.safetensors)
cat "${weights[@]}" "${shards[@]}" >/dev/null
turns 5 warm ceilings copy 2147483648 -- ${name}_0 --storage-path $fast
turns 5 warm-safetensors ceilings copy 2147483648 -- ${name}_safetensors_0 --storage-path $fast

threads=12 # what a load takes by default on 16 cores
evict "${weights[@]}" "${shards[@]}"
turns 9 cold-fast ceilings read 1 $threads 4194304 "${weights[@]}" -- ${name}_0 --storage-path $fast
bench cold-fast --model $model --storage-path $fast --mode cached --cold --replicas 3 --formats sllm,safetensors,safetensors-direct --baseline python

"$program" save --model $small --storage-path "$slow" --name m >>"$log"
evict "$slow"/m/tensor.data_*
turns 7 cold-disk ceilings read 1 $threads 4194304 "$slow"/m/tensor.data_* -- m --storage-path "$slow"
rm -rf "$slow"

say "on the GPU: verified loads, two destinations, the digest kernel"
cat "${weights[@]}" >/dev/null
name=${name}_0
load $name --storage-path $fast --gpus 0 --verify >"$out/verify.json"
load $name --storage-path $fast --gpus 0,0 --verify >"$out/two-balanced.json"
load $name --storage-path $fast --gpus 0,0 --placement replicate --verify >"$out/two-replicate.json"

# 8 threads × 8 MiB is what a load by cuFile takes by default; each side in a process of its own, so that both pay for
# cuFile's first buffers.
compat=(--engine gds --allow-compat)
turns 5 gds-warm cufile 1 8 8388608 buffered none "${weights[@]}" -- $name --storage-path $fast "${compat[@]}"
bench gds --model $model --storage-path $fast --mode cached --formats sllm "${compat[@]}"
evict "${weights[@]}"
turns 5 gds-cold cufile 1 8 8388608 direct none "${weights[@]}" -- $name --storage-path $fast "${compat[@]}"
"$program" load $name --storage-path $fast --gpus 0 --engine gds >"$out/gds-refused.txt" 2>&1 || echo "exit $?" >>"$out/gds-refused.txt"
"$program" doctor $fast >"$out/doctor.txt" 2>>"$log" || true
cat "${weights[@]}" >/dev/null

# What each choice of the ring buys: from the default, one thing changed at a time, in turns.
settings=("12 2 16 64" "8 2 16 64" "10 2 16 64" "16 2 16 64" "12 1 16 64" "12 4 16 64" "12 2 4 64" "12 2 8 64" "12 2 16 32" "12 2 16 128")
rounds() { # rounds COUNT FILE SETTING…: a line each, with what was asked for
  local count=$1 file=$2
  shift 2
  say "threads × chunk × copy × ring: $file"
  for _ in $(seq "$count"); do
    for setting in "$@"; do
      read -r threads chunk copy ring <<<"$setting"
      load $name --storage-path $fast --gpus 0 --num-threads "$threads" --chunk-size "${chunk}MB" --copy-size "${copy}MB" --ring-size "${ring}MB" |
        tr -d '\n' | sed "s/^{/{\"ring_mib\": $ring,/" >>"$out/$file"
      echo >>"$out/$file"
    done
  done
}
rounds 3 ring-warm.jsonl "${settings[@]}"
evict "${weights[@]}"
rounds 3 ring-cold.jsonl "12 2 16 64" "10 2 16 64" "12 2 8 64" "12 4 4 96" "12 2 2 64" "12 2 16 128"
rm -f "$out/ceilings" "$out/cufile" "$out/cufile.log"
python3 "$here/h200-table.py" "$out" | tee "$out/table.md" >&3
say "done"
