// Copies a block of an operand into panels: kLanes values side by side for each step along the sum, then the next step. What a
// panel lacks at the end of the operand is zero, so the tiles need no edges on this side.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>

#if defined(__AVX__)
#include <immintrin.h>
#endif

// A matrix as a product sees it: `lanes` are its rows (left operand) or columns (right operand), `depth` is what is summed over.
// One of the strides is 1; which one says whether it lies transposed in memory.
struct Operand {
  const float* at;
  int64_t lane_stride, depth_stride;
  Operand from(int64_t lane, int64_t depth) const { return {at + lane * lane_stride + depth * depth_stride, lane_stride, depth_stride}; }
};

#if defined(__AVX__)
// Up to 8 lanes of 8 consecutive values each → 8 steps, written in order, of 8 lanes; those beyond kPresent are the last ones again.
template <int kPresent = 8>
inline void transpose_8x8(const float* from, int64_t lane_stride, float* to, int64_t to_stride) {
  __m256 mixed[8];  // lanes i and i + 4 in the halves: the shuffles below stay within halves
  for (int i = 0; i < 4; ++i) {
    const float *low = from + i * lane_stride, *high = from + std::min(i + 4, kPresent - 1) * lane_stride;
    mixed[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(low)), _mm_loadu_ps(high), 1);
    mixed[i + 4] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(low + 4)), _mm_loadu_ps(high + 4), 1);
  }
  for (int half = 0; half < 8; half += 4) {
    const __m256 a = _mm256_unpacklo_ps(mixed[half], mixed[half + 1]), b = _mm256_unpackhi_ps(mixed[half], mixed[half + 1]);
    const __m256 c = _mm256_unpacklo_ps(mixed[half + 2], mixed[half + 3]), d = _mm256_unpackhi_ps(mixed[half + 2], mixed[half + 3]);
    _mm256_storeu_ps(to + half * to_stride, _mm256_shuffle_ps(a, c, 0x44));
    _mm256_storeu_ps(to + (half + 1) * to_stride, _mm256_shuffle_ps(a, c, 0xee));
    _mm256_storeu_ps(to + (half + 2) * to_stride, _mm256_shuffle_ps(b, d, 0x44));
    _mm256_storeu_ps(to + (half + 3) * to_stride, _mm256_shuffle_ps(b, d, 0xee));
  }
}

// A panel of fewer than 8 lanes: each step is written with what the next one replaces, the last one lane by lane, for nothing may
// follow it.
template <int64_t kLanes>
inline void pack_narrow(const float* from, int64_t lane_stride, int64_t depth, float* to) {
  int64_t k = 0;
  for (; k + 8 < depth; k += 8) transpose_8x8<kLanes>(from + k, lane_stride, to + k * kLanes, kLanes);
  for (; k < depth; ++k)
    for (int64_t lane = 0; lane < kLanes; ++lane) to[k * kLanes + lane] = from[lane * lane_stride + k];
}
#endif

// `steps` steps of one panel from rows that lie `stride` apart. A narrow row is copied with some of what stands beside it, which the
// next one replaces; there is always a row below to read that from, but for the last.
template <int64_t kLanes>
inline void copy_steps(const float* row, int64_t stride, int64_t steps, float* out) {
#if defined(__AVX__)
  for (; kLanes < 8 && steps > 1; --steps, row += stride, out += kLanes) _mm256_storeu_ps(out, _mm256_loadu_ps(row));
#endif
  for (; steps > 0; --steps, row += stride, out += kLanes) std::memcpy(out, row, kLanes * sizeof(float));
}

// Lanes lie side by side: a few rows at a time, of which every panel gets its piece, while the next few are asked for.
template <int64_t kLanes>
void pack_rows(const Operand& from, int64_t lanes, int64_t depth, float* to) {
  constexpr int64_t kRowsAtOnce = 8, kLine = 64 / sizeof(float);
  const int64_t whole = lanes / kLanes * kLanes;
  for (int64_t k = 0; k < depth; k += kRowsAtOnce) {
    const float* row = from.at + k * from.depth_stride;
    const int64_t steps = std::min(kRowsAtOnce, depth - k), ahead = std::min(kRowsAtOnce, depth - k - steps);
    for (int64_t i = steps; i < steps + ahead; ++i)
      for (int64_t lane = 0; lane < lanes; lane += kLine) __builtin_prefetch(row + i * from.depth_stride + lane);
    float* out = to + k * kLanes;
    for (int64_t lane = 0; lane < whole; lane += kLanes, out += depth * kLanes) copy_steps<kLanes>(row + lane, from.depth_stride, steps, out);
    if (whole == lanes) continue;
    for (int64_t i = 0; i < steps; ++i, row += from.depth_stride)
      for (int64_t lane = whole; lane < whole + kLanes; ++lane) *out++ = lane < lanes ? row[lane] : 0.0f;
  }
}

// Steps lie side by side: panels are transposed blocks.
template <int64_t kLanes>
void pack_columns(const Operand& from, int64_t lanes, int64_t depth, float* to) {
  for (int64_t first = 0; first < lanes; first += kLanes, to += depth * kLanes) {
    const float* lane_0 = from.at + first * from.lane_stride;
    const int64_t present = std::min(kLanes, lanes - first);
    int64_t lane = 0;
#if defined(__AVX__)
    for (; kLanes % 8 == 0 && lane + 8 <= present; lane += 8) {
      const float* source = lane_0 + lane * from.lane_stride;
      int64_t k = 0;
      for (; k + 8 <= depth; k += 8) transpose_8x8(source + k, from.lane_stride, to + k * kLanes + lane, kLanes);
      for (; k < depth; ++k)
        for (int64_t i = 0; i < 8; ++i) to[k * kLanes + lane + i] = source[i * from.lane_stride + k];
    }
    if (kLanes < 8 && present == kLanes) {
      for (; lane < kLanes; lane = kLanes) pack_narrow<kLanes>(lane_0, from.lane_stride, depth, to);
    }
#endif
    for (; lane < kLanes; ++lane)
      for (int64_t k = 0; k < depth; ++k) to[k * kLanes + lane] = lane < present ? lane_0[lane * from.lane_stride + k] : 0.0f;
  }
}

template <int64_t kLanes>
void pack(const Operand& from, int64_t lanes, int64_t depth, float* to) {
  from.lane_stride == 1 ? pack_rows<kLanes>(from, lanes, depth, to) : pack_columns<kLanes>(from, lanes, depth, to);
}
