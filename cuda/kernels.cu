// The GPU's side of body.h. build.rs compiles this with nvcc; kernels.ptx beside it serves where there is none.
#include "body.h"
#include "packed.h"

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

// How many of `count` the lanes before this one have, `all` of them together.
static __device__ __forceinline__ uint32_t sg_before(uint32_t count, uint32_t *all) {
  const uint32_t thread = threadIdx.x % 32;
  uint32_t sum = count;
  for (uint32_t step = 1; step < 32; step *= 2) {
    const uint32_t other = __shfl_up_sync(0xffffffffu, sum, step);
    if (thread >= step)
      sum += other;
  }
  *all = __shfl_sync(0xffffffffu, sum, 31);
  return sum - count;
}

// 16 bytes of the window, or 8.
static __device__ __forceinline__ void sg_write(const SgChunk &chunk, uint32_t at, const uint32_t values[4], bool is_narrow) {
  const int wanted = sg_is_wanted(&chunk, at, is_narrow ? 8 : 16);
  if (wanted == 2 && is_narrow)
    *(uint2 *)(chunk.to + at) = make_uint2(values[0], values[1]);
  else if (wanted == 2)
    __stcs((uint4 *)(chunk.to + at), make_uint4(values[0], values[1], values[2], values[3]));
  else if (wanted == 1)
    sg_write_some(&chunk, at, values, is_narrow ? 8 : 16, (uint8_t *)chunk.to);
}

// A block of values by one warp. Whether it adds up.
static __device__ __forceinline__ bool sg_unpack_block(const uint8_t *from, const SgBlock &block, const SgChunk &chunk) {
  const uint32_t thread = threadIdx.x % 32;
  const bool is_narrow = block.form == SG_E4M3 || block.form == SG_E5M2;
  uint32_t escaped = 0, further = 0, last = 0;
#pragma unroll 2
  for (uint32_t round = 0; round < SG_ROUNDS; round++) {
    SgLane lane;
    uint32_t before, all = 0, symbols[2], values[4];
    sg_lane_first(from, &block, round, thread, &lane);
    before = sg_before(lane.count, &all);
    sg_lane_second(from, &block, escaped + before, &lane);
    escaped += all;
    lane.far_codes = lane.raw_count = 0;
    before = 0;
    // Most rounds have a few far codes, and few have raw bytes: all lanes go the same way.
    if (__any_sync(0xffffffffu, lane.far_count != 0)) {
      before = sg_before(lane.far_count, &all);
      sg_lane_far(from, &block, further + before, &lane);
      further += all;
      before = 0;
      if (__any_sync(0xffffffffu, lane.raw_count != 0)) {
        before = sg_before(lane.raw_count, &all);
        before += last;
        last += all;
      }
    }
    sg_lane_symbols(from, &block, before, &lane, symbols);
    sg_lane_values(from, &block, round, thread, symbols, values);
    sg_write(chunk, block.start + (is_narrow ? 8u : 16u) * (32u * round + thread), values, is_narrow);
  }
  return sg_adds_up(&block, escaped, further, last);
}

// A block that is stored as it is, or zeros.
static __device__ __forceinline__ void sg_copy_block(const uint8_t *from, const SgBlock &block, const SgChunk &chunk) {
  for (uint32_t at = 16 * (threadIdx.x % 32); at < block.length; at += 16 * 32) {
    uint4 bytes = make_uint4(0, 0, 0, 0);
    if (block.kind == SG_STORED)
      bytes = *(const uint4 *)(from + block.data + at);
    const uint32_t values[4] = {bytes.x, bytes.y, bytes.z, bytes.w};
    sg_write(chunk, block.start + at, values, false);
  }
}

// Unpacks chunks of the staging buffer. A warp takes one of a chunk's first 128 blocks, which is all of most, and then every
// 128th. `damaged` counts blocks that do not add up. The grid may be any: it decides how much of the GPU this takes.
extern "C" __global__ void __launch_bounds__(256)
    sg_unpack(const uint8_t *base, const SgChunk *chunks, uint32_t count, uint32_t *damaged) {
  const uint32_t warps = gridDim.x * (blockDim.x / 32);
  const uint64_t items = (uint64_t)count * 128;
  for (uint64_t item = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32; item < items; item += warps) {
    const SgChunk chunk = chunks[item / 128];
    const uint8_t *from = base + chunk.from;
    for (uint32_t number = item % 128;; number += 128) {
      SgBlock block;
      const int found = sg_find_block(from, chunk.bytes, chunk.window, number, &block);
      bool good = found != 2;
      if (found == 0)
        break;
      // Nothing of a block that nobody asked for is looked at.
      if (good && block.start < chunk.clip_to && block.start + block.length > chunk.clip_from) {
        if (block.kind == 0)
          good = sg_unpack_block(from, block, chunk);
        else
          sg_copy_block(from, block, chunk);
      }
      if (!good && threadIdx.x % 32 == 0)
        atomicAdd(damaged, 1u);
    }
  }
}
