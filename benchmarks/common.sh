# shellcheck shell=bash
# What h200.sh and peers.sh begin alike with: sourced by them, with their arguments.
# shellcheck disable=SC2034 # what is set here is used there
case ${1:--h} in
-*)
  echo "usage: benchmarks/$(basename "$0") OUT_DIR   (what it wants and does stands at its top)" >&2
  exit 2
  ;;
esac
out=$1
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source-path=SCRIPTDIR source=program.sh
source "$here/program.sh"
program=$(readlink -f "$program")
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

# cuFile asks udev what a block device holds; a machine without udev gets the entry that its test device needs.
tell_udev() {
  if [ ! -e /run/udev/data ]; then
    mkdir -p /run/udev/data
    printf 'E:ID_FS_USAGE=filesystem\nE:ID_FS_TYPE=ext4\n' >"/run/udev/data/b$(cat /sys/block/zram0/dev)"
  fi
}

# Out of the page cache.
evict() { for f in "$@"; do dd if="$f" iflag=nocache count=0 status=none; done; }
