# shellcheck shell=bash
# What h200.sh and peers.sh begin alike with: sourced by them, with their arguments.
# shellcheck disable=SC2034 # what is set here is used there
out=${1:?usage: benchmarks/$(basename "$0") OUT_DIR}
here=$(cd "$(dirname "$0")" && pwd)
program=$(readlink -f "${SLLM_GDS:-target/release/sllm-gds}")
mkdir -p "$out"
out=$(readlink -f "$out")
rm -f "$out"/*.jsonl # an earlier run's must not mix with this one's
log=$out/log.txt
: >"$log"
exec 3>&1
say() { echo "[$SECONDS s] $*" | tee -a "$log" >&3; }

fast=/mnt/sllm-gds-fast
# A RAM-backed block device with ext4 at $fast, if nothing is mounted there.
mount_fast() {
  if ! mountpoint -q "$fast"; then
    echo 48G >/sys/block/zram0/disksize
    mkfs.ext4 -q /dev/zram0
    mkdir -p "$fast"
    mount /dev/zram0 "$fast"
  fi
}
