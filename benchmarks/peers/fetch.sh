#!/usr/bin/env bash
# Fetches the peers' wheels for a machine without a network: x86-64 Linux, Python 3.12, where torch, numpy, typer and
# humanize are installed already.
#   benchmarks/peers/fetch.sh DIR     10 MB; safetensors 0.9 lies apart, in DIR/prefetch
set -euo pipefail
usage="usage: benchmarks/peers/fetch.sh DIR"
to=${1:?$usage}
case $to in -*) echo "$usage" >&2 && exit 2 ;; esac
platforms=()
for glibc in 39 38 36 35 34 31 30 28 27 26 24 17; do platforms+=(--platform "manylinux_2_${glibc}_x86_64"); done
fetch() {
  local dir=$1
  shift
  python3 -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
    "${platforms[@]}" --platform manylinux2014_x86_64 -d "$dir" "$@"
}
here=$(cd "$(dirname "$0")" && pwd)
mapfile -t peers < <(grep -E '^(fastsafetensors|runai-model-streamer|instanttensor)==' "$here/requirements.txt")
fetch "$to" "${peers[@]}"
fetch "$to/prefetch" "$(sed -n 's/^# .*--target DIR //p' "$here/requirements.txt")"
