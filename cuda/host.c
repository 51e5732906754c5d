/* The bodies of the kernels on the host, for the tests that hold them against their twins in Rust. */
#include <string.h>

#include "body.h"
#include "packed.h"

uint64_t sg_host_digest(const uint8_t *part, uint64_t bytes, uint64_t first_word, uint32_t threads) {
  uint64_t sum = 0;
  for (uint32_t thread = 0; thread < threads; thread++)
    sum += sg_digest_part(part, bytes, first_word, thread, threads);
  return sum;
}

void sg_host_fill(uint8_t *at, uint64_t bytes, uint64_t word, uint64_t threads) {
  for (uint64_t thread = 0; thread < threads; thread++)
    sg_fill_part(at, bytes, word, thread, threads);
}

void sg_host_move(uint8_t *to, const uint8_t *from, uint64_t bytes, uint32_t threads) {
  for (uint32_t thread = 0; thread < threads; thread++)
    sg_move_run(to, from, bytes, thread, threads);
}

static void host_write(const SgChunk *to, uint32_t at, const uint32_t values[4], uint32_t bytes, uint8_t *out) {
  const int wanted = sg_is_wanted(to, at, bytes);
  if (wanted == 2)
    memcpy(out + at, values, bytes);
  else if (wanted == 1)
    sg_write_some(to, at, values, bytes, out);
}

/* A window's bytes [clip_from, clip_to) that a block has, as the kernel writes them; 1 where the block does not add up. */
static int host_block(const uint8_t *chunk, const SgBlock *block, const SgChunk *to, uint8_t *out) {
  const uint32_t bytes_each = block->form == SG_E4M3 || block->form == SG_E5M2 ? 8 : 16;
  uint32_t escaped = 0, further = 0, last = 0, round, thread, at;
  if (block->kind != 0) {
    for (at = 0; at < block->length; at += 16) {
      uint32_t values[4] = {0, 0, 0, 0};
      if (block->kind == SG_STORED)
        memcpy(values, chunk + block->data + at, 16);
      host_write(to, block->start + at, values, 16, out);
    }
    return 0;
  }
  for (round = 0; round < SG_ROUNDS; round++) {
    SgLane lanes[32];
    for (thread = 0; thread < 32; thread++)
      sg_lane_first(chunk, block, round, thread, &lanes[thread]);
    for (thread = 0; thread < 32; escaped += lanes[thread].count, thread++)
      sg_lane_second(chunk, block, escaped, &lanes[thread]);
    for (thread = 0; thread < 32; further += lanes[thread].far_count, thread++)
      sg_lane_far(chunk, block, further, &lanes[thread]);
    for (thread = 0; thread < 32; last += lanes[thread].raw_count, thread++) {
      uint32_t symbols[2], values[4];
      at = block->start + bytes_each * (32 * round + thread);
      sg_lane_symbols(chunk, block, last, &lanes[thread], symbols);
      sg_lane_values(chunk, block, round, thread, symbols, values);
      host_write(to, at, values, bytes_each, out);
    }
  }
  return !sg_adds_up(block, escaped, further, last);
}

/* Unpacks a chunk, which begins at a multiple of 16, to `out`, the place of the window's first byte. How many of its blocks
 * do not add up; a chunk whose header does not counts as one. */
uint32_t sg_host_unpack(const uint8_t *chunk, const SgChunk *to, uint8_t *out) {
  uint32_t damaged = 0, number;
  for (number = 0;; number++) {
    SgBlock block;
    const int found = sg_find_block(chunk, to->bytes, to->window, number, &block);
    if (found == 0)
      return damaged;
    damaged += found == 2 || host_block(chunk, &block, to, out);
  }
}
