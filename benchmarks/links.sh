#!/usr/bin/env bash
# Loads over one link and over several, as ratios to a plain pinned copy in the same turn: into one GPU, shared out to two, and
# to each of two; from a pool and from the page cache. Wants two NVIDIA GPUs with NVLink (with one, a row each is left), 64 GB of
# memory, python3; and the example: cargo build --release --no-default-features --example links.
#   benchmarks/links.sh OUT_DIR [SETTING=VALUE…]   settings are the example's: turns=5 pool=24 threads= chunk= copy= ring=
# links.jsonl, table.md and log.txt go to OUT_DIR. Takes three minutes.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "$0")/common.sh"
shift
links=$(dirname "$program")/examples/links
[ -x "$links" ] || links=$(dirname "$program")/links
if [ ! -x "$links" ]; then
  echo "no $links: build it with cargo build --release --no-default-features --example links" >&2
  exit 2
fi
storage=$(mktemp -d /dev/shm/sllm-gds-links.XXXXXX)
trap 'rm -rf "$storage"' EXIT
"$program" save --model synthetic:meta-llama/Meta-Llama-3-8B --storage-path "$storage" --name m >>"$log" # 16.06 GB
say "saved"
nvidia-smi topo -m >>"$log" 2>&1 || true
"$links" "$storage/m" "$@" >"$out/links.jsonl" 2>>"$log"
say "measured"
python3 "$here/links-table.py" "$out" | tee "$out/table.md"
