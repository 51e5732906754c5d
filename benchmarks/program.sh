# shellcheck shell=bash
# The program that the scripts here measure, in $program: sourced by them.
program=${SLLM_GDS:-target/release/sllm-gds}
if [ ! -x "$program" ]; then
  echo "no $program: build it with cargo build --release, or name another in SLLM_GDS" >&2
  exit 2
fi
