#!/usr/bin/env bash
# The Python package's figures on one GPU, from a built wheel, in under four minutes: the package's tests there (GPU_TESTS=no leaves
# them out), then the table of python.py with 16 GB of Llama-3-8B's shapes, warm. Wants a GPU, 40 GB in /dev/shm, Python 3.10 or later
# with torch, transformers 5, safetensors and pytest; nothing is downloaded.
#   benchmarks/python-gpu.sh OUT_DIR       tests.txt, python.txt, python.json and log.txt go there
# WHEEL names the wheel (default: the newest in dist or python/target/wheels), SLLM_GDS the program, SAFETENSORS_NEXT safetensors
# 0.9's wheel or a folder where it is installed; TURNS, CASES (python.py's --cases) and PYTHON_GPU_MODEL (a directory of safetensors
# with a config.json) take the place of what is usual.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "$0")/common.sh"
python=${PYTHON:-python3}
turns=${TURNS:-5}
wheel=${WHEEL:-$(find "$here/../dist" "$here/../python/target/wheels" -name 'sllm_gds-*.whl' -printf '%T@ %p\n' 2>/dev/null | sort -n | tail -1 | cut -d' ' -f2-)}
if [ ! -f "$wheel" ]; then
  echo "no wheel: build it as README.md says, or name one in WHEEL" >&2
  exit 2
fi

install() { # install FOLDER WHEEL
  "$python" -m pip install -q --no-index --no-deps --no-compile --upgrade --target "$1" "$2" 2>>"$log"
}
say "install $wheel"
install "$out/site" "$wheel"
export PYTHONPATH=$out/site${PYTHONPATH:+:$PYTHONPATH}
next=()
case ${SAFETENSORS_NEXT:-} in
'') ;;
*.whl) install "$out/site-next" "$SAFETENSORS_NEXT" && next=(--safetensors-next "$out/site-next") ;;
*) next=(--safetensors-next "$(readlink -f "$SAFETENSORS_NEXT")") ;;
esac

failed=0
if [ "${GPU_TESTS:-yes}" != no ]; then
  say "python -m pytest python/tests -m gpu"
  (cd "$here/.." && "$python" -m pytest -q -p no:cacheprovider python/tests -m gpu) >"$out/tests.txt" 2>&1 || failed=1
  tail -25 "$out/tests.txt"
fi

model=${PYTHON_GPU_MODEL:-}
if [ -z "$model" ]; then
  scratch=$(mktemp -d /dev/shm/sllm-gds-python.XXXXXX)
  trap 'rm -rf "$scratch"' EXIT
  say "make 16 GB of Llama-3-8B's shapes"
  "$program" save --model synthetic:meta-llama/Meta-Llama-3-8B --storage-path "$scratch" >>"$log" 2>&1
  saved=$(dirname "$(find "$scratch" -name tensor_index.json)")
  model=$scratch/st
  "$program" export "$saved" --to "$model" >>"$log" 2>&1
  rm -rf "$saved"
fi

cases=${CASES:-command,own memory,load_file,load_into,stream,safetensors prefetch,model by sllm_gds,model by prefetch,model by from_pretrained,small model,small model in own memory,small model again,small model by step}
say "$turns turns"
"$python" "$here/python.py" "$model" --turns "$turns" --command "$program" --cases "$cases" --json "${next[@]}" >"$out/python.json" 2>>"$log"
"$python" "$here/python.py" --table "$out/python.json" | tee "$out/python.txt"
exit "$failed"
