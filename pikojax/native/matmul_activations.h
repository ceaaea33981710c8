// Activations as int8: each 32 along K share a scale.
//   q = round(x · 127 / amax)     x ≈ q · scale, scale = amax / 127
// Beside the numbers lies what the kernel starts or corrects a group's sum with, which is the same for every output:
//   weights (code − zero) · s:   −zero · Σq, as an integer (one for each half of the group, where weights have a scale per 16)
//   weights code · s + m:        scale · Σq, as a float
// Rows come in blocks; within a block the order is [group][row], so that a tile of weights meets its activations in one stream.
// A group that holds NaN or infinity makes its row NaN. Leaves out: other group sizes, float16 and bfloat16 (widened by the caller).
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>

#include "simd.h"

constexpr int kGroup = 32;

struct Activations {  // of one block of rows
  int rows;
  int8_t* codes;  // [group][row][32]
  float* scales;  // [group][row]
  int32_t* sums;  // [group][half][row]: what the comment above calls −zero · Σq, or the bits of scale · Σq
};

enum class Sums { kNegatedZero, kNegatedZeroByHalves, kScaled };

inline size_t round_up(size_t value, size_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// The bytes that a block of rows takes, 44 a group and row; each part begins at a multiple of 64.
inline size_t activation_bytes(size_t rows, size_t groups) { return round_up(rows * groups * (kGroup + 4 + 8), 64) + 128; }

inline Activations activations_at(uint8_t* memory, int rows, size_t groups) {
  uint8_t* scales = memory + round_up(rows * groups * kGroup, 64);
  uint8_t* sums = scales + round_up(rows * groups * 4, 64);
  return {rows, (int8_t*)memory, (float*)scales, (int32_t*)sums};
}

constexpr int kVectors = kGroup / kLanes;  // of a group
using QuarterBytes = int8_t __attribute__((vector_size(kLanes)));

// 32 floats → 32 integers, their sums by halves, and their scale. Adding 1.5 · 2^23 rounds to the nearest, ties to even, on every
// processor alike.
inline float quantize_group(const float* x, int8_t* codes, int32_t (&halves)[2]) {
  Ints bits_of_largest = {};  // of |x|: as integers they order as the floats do, with infinity and NaN above all
  for (int v = 0; v < kVectors; ++v) {
    const Ints bits = load<Ints>(x + v * kLanes) & 0x7fffffff, larger = bits > bits_of_largest;
    bits_of_largest = (bits & larger) | (bits_of_largest & ~larger);
  }
  const int32_t largest_bits = largest_lane(bits_of_largest);
  float largest;
  std::memcpy(&largest, &largest_bits, 4);
  constexpr float kLeast = 1e-35f;  // below it 127 / amax is infinite; such a group counts as zero
  halves[0] = halves[1] = 0;
  if (!(largest >= kLeast && largest_bits < 0x7f800000)) {
    std::memset(codes, 0, kGroup);
    return largest < kLeast ? 0.0f : __builtin_nanf("");
  }
  const float inverse = 127.0f / largest;
  Ints sums[2] = {};
  for (int v = 0; v < kVectors; ++v) {
    const Floats shifted = load<Floats>(x + v * kLanes) * inverse + 12582912.0f;
    Ints rounded;
    std::memcpy(&rounded, &shifted, sizeof rounded);
    rounded -= 0x4b400000;
    sums[2 * v / kVectors] += rounded;
    store(codes + v * kLanes, __builtin_convertvector(rounded, QuarterBytes));
  }
  for (int half = 0; half < 2; ++half) halves[half] = sum_of_lanes(sums[half]);
  return largest * (1.0f / 127.0f);
}

// One row of K floats into row `row` of the block; what is beyond K in the last groups counts as zero.
inline void quantize_row(const float* x, size_t k, size_t groups, Sums kind, int zero, const Activations& out, int row) {
  for (size_t group = 0; group < groups; ++group) {
    float padded[kGroup] = {};
    const float* from = x + group * kGroup;
    if ((group + 1) * kGroup > k) {
      const size_t left = group * kGroup < k ? k - group * kGroup : 0;
      if (left > 0) std::memcpy(padded, from, left * sizeof(float));
      from = padded;
    }
    const size_t at = group * out.rows + row;
    int32_t halves[2];
    const float scale = quantize_group(from, out.codes + at * kGroup, halves);
    out.scales[at] = scale;
    if (kind == Sums::kNegatedZeroByHalves) {
      out.sums[group * 2 * out.rows + row] = -zero * halves[0];
      out.sums[(group * 2 + 1) * out.rows + row] = -zero * halves[1];
    } else if (kind == Sums::kNegatedZero) {
      out.sums[at] = -zero * (halves[0] + halves[1]);
    } else {
      const float scaled = scale * (float)(halves[0] + halves[1]);
      std::memcpy(out.sums + at, &scaled, 4);
    }
  }
}
