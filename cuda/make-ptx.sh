#!/bin/sh
# Writes kernels.ptx anew from kernels.cu: `cuda/make-ptx.sh`, or `cuda/make-ptx.sh FILE` to write elsewhere. Takes
# nvcc from NVCC, CUDA_HOME, CUDA_PATH or PATH, as build.rs does; ends with 3 where there is none. nvcc stamps PTX
# with its own version, which older drivers refuse, though the kernels need no more than 7.0 (sm_80): so that stands.
set -eu
here=$(dirname "$0")
ptx=${1:-$here/kernels.ptx}
for nvcc in "${NVCC:-}" "${CUDA_HOME:+$CUDA_HOME/bin/nvcc}" "${CUDA_PATH:+$CUDA_PATH/bin/nvcc}" "$(command -v nvcc || :)"; do
  [ -f "$nvcc" ] && break
done
if [ ! -f "$nvcc" ]; then
  echo "there is no nvcc: NVCC, CUDA_HOME/bin, CUDA_PATH/bin and PATH were tried" >&2
  exit 3
fi
"$nvcc" -O3 -ptx -arch=compute_80 -o "$ptx.new" "$here/kernels.cu"
sed 's/^\.version .*/.version 7.0/' "$ptx.new" >"$ptx"
rm "$ptx.new"
