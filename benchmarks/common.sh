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

# A control group, in $group, whose processes can be held to a rate of reads; gone again at the script's end.
hold_group() {
  # Version 2 has io.max; where version 1 has taken the controller of block devices, its own.
  local controllers=/sys/fs/cgroup/cgroup.controllers
  if [ -e "$controllers" ] && grep -qw io "$controllers"; then
    group=/sys/fs/cgroup/sllm-gds-$$ knob=io.max
    echo +io >/sys/fs/cgroup/cgroup.subtree_control
  elif [ -e /sys/fs/cgroup/blkio/blkio.throttle.read_bps_device ]; then
    group=/sys/fs/cgroup/blkio/sllm-gds-$$ knob=blkio.throttle.read_bps_device
  else
    return 1
  fi
  mkdir "$group"
  trap 'rmdir "$group"' EXIT
}

# The whole device below a directory, as MAJOR:MINOR.
device_of() {
  local device
  device=$(findmnt -n -o MAJ:MIN -T "$1" | tr -d " ")
  [ ! -e "/sys/dev/block/$device/partition" ] || device=$(cat "/sys/dev/block/$device/../dev")
  echo "$device"
}

hold_to() { # device, bytes/s
  case $knob in
  io.max) echo "$1 rbps=$2" >"$group/$knob" ;;
  *) echo "$1 $2" >"$group/$knob" ;;
  esac
}

held() { (echo "$BASHPID" >"$group/cgroup.procs" && "$@"); } # only the subshell is held back
