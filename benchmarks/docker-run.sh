#!/usr/bin/env bash
# `sllm-gds bench` in a container, by the flags and environment variables of ServerlessLLM's script of this name; with --serve
# `sllm-gds serve`.
set -euo pipefail

usage() {
  cat <<'EOF'
usage: benchmarks/docker-run.sh [OPTIONS] [-- MORE OPTIONS OF sllm-gds bench]
       benchmarks/docker-run.sh --serve [OPTIONS] [-- MORE OPTIONS OF sllm-gds serve]

  -m, --model-name MODEL      synthetic:ID[@SCALE], a hub id, or a directory of safetensors
                              [default: synthetic:facebook/opt-6.7b]
  -n, --num-replicas N        loads of each format (cached), or replicas of each on disk (random) [default: 30]
  -p, --mem-pool-size SIZE    keep loaded checkpoints in a pinned pool of this size [default: no pool]
  -t, --benchmark-type TYPE   random or cached [default: random]
  -g, --gpu-limit GPUS        a count, all, device=0,1 (indices or UUIDs), or none [default: 1]
  -s, --storage-path DIR      on the drive to measure; checkpoints are made there and stay [default: /mnt/nvme]
  -r, --results-path DIR      made where it is missing [default: ./results]
      --hf-token TOKEN        for gated models; HF_TOKEN in the environment keeps it out of the process list
      --mount-hf-cache        use the host's hub cache, $HF_HOME or ~/.cache/huggingface, and the token in it
      --generate-plots        write comparison.png beside the results
  -i, --image IMAGE           use this image; without it sllm-gds:local is built from the Dockerfile
      --serve                 start the store server over the storage path (read-only), at 127.0.0.1:8073; of the options above
                              it takes --mem-pool-size [default: 4GB], --gpu-limit [default: all], --storage-path and --image
  -h, --help

MODEL_NAME, NUM_REPLICAS, MEM_POOL_SIZE, BENCHMARK_TYPE, GPU_LIMIT, STORAGE_PATH, RESULTS_PATH, HF_TOKEN,
MOUNT_HF_CACHE=true, GENERATE_PLOTS=true and IMAGE serve where the flag is not given.

The defaults are ServerlessLLM's, and want 800 GB: 30 replicas of 13.3 GB in each of two formats. Begin smaller.
A server shares the host's network, IPC and PID namespaces: ServerlessLLM's clients dial that address, and CUDA's handles pass
between processes that see each other. It ends by Ctrl-C, or by docker stop.
The container runs as you, without capabilities. Exit codes are those of sllm-gds (0 yes, 1 no, 2 not done,
130 interrupted), and docker's own (125 to 127).
EOF
}

refuse() { # refuse WHAT-IS-WRONG-AND-WHY WHAT-TO-DO
  echo "error: $1; $2" >&2
  exit 2
}

model=${MODEL_NAME:-synthetic:facebook/opt-6.7b}
replicas=${NUM_REPLICAS:-30}
pool=${MEM_POOL_SIZE:-}
mode=${BENCHMARK_TYPE:-random}
gpus=${GPU_LIMIT:-}
storage=${STORAGE_PATH:-/mnt/nvme}
results=${RESULTS_PATH:-./results}
mount_hf_cache=${MOUNT_HF_CACHE:-false}
plots=${GENERATE_PLOTS:-false}
image=${IMAGE:-}
serve=false
bench_only= # the last flag that only bench has
more=()

while [ $# -gt 0 ]; do
  case $1 in
    -m | --model-name | -n | --num-replicas | -p | --mem-pool-size | -t | --benchmark-type | -g | --gpu-limit | \
      -s | --storage-path | -r | --results-path | --hf-token | -i | --image)
      case ${2-} in
        '' | -*) refuse "$1 has no value" "write $1 VALUE" ;;
      esac
      ;;
  esac
  case $1 in
    -m | --model-name | -n | --num-replicas | -t | --benchmark-type | -r | --results-path | --hf-token | --mount-hf-cache | \
      --generate-plots)
      bench_only=$1
      ;;
  esac
  case $1 in
    --serve) serve=true ;;
    -m | --model-name) model=$2 && shift ;;
    -n | --num-replicas) replicas=$2 && shift ;;
    -p | --mem-pool-size) pool=$2 && shift ;;
    -t | --benchmark-type) mode=$2 && shift ;;
    -g | --gpu-limit) gpus=$2 && shift ;;
    -s | --storage-path) storage=$2 && shift ;;
    -r | --results-path) results=$2 && shift ;;
    --hf-token) HF_TOKEN=$2 && shift ;;
    -i | --image) image=$2 && shift ;;
    --mount-hf-cache) mount_hf_cache=true ;;
    --generate-plots) plots=true ;;
    -h | --help) usage && exit 0 ;;
    --)
      shift
      more=("$@")
      break
      ;;
    *) refuse "there is no option '$1'" "$0 --help lists them, and options of sllm-gds bench go behind --" ;;
  esac
  shift
done

[ $serve = false ] || [ -z "$bench_only" ] ||
  refuse "$bench_only is of the benchmark, and --serve starts the server" "leave one of them out"
if [ -z "$gpus" ]; then
  gpus=1
  [ $serve = false ] || gpus=all # a client may have memory on any
fi
[[ $replicas =~ ^[1-9][0-9]{0,3}$|^10000$ ]] ||
  refuse "--num-replicas '$replicas' is not a count" "write a number from 1 to 10000"
[[ $mode =~ ^(random|cached)$ ]] ||
  refuse "--benchmark-type '$mode' is not known" "write random (many replicas, each read cold) or cached"
[[ -z $pool || $pool =~ ^[1-9][0-9]*([kKmMgGtT]([iI]?[bB])?)?$ ]] ||
  refuse "--mem-pool-size '$pool' is not a size" "write for example 32GB (counted by 1024)"
gpus=${gpus//\"/} # ServerlessLLM's examples quote it for docker
[[ $gpus =~ ^([1-9][0-9]*|all|none|device=[A-Za-z0-9-]+(,[A-Za-z0-9-]+)*)$ ]] ||
  refuse "--gpu-limit '$gpus' is not a choice of GPUs" "write a count, all, device=0,1 or none"
[ $serve = true ] || [ "$gpus" != none ] || [ -z "$pool" ] ||
  refuse "--mem-pool-size serves loads to a GPU, and --gpu-limit is none" "leave one of them out"
for flag in "$mount_hf_cache" "$plots"; do
  [[ $flag =~ ^(true|false)$ ]] ||
    refuse "'$flag' is not a switch" "set MOUNT_HF_CACHE and GENERATE_PLOTS to true or false"
done

# One argument of docker run: FROM on the host appears as TO in the container.
bind() { # bind FROM TO [readonly]
  case $1 in
    *[,\"]*) refuse "docker can't mount '$1': its --mount splits at commas and quotes" "use a path without them" ;;
  esac
  mount="type=bind,source=$1,target=$2${3:+,$3}"
}

[ -d "$storage" ] ||
  refuse "--storage-path '$storage' is not a directory" "make it, or name one on the drive to measure"
if [ $serve = true ]; then
  { [ -r "$storage" ] && [ -x "$storage" ]; } ||
    refuse "--storage-path '$storage' can't be read by $(id -un), as whom the container runs" "change its owner or mode"
else
  [ -w "$storage" ] ||
    refuse "--storage-path '$storage' can't be written by $(id -un), as whom the container runs" "change its owner or mode"
  { mkdir -p "$results" 2>/dev/null && [ -w "$results" ]; } ||
    refuse "--results-path '$results' can't be made or written" "name a directory of yours"
fi
command -v docker >/dev/null ||
  refuse "there is no docker on the PATH" "install it, with NVIDIA's container toolkit for GPUs"

if [ $serve = true ]; then
  # No --init: in the host's PID namespace it would be no first process. The time is --grace, ten seconds for loads that were then
  # asked to end, and some for answers.
  common=(run --rm --network host --ipc host --pid host --stop-timeout 35)
else
  common=(run --rm --init)
fi
common+=(--cap-drop ALL --security-opt no-new-privileges)
if [ $serve = false ]; then
  bind "$(realpath "$results")" /results
  common+=(--mount "$mount")
fi
common+=(--user "$(id -u):$(id -g)")
for group in $(id -G); do # a directory may be yours by any of them
  common+=(--group-add "$group")
done
if [ $serve = true ]; then
  bind "$(realpath "$storage")" /models readonly
else
  bind "$(realpath "$storage")" /models
fi
args=("${common[@]}" --mount "$mount" --ulimit memlock=-1:-1)

if [ "$gpus" = none ]; then
  inside=none
else
  inside=all # of those that the container is given
  case $gpus in
    device=*) args+=(--gpus "\"$gpus\"") ;; # docker splits at commas but for the quotes
    *) args+=(--gpus "$gpus") ;;
  esac
fi
if [ -d /run/udev ]; then # without it cuFile can't tell what the storage is, and refuses it
  args+=(--mount "type=bind,source=/run/udev,target=/run/udev,readonly")
fi
if [ -e /dev/nvidia-fs0 ]; then
  args+=(--env NVIDIA_GDS=enabled) # the container toolkit hands nvidia-fs in
fi
if [ $serve = false ] && [ -n "${HF_TOKEN:-}" ]; then
  export HF_TOKEN # by name: docker's command line is seen by ps and kept in logs
  args+=(--env HF_TOKEN)
fi
if [ $serve = false ] && [ "$mount_hf_cache" = true ]; then
  cache=${HF_HOME:-${HOME:-}/.cache/huggingface}
  [ -d "$cache" ] ||
    refuse "--mount-hf-cache: '$cache' is not a directory" "set HF_HOME to the hub's cache, or leave the flag out"
  bind "$(realpath "$cache")" /hf-cache
  args+=(--mount "$mount" --env HF_HOME=/hf-cache)
fi
case $model in
  /* | ./* | ../*)
    [ $serve = true ] || [ -e "$model" ] ||
      refuse "--model-name '$model' is not there" "name a directory, a hub id, or synthetic:ID"
    ;;
esac
if [ $serve = false ] && [ -e "$model" ]; then # under its own name, which records give
  path=$(realpath "$model")
  bind "$path" "/model/${path##*/}" readonly
  args+=(--mount "$mount")
  model=/model/${path##*/}
fi

if [ -z "$image" ]; then
  image=sllm-gds:local
  root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
  commit=$(git -C "$root" rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
  docker build --tag "$image" --build-arg "COMMIT=$commit" "$root" ||
    refuse "the image could not be built" "mend what docker says above, or give a built one with --image"
fi

if [ $serve = true ]; then
  # Its exit code is the script's, and signals come to it: bash is no longer there.
  exec docker "${args[@]}" "$image" serve --storage-path /models ${pool:+--mem-pool-size "$pool"} "${more[@]}"
fi
bench=(bench --model "$model" --mode "$mode" --replicas "$replicas" --gpus "$inside" --storage-path /models
  --results /results ${pool:+--mem-pool-size "$pool"} "${more[@]}")
code=0
docker "${args[@]}" "$image" "${bench[@]}" || code=$?
if [ "$plots" = true ] && [ $code -le 1 ]; then # 1: a load failed, and the others are on record
  docker "${common[@]}" "$image" analyze /results --plot /results/comparison.png --fail-on none
fi
echo "results: $results"
exit $code
