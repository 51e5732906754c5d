#!/usr/bin/env bash
# The store server beside the same loads in one process, in turns: from its pool, and cold. Wants one NVIDIA GPU, root (a
# RAM-backed block device, dropping caches), 100 GB of memory, and python3 with torch and grpcio.
#   benchmarks/serve.sh OUT_DIR [TURNS [MODEL]]       records, logs and table.txt go there
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "$0")/common.sh"
turns=${2:-5}
model=${3:-meta-llama/Meta-Llama-3-8B} # 16.06 GB

mount_fast
name=synthetic/${model}_0
if [ ! -e "$fast/$name/tensor_index.json" ]; then
  say "save $model"
  "$program" save --model "synthetic:$model" --storage-path "$fast" --name "$name" >>"$log" 2>&1
fi
python3 "$here/serve.py" --program "$program" --storage-path "$fast" --source "synthetic:$model" --model "$name" \
  --turns "$turns" --device "$(basename "$(readlink -f /dev/zram0)")" --out "$out" 2>>"$log" | tee "$out/table.txt"
