/* The bodies of the kernels on the host, for the tests that hold them against their twins in Rust. */
#include "body.h"

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
