#!/usr/bin/env bash
# Our loads against every peer's, warm and cold, in one run of under eight minutes: a markdown table with the ratio
# of the best peer to ours. Wants what h200.sh wants, and the peers' wheels in WHEELS (default .carry/peers), which
# benchmarks/peers/fetch.sh fetches; nothing is downloaded here.
#   benchmarks/peers.sh OUT_DIR       records, trials of settings, logs and table.md go there
# PEERS_MODEL, PEERS_STORAGE and PEERS_GPUS name another model, place and destination; PEERS, other formats.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "$0")/common.sh"
wheels=${WHEELS:-$here/../.carry/peers}
model=${PEERS_MODEL:-synthetic:meta-llama/Meta-Llama-3-8B} # 16.06 GB
gpus=${PEERS_GPUS:-0}
peers=${PEERS:-safetensors-prefetch,fastsafetensors,runai-streamer,instanttensor}
python=${PYTHON:-python3}
if [ -n "${PEERS_STORAGE:-}" ]; then
  fast=$PEERS_STORAGE
else
  mount_fast
fi

# Folders beside the machine's own packages, not an environment: there torch may live in an environment itself,
# which another could not inherit. safetensors 0.9 has one alone, since the baseline is 0.8.
install() { # install FOLDER WHEEL…
  local folder=$1
  shift
  "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$folder" "$@"
}
with_path() { # with_path FILE FOLDER: a Python that sees the folder's packages first
  printf '#!/bin/sh\nPYTHONPATH=%q LD_LIBRARY_PATH=%q exec %q "$@"\n' "$2${PYTHONPATH:+:$PYTHONPATH}" \
    "$out/site/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" "$(command -v "$python")" >"$1"
  chmod +x "$1"
}
# fastsafetensors opens libcudart.so by that name, and torch's packages have only libcudart.so.13: the same file.
link_cudart() {
  mkdir -p "$out/site/lib"
  "$python" - "$out/site/lib/libcudart.so" 2>>"$log" <<'END' || say "no libcudart.so for fastsafetensors"
import glob, os, sys, sysconfig
found = glob.glob(sysconfig.get_paths()["purelib"] + "/nvidia/**/libcudart.so.*", recursive=True)
found += glob.glob("/usr/local/cuda*/lib64/libcudart.so.*")
os.symlink(found[0], sys.argv[1])
END
}
if [ -d "$wheels" ]; then
  say "install the peers from $wheels"
  install "$out/site/peers" "$wheels"/*.whl
  install "$out/site/prefetch" "$wheels"/prefetch/*.whl
  link_cudart
  with_path "$out/site/python-peers" "$out/site/peers"
  with_path "$out/site/python-prefetch" "$out/site/prefetch"
  export SLLM_GDS_PYTHON_SAFETENSORS_PREFETCH=$out/site/python-prefetch
  for peer in FASTSAFETENSORS RUNAI_STREAMER INSTANTTENSOR; do
    export SLLM_GDS_PYTHON_$peer="$out/site/python-peers"
  done
fi

bench() { # bench RESULTS ARGUMENTS…
  local results=$1
  shift
  say "bench $*"
  # 1: some loads failed; they are rows.
  "$program" bench --gpus "$gpus" --model "$model" --storage-path "$fast" --results "$out/$results" "$@" >>"$log" 2>&1 || [ $? = 1 ]
}

# A peer that can't even start is left out, with its reason in the log. This makes the checkpoint, too.
rm -f "$out/left-out.md"
usable=
for peer in ${peers//,/ }; do
  if bench "start-$peer" --mode cached --replicas 1 --formats "$peer"; then
    usable+=,$peer
  else
    why=$(tail -n 1 "$log")
    say "LEFT OUT: $peer does not start: $why"
    echo "- left out: $peer does not start: $why" >>"$out/left-out.md"
  fi
done
if [ -z "$usable" ]; then
  say "no peer starts"
  exit 1
fi
# The records name the model; the safetensors files lie where they say.
record=$(ls "$out/start-${usable##*,}"/*_1_cached.json)
name=$(sed -n 's/.*"model_name": "\(.*\)_0".*/\1/p' "$record" | head -n 1)
shards=$fast/${name}_safetensors_0

if [ "${TUNE:-1}" = 1 ]; then
  device=cuda:0
  [ "$gpus" = none ] && device=cpu
  for peer in ${usable//,/ }; do
    say "settings of $peer"
    own=SLLM_GDS_PYTHON_$(tr a-z- A-Z_ <<<"$peer")
    timeout "${TUNE_LIMIT_S:-60}" "${!own:-$python}" "$here/peers/tune.py" try "$peer" "$shards" "$device" >>"$out/trials.jsonl" 2>>"$log" ||
      say "the trials of $peer broke off: $(tail -n 1 "$log")"
  done
  "$python" "$here/peers/tune.py" best "$out/trials.jsonl" >"$out/settings.json"
  SLLM_GDS_PEER_SETTINGS=$(cat "$out/settings.json")
  export SLLM_GDS_PEER_SETTINGS
  say "settings: $SLLM_GDS_PEER_SETTINGS"
fi

baseline=()
"$python" -c 'import safetensors.torch' 2>>"$log" && baseline=(--baseline python)
formats=sllm,safetensors-direct,safetensors$usable
bench warm --mode cached --replicas 5 --formats "$formats" "${baseline[@]}"
bench cold --mode cached --replicas 3 --formats "$formats" "${baseline[@]}" --cold
rm -rf "$out/site" "$out"/start-*
{
  "$python" "$here/peers-table.py" "$out"
  cat "$out/left-out.md" 2>/dev/null || true
} | tee "$out/table.md" >&3
say "done"
