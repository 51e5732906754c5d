/* Packed weights on the GPU: the twin of src/checkpoint/packed. docs/packed.md says what a chunk holds.
 *
 * A warp takes a block of 4096 values in 16 rounds, eight values a lane. Where a value's codes stand follows from how many
 * values before it escaped, so a lane's work falls into steps with a count over the lanes before each: the kernel counts by
 * shuffles, the host in a loop.
 *
 * Chunks come from strangers. Whatever they hold, nothing is read outside of them and nothing written outside of the bytes
 * that were asked for: what does not add up is told, and not written or written wrongly. */
#ifndef SLLM_GDS_PACKED_H
#define SLLM_GDS_PACKED_H

#include "body.h"

/* Before loops over small arrays: unrolled, their items stay in registers. */
#ifdef __CUDACC__
#define SG_UNROLL _Pragma("unroll")
#else
#define SG_UNROLL
#endif

/* A chunk in the staging buffer, and where its window goes. `to` is a multiple of 16, and so is `from`; `to` is the address
 * of the window's first byte, which need not be there: only bytes [clip_from, clip_to) of the window are written. */
typedef struct {
  uint64_t from;
  uint64_t to;
  uint32_t bytes;
  uint32_t window;
  uint32_t clip_from;
  uint32_t clip_to;
} SgChunk;

enum { SG_HEADER = 16, SG_SEGMENT = 32, SG_ENTRY = 8, SG_SLACK = 16, SG_VALUES = 4096, SG_ROUNDS = 16 };
enum { SG_STORED = 65535, SG_ZEROS = 65534 };
enum { SG_BYTES = 0, SG_BF16 = 1, SG_F16 = 2, SG_E4M3 = 3, SG_E5M2 = 4 };
enum { SG_FOUR = 1, SG_THREE = 2 };

/* What a block is, with all offsets from the chunk's start. Codes of the first tier and, of 2/2/4/8, of the second select
 * from `near`; the next tier's, four bits each, from `far`; what escapes from that is a byte of `raw`. */
typedef struct {
  uint32_t data;
  uint32_t start, length; /* in the window */
  uint32_t kind;          /* SG_STORED, SG_ZEROS, or 0: coded */
  uint32_t form, tiers;
  uint32_t first, second, far_codes, raw;
  uint32_t first_count, second_count, far_count; /* escapes of the first tier, as `second` and as `far_codes` have them */
  uint32_t end;                                  /* of what may be read as data */
  uint32_t near_low, near_high;
  uint32_t far[4];
} SgBlock;

SG_FN uint32_t sg_u16(const uint8_t *at) { return *(const uint16_t *)at; }
SG_FN uint32_t sg_u32(const uint8_t *at) { return *(const uint32_t *)at; }

SG_FN uint32_t sg_rest_bytes(uint32_t form) {
  return form == SG_BF16 ? 4096u : form == SG_F16 ? 5632u : form == SG_E4M3 ? 2048u : form == SG_E5M2 ? 1536u : 0u;
}

/* Four places of a segment's table from `place` on; the ninth and later bytes of a segment's entry. */
SG_FN uint32_t sg_table(const uint8_t *table, uint32_t place, uint32_t count) {
  uint32_t word = 0, i;
  for (i = 0; i < count; i++)
    word |= (uint32_t)table[place + i] << (8 * i);
  return word;
}

/* Finds block `number`. 0: there is no such block; 1: here it is; 2: the chunk is damaged. */
SG_FN int sg_find_block(const uint8_t *chunk, uint32_t bytes, uint32_t window, uint32_t number, SgBlock *block) {
  uint32_t segments, blocks, entries, low, high, size, first, next, n1, n2, end;
  const uint8_t *segment, *entry;
  if (bytes < SG_HEADER + SG_SEGMENT + SG_SLACK)
    return number == 0 ? 2 : 0;
  segments = sg_u16(chunk + 12);
  blocks = sg_u16(chunk + 14);
  entries = SG_HEADER + SG_SEGMENT * segments;
  if (segments == 0 || entries + SG_ENTRY * blocks + SG_SLACK > bytes || sg_u32(chunk + 4) != window)
    return number == 0 ? 2 : 0;
  if (number >= blocks)
    return 0;
  /* The last segment that begins at this block or before it. */
  for (low = 0, high = segments; high - low > 1;) {
    const uint32_t middle = (low + high) / 2;
    if (sg_u16(chunk + SG_HEADER + SG_SEGMENT * middle + 4) <= number)
      low = middle;
    else
      high = middle;
  }
  segment = chunk + SG_HEADER + SG_SEGMENT * low;
  next = low + 1 < segments ? sg_u32(segment + SG_SEGMENT) : window;
  first = sg_u16(segment + 4);
  block->form = segment[6];
  block->tiers = segment[7];
  if (block->form > SG_E5M2 || first > number || next > window)
    return 2;
  if (block->form == SG_BYTES ? block->tiers != 0 : block->tiers != SG_FOUR && block->tiers != SG_THREE)
    return 2;
  size = block->form == SG_E4M3 || block->form == SG_E5M2 ? 4096u : 8192u;
  block->start = sg_u32(segment);
  if (block->start >= next || block->start % 16 != 0 || (next - block->start + size - 1) / size <= number - first)
    return 2;
  block->start += (number - first) * size;
  block->length = next - block->start < size ? next - block->start : size;
  entry = chunk + entries + SG_ENTRY * number;
  if (sg_u32(entry) > bytes / 16)
    return 2;
  block->data = 16 * sg_u32(entry);
  n1 = sg_u16(entry + 4);
  n2 = sg_u16(entry + 6);
  block->end = bytes - SG_SLACK;
  if (block->data < entries + SG_ENTRY * blocks || block->length % 16 != 0)
    return 2;
  if (n1 == SG_STORED || n1 == SG_ZEROS) {
    block->kind = n1;
    end = block->data + (n1 == SG_STORED ? block->length : 0);
    return n2 == 0 && end <= block->end ? 1 : 2;
  }
  if (block->form == SG_BYTES || block->length != size || n1 > SG_VALUES || n2 > n1)
    return 2;
  block->kind = 0;
  block->first = block->data + sg_rest_bytes(block->form);
  block->first_count = n1;
  if (block->tiers == SG_FOUR) {
    block->second = block->first + SG_VALUES / 4;
    block->far_codes = block->second + (n1 + 3) / 4;
    block->raw = end = block->far_codes + (n2 + 1) / 2;
    block->second_count = n1;
    block->far_count = n2;
    block->near_low = sg_table(segment + 8, 0, 3);
    block->near_high = sg_table(segment + 8, 3, 3);
    low = 6;
  } else {
    block->second = block->far_codes = block->first + SG_VALUES / 8 * 3;
    block->raw = block->far_codes + (n1 + 1) / 2;
    end = block->raw + n2;
    block->second_count = n2;
    block->far_count = n1;
    block->near_low = sg_table(segment + 8, 0, 4);
    block->near_high = sg_table(segment + 8, 4, 3);
    low = 7;
  }
  SG_UNROLL
  for (high = 0; high < 4; high++)
    block->far[high] = sg_table(segment + 8, low + 4 * high, high < 3 ? 4 : 3);
  return end <= block->end ? 1 : 2;
}

/* Whether the escapes of a whole block came out as its entry has them: `escaped` from the first tier, `further` from that
 * of 2/2/4/8's second, `last` from the far codes. */
SG_FN int sg_adds_up(const SgBlock *block, uint32_t escaped, uint32_t further, uint32_t last) {
  if (block->tiers == SG_FOUR)
    return escaped == block->first_count && further == block->far_count && last <= block->end - block->raw;
  return escaped == block->first_count && last == block->second_count;
}

SG_FN uint32_t sg_count(uint32_t word) {
#ifdef __CUDACC__
  return (uint32_t)__popc((int)word);
#else
  return (uint32_t)__builtin_popcount(word);
#endif
}

/* The lowest set bit's number; the word is not 0. */
SG_FN uint32_t sg_lowest(uint32_t word) {
#ifdef __CUDACC__
  return (uint32_t)__ffs((int)word) - 1u;
#else
  return (uint32_t)__builtin_ctz(word);
#endif
}

/* Four bytes out of eight, by the low four nibbles of `select`, each 0 to 7. */
SG_FN uint32_t sg_select(uint32_t low, uint32_t high, uint32_t select) {
#ifdef __CUDACC__
  return __byte_perm(low, high, select & 0x7777u);
#else
  const uint64_t both = (uint64_t)high << 32 | low;
  uint32_t out = 0, i;
  for (i = 0; i < 4; i++)
    out |= (uint32_t)(both >> (8 * (select >> (4 * i) & 7)) & 255) << (8 * i);
  return out;
#endif
}

/* 32 bits of a plane from bit `bit` on: two aligned words, the second of which ends up to 8 bytes past the last bit. */
SG_FN uint32_t sg_bits(const uint8_t *chunk, uint32_t plane, uint32_t bit) {
  const uint32_t at = plane + bit / 8;
  const uint32_t *words = (const uint32_t *)(chunk + (at & ~3u));
  const uint64_t both = (uint64_t)words[1] << 32 | words[0];
  return (uint32_t)(both >> (8 * (at & 3u) + bit % 8));
}

/* The low `count` codes of `bits` bits; a count of 8 codes of 4 bits is all of the word. */
SG_FN uint32_t sg_keep(uint32_t codes, uint32_t bits, uint32_t count) {
  return bits * count >= 32 ? codes : codes & ((1u << bits * count) - 1u);
}

/* Eight codes of two or three bits to nibbles. */
SG_FN uint32_t sg_nibbles2(uint32_t codes) {
  codes = (codes & 0xffu) | (codes & 0xff00u) << 8;
  codes = (codes & 0x000f000fu) | (codes & 0x00f000f0u) << 4;
  return (codes & 0x03030303u) | (codes & 0x0c0c0c0cu) << 2;
}
SG_FN uint32_t sg_nibbles3(uint32_t codes) {
  codes = (codes & 0xfffu) | (codes & 0xfff000u) << 4;
  codes = (codes & 0x003f003fu) | (codes & 0x0fc00fc0u) << 2;
  return (codes & 0x07070707u) | (codes & 0x38383838u) << 1;
}

/* Whether `bytes` bytes of the window from `at` on are all wanted: 2, some of them: 1, or none: 0. */
SG_FN int sg_is_wanted(const SgChunk *to, uint32_t at, uint32_t bytes) {
  if (at >= to->clip_from && at + bytes <= to->clip_to)
    return 2;
  return at < to->clip_to && at + bytes > to->clip_from;
}

/* Those of up to 16 bytes that are wanted, one by one: where a clip begins or ends within them. `out` is the place of the
 * window's first byte. */
SG_FN void sg_write_some(const SgChunk *to, uint32_t at, const uint32_t values[4], uint32_t bytes, uint8_t *out) {
  uint32_t i;
  SG_UNROLL
  for (i = 0; i < 16; i++)
    if (i < bytes && at + i >= to->clip_from && at + i < to->clip_to)
      out[at + i] = (uint8_t)(values[i / 4] >> 8 * (i % 4));
}

/* A lane's eight values in a round. */
typedef struct {
  uint32_t select;    /* a nibble a value: its place in `near`, or 7: in `far` or raw */
  uint32_t escapes;   /* bit 4i: value i escaped from the first tier */
  uint32_t far_mask;  /* bit 4i: value i has a far code */
  uint32_t far_codes; /* those, in order, a nibble each */
  uint32_t count, far_count, raw_count;
} SgLane;

/* Step 1: the codes of the first tier. `count` is how many escaped. */
SG_FN void sg_lane_first(const uint8_t *chunk, const SgBlock *block, uint32_t round, uint32_t thread, SgLane *lane) {
  const uint32_t value = 256u * round + 8u * thread;
  if (block->tiers == SG_FOUR) {
    lane->select = sg_nibbles2(sg_u16(chunk + block->first + value / 4));
    lane->escapes = lane->select & lane->select >> 1 & 0x11111111u;
  } else {
    lane->select = sg_nibbles3(sg_bits(chunk, block->first, 3 * value) & 0xffffffu);
    lane->escapes = lane->select & lane->select >> 1 & lane->select >> 2 & 0x11111111u;
  }
  lane->count = sg_count(lane->escapes);
}

/* What of `count` codes from number `before` on a plane of `all` has. */
SG_FN uint32_t sg_left(uint32_t before, uint32_t count, uint32_t all) {
  const uint32_t left = before < all ? all - before : 0;
  return count < left ? count : left;
}

/* Step 2: 2/2/4/8's second tier, `before` escapes behind its beginning. `far_count` is how many values have a far code. */
SG_FN void sg_lane_second(const uint8_t *chunk, const SgBlock *block, uint32_t before, SgLane *lane) {
  lane->far_mask = lane->escapes;
  if (block->tiers == SG_FOUR) {
    const uint32_t count = sg_left(before, lane->count, block->second_count);
    uint32_t left, codes = 0;
    if (count > 0)
      codes = sg_keep(sg_bits(chunk, block->second, 2 * before), 2, count);
    /* 3 becomes 4 and the second code: 7 is its escape. */
    for (left = lane->escapes; left != 0; left &= left - 1, codes >>= 2)
      lane->select += (1u + (codes & 3u)) << sg_lowest(left);
    lane->far_mask &= lane->select & lane->select >> 1 & lane->select >> 2;
  }
  lane->far_count = sg_count(lane->far_mask);
}

/* Step 3: the far codes. `raw_count` is how many values stand as bytes. */
SG_FN void sg_lane_far(const uint8_t *chunk, const SgBlock *block, uint32_t before, SgLane *lane) {
  const uint32_t count = sg_left(before, lane->far_count, block->far_count);
  uint32_t codes = 0;
  if (count > 0)
    codes = sg_keep(sg_bits(chunk, block->far_codes, 4 * before), 4, count);
  lane->far_codes = codes;
  lane->raw_count = sg_count(codes & codes >> 1 & codes >> 2 & codes >> 3 & 0x11111111u);
}

/* Step 4: the exponents, four to a word. */
SG_FN void sg_lane_symbols(const uint8_t *chunk, const SgBlock *block, uint32_t before, const SgLane *lane,
                           uint32_t symbols[2]) {
  uint32_t left, codes = lane->far_codes, raw = block->raw + before;
  symbols[0] = sg_select(block->near_low, block->near_high, lane->select);
  symbols[1] = sg_select(block->near_low, block->near_high, lane->select >> 16);
  for (left = lane->far_mask; left != 0; left &= left - 1, codes >>= 4) {
    const uint32_t code = codes & 15u, value = sg_lowest(left) / 4, shift = 8 * (value & 3u);
    uint32_t symbol;
    if (code == 15u) {
      symbol = raw < block->end ? chunk[raw] : 0u;
      raw++;
    } else {
      /* A tree of selections: an array that is indexed would go to slow memory. */
      const uint32_t low = code & 4u ? block->far[1] : block->far[0], high = code & 4u ? block->far[3] : block->far[2];
      symbol = (code & 8u ? high : low) >> 8 * (code & 3u) & 255u;
    }
    if (value < 4)
      symbols[0] = (symbols[0] & ~(255u << shift)) | symbol << shift;
    else
      symbols[1] = (symbols[1] & ~(255u << shift)) | symbol << shift;
  }
}

/* Two bf16 values of a pair of rests and exponents, each in the low byte of a half word. */
SG_FN uint32_t sg_bf16(uint32_t rest, uint32_t symbols) {
  return (rest & 0x00800080u) << 8 | symbols << 7 | (rest & 0x007f007fu);
}
SG_FN uint32_t sg_low_pair(uint32_t bytes) { return (bytes & 255u) | (bytes & 0xff00u) << 8; }
SG_FN uint32_t sg_high_pair(uint32_t bytes) { return sg_low_pair(bytes >> 16); }

/* Two f16 values: low bytes, exponents and the top four bits (two of the mantissa, one of them the sign) of each. */
SG_FN uint32_t sg_f16(uint32_t low, uint32_t symbols, uint32_t high, uint32_t sign) {
  return low | (symbols & 0x001f001fu) << 10 | (high & 3u) << 8 | (high & 12u) << 22 | (sign & 1u) << 15 | (sign & 2u) << 30;
}

/* Step 5: the values. 16 bytes of forms of two bytes, 8 of the others. */
SG_FN void sg_lane_values(const uint8_t *chunk, const SgBlock *block, uint32_t round, uint32_t thread,
                          const uint32_t symbols[2], uint32_t out[4]) {
  const uint32_t value = 256u * round + 8u * thread;
  const uint8_t *rest = chunk + block->data;
  uint32_t i;
  if (block->form == SG_BF16) {
    const uint32_t low = sg_u32(rest + value), high = sg_u32(rest + value + 4);
    out[0] = sg_bf16(sg_low_pair(low), sg_low_pair(symbols[0]));
    out[1] = sg_bf16(sg_high_pair(low), sg_high_pair(symbols[0]));
    out[2] = sg_bf16(sg_low_pair(high), sg_low_pair(symbols[1]));
    out[3] = sg_bf16(sg_high_pair(high), sg_high_pair(symbols[1]));
  } else if (block->form == SG_F16) {
    const uint32_t low = sg_u32(rest + value), high = sg_u32(rest + value + 4);
    const uint32_t two = sg_u16(rest + 4096 + value / 4), sign = rest[5120 + value / 8];
    out[0] = sg_f16(sg_low_pair(low), sg_low_pair(symbols[0]), two, sign);
    out[1] = sg_f16(sg_high_pair(low), sg_high_pair(symbols[0]), two >> 4, sign >> 2);
    out[2] = sg_f16(sg_low_pair(high), sg_low_pair(symbols[1]), two >> 8, sign >> 4);
    out[3] = sg_f16(sg_high_pair(high), sg_high_pair(symbols[1]), two >> 12, sign >> 6);
  } else {
    const uint32_t nibbles = block->form == SG_E4M3 ? sg_u32(rest + value / 2) : 0;
    const uint32_t two = block->form == SG_E5M2 ? sg_u16(rest + value / 4) : 0;
    const uint32_t sign = block->form == SG_E5M2 ? rest[1024 + value / 8] : 0;
    out[0] = out[1] = out[2] = out[3] = 0;
    SG_UNROLL
    for (i = 0; i < 8; i++) {
      const uint32_t symbol = symbols[i / 4] >> 8 * (i % 4), four = nibbles >> 4 * i & 15u;
      const uint32_t byte = block->form == SG_E4M3
                                ? (four & 7u) | (symbol & 15u) << 3 | (four & 8u) << 4
                                : (two >> 2 * i & 3u) | (symbol & 31u) << 2 | (sign >> i & 1u) << 7;
      out[i / 4] |= byte << 8 * (i % 4);
    }
  }
}

#endif
