/* The kernels' bodies, in what C and CUDA C++ share: nvcc builds them for the GPU, cc for tests on the host.
 * sg_digest_* is the twin of src/digest.rs; that file says what the digest is. */
#ifndef SLLM_GDS_BODY_H
#define SLLM_GDS_BODY_H

#include <stdint.h>

#ifdef __CUDACC__
#define SG_FN static __device__ __forceinline__
#else
#define SG_FN static inline
#endif

#define SG_G 0x9e3779b97f4a7c15ull

SG_FN uint64_t sg_mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

/* Eight bytes from any address. Reads only aligned words that hold one of them. */
SG_FN uint64_t sg_load_word(const uint8_t *at) {
  const unsigned shift = 8u * (unsigned)((uintptr_t)at & 7u);
  const uint64_t *word = (const uint64_t *)((uintptr_t)at & ~(uintptr_t)7u);
  return shift == 0 ? word[0] : (word[0] >> shift) | (word[1] << (64u - shift));
}

/* What one thread of `threads` adds to the sum over a part of `bytes` bytes that begins at word
 * `first_word` of its whole. Neighbouring threads read neighbouring 16 bytes. */
SG_FN uint64_t sg_digest_part(const uint8_t *part, uint64_t bytes, uint64_t first_word, uint32_t thread,
                              uint32_t threads) {
  const uint64_t words = bytes / 8;
  uint64_t sum = 0, done = 0, i;
  if (((uintptr_t)part & 15u) == 0) {
#ifdef __CUDACC__
    const ulonglong2 *pairs = (const ulonglong2 *)part;
#pragma unroll 4
    for (i = thread; i < words / 2; i += threads) {
      const ulonglong2 pair = __ldcs(pairs + i);
      const uint64_t key = (first_word + 2 * i + 1) * SG_G;
      sum += sg_mix(pair.x + key) + sg_mix(pair.y + key + SG_G);
    }
#else
    const uint64_t *word = (const uint64_t *)part;
    for (i = thread; i < words / 2; i += threads) {
      const uint64_t key = (first_word + 2 * i + 1) * SG_G;
      sum += sg_mix(word[2 * i] + key) + sg_mix(word[2 * i + 1] + key + SG_G);
    }
#endif
    done = words & ~(uint64_t)1;
  }
  for (i = done + thread; i < words; i += threads)
    sum += sg_mix(sg_load_word(part + 8 * i) + (first_word + i + 1) * SG_G);
  if (thread == 0 && bytes % 8 != 0) {
    uint64_t last = 0;
    for (i = 8 * words; i < bytes; i++)
      last |= (uint64_t)part[i] << (8 * (i - 8 * words));
    sum += sg_mix(last + (first_word + words + 1) * SG_G);
  }
  return sum;
}

/* One thread's share of filling `bytes` bytes at a 16-byte-aligned address with a repeated word. */
SG_FN void sg_fill_part(uint8_t *at, uint64_t bytes, uint64_t word, uint64_t thread, uint64_t threads) {
  const uint64_t words = bytes / 8;
  uint64_t i;
  for (i = thread; i < words; i += threads)
    ((uint64_t *)at)[i] = word;
  if (thread == 0)
    for (i = 8 * words; i < bytes; i++)
      at[i] = (uint8_t)(word >> (8 * (i - 8 * words)));
}

/* One thread's share of copying `bytes` bytes between any two addresses. Of `from` only aligned words that hold one of
 * the bytes are read. */
SG_FN void sg_move_run(uint8_t *to, const uint8_t *from, uint64_t bytes, uint32_t thread, uint32_t threads) {
  const uint64_t before = (8u - (uintptr_t)to) & 7u;
  const uint64_t head = before < bytes ? before : bytes;
  const uint64_t words = (bytes - head) / 8;
  uint64_t i;
  for (i = thread; i < head; i += threads)
    to[i] = from[i];
  for (i = thread; i < words; i += threads)
    ((uint64_t *)(to + head))[i] = sg_load_word(from + head + 8 * i);
  for (i = head + 8 * words + thread; i < bytes; i += threads)
    to[i] = from[i];
}

#endif
