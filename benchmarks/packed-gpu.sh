#!/usr/bin/env bash
# What packed weights bring on one GPU, in under five minutes: loads of 16 GB of Llama-3-8B's shapes, packed and not, in turns,
# from page cache, fast device and pool, verified; the decode kernel alone; what a matrix product loses meanwhile.
#   benchmarks/packed-gpu.sh OUT_DIR
# Wants a GPU, nvcc, ncu, root (a RAM-backed device), 60 GB of memory; for the matrix product Python with torch and the wheel
# in PYTHONPATH. OUT_DIR gets a results directory a row, kernel.csv, kernel.json, product.json, log.txt and table.md.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "$0")/common.sh"
model=synthetic:meta-llama/Meta-Llama-3-8B
small=synthetic:meta-llama/Meta-Llama-3-8B@0.15
mount_fast
nvcc -O3 -std=c++17 -o "$out/ceilings" "$here/ceilings.cu"
ceiling() { (cd "$out" && ./ceilings copy 2147483648 >>"$out/ceiling.jsonl"); }
bench() { # RESULTS ARGUMENTS…
  local results=$1
  shift
  say "bench $*"
  ceiling
  "$program" bench --gpus 0 --model $model --storage-path $fast --mode cached --formats sllm,sllm-packed --results "$out/$results" "$@" >>"$log" 2>&1
  ceiling
}
rm -rf "$out"/{warm,cold,pool}
bench warm --replicas "${TURNS:-9}"
bench cold --replicas "${TURNS:-9}" --cold
bench pool --replicas "${TURNS:-9}" --mem-pool-size 30GB --prefault
say "the decode kernel alone"
"$program" save --model $small --pack --storage-path $fast --name packed-kernel --overwrite --json >"$out/kernel.json" 2>>"$log"
# At the clock that it has: ncu would lower it.
ncu --clock-control none --csv --metrics gpu__time_duration.sum -k regex:unpack \
  "$program" load packed-kernel --storage-path $fast --gpus 0 --verify >"$out/kernel.csv" 2>>"$log" || say "ncu failed: no row of the kernel"
say "a matrix product meanwhile"
python3 "$here/packed-product.py" "$fast/synthetic/meta-llama/Meta-Llama-3-8B_packed_0" >"$out/product.json" 2>>"$log" ||
  say "no row of the matrix product: it wants torch and the wheel"
rm -f "$out/ceilings"
python3 "$here/packed-gpu-table.py" "$out" | tee "$out/table.md"
