// The GPU's side of body.h. build.rs compiles this with nvcc; kernels.ptx beside it serves where there is none.
#include "body.h"

// A run of one tensor: where it lies, at which byte of the tensor it begins, and whose sum it counts to.
struct Part {
  uint64_t offset;
  uint64_t start;
  uint32_t bytes;
  uint32_t tensor;
};

// One block a part; `sums` begin as zeros.
extern "C" __global__ void sg_digest(const uint8_t *base, const Part *parts, unsigned long long *sums) {
  __shared__ unsigned long long warp_sums[32];
  const Part part = parts[blockIdx.x];
  unsigned long long sum =
      sg_digest_part(base + part.offset, part.bytes, part.start / 8, threadIdx.x, blockDim.x);
  for (int lane = 16; lane > 0; lane /= 2)
    sum += __shfl_down_sync(0xffffffffu, sum, lane);
  if (threadIdx.x % 32 == 0)
    warp_sums[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (unsigned warp = 1; warp < (blockDim.x + 31) / 32; warp++)
      sum += warp_sums[warp];
    atomicAdd(sums + part.tensor, sum);
  }
}

extern "C" __global__ void sg_fill(uint8_t *at, uint64_t bytes, uint64_t word) {
  const uint64_t thread = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;
  sg_fill_part(at, bytes, word, thread, (uint64_t)gridDim.x * blockDim.x);
}

// Bytes of the staging buffer and where they land: `rows` of `bytes` each.
struct Move {
  uint64_t from;
  uint64_t to;
  uint64_t from_stride;
  uint64_t to_stride;
  uint32_t bytes;
  uint32_t rows;
};

// One block a move. A single row is shared by the block; of several, each goes to a warp.
extern "C" __global__ void sg_scatter(const uint8_t *base, const Move *moves) {
  const Move move = moves[blockIdx.x];
  if (move.rows == 1) {
    sg_move_run((uint8_t *)move.to, base + move.from, move.bytes, threadIdx.x, blockDim.x);
    return;
  }
  for (uint32_t row = threadIdx.x / 32; row < move.rows; row += blockDim.x / 32)
    sg_move_run((uint8_t *)(move.to + row * move.to_stride), base + move.from + row * move.from_stride, move.bytes,
                threadIdx.x % 32, 32);
}
