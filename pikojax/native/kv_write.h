// New keys or values into the cache, in its format, each batch row from its own length on: what kernels/kv_formats.py's `quantize_kv`
// says, in one pass and in place.
//   int8:  s = max|x| / 127      int4:  s = max(max x / 7, −min x / 8)      q = round(x / s), s as it is kept (float16 or float32)
// A slot beyond the end is left out. And an empty cache: zeros that take memory when they are first written.
// Leaves out: XLA (attention.cc), reading (attention.h).
#pragma once
#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

#include <cmath>
#include <cstring>
#include <limits>

#include "attention.h"

namespace attention {

struct Write {
  int64_t B, T, G, C, S;
  const float* x;  // [B, T, G, C]
  const int32_t* lengths;
  const int32_t* table;  // [B, n_blocks], or null
  int64_t n_blocks, block, pool;
  bool rotated;
  Store store;  // of which data and scales are written
};

// To the nearest, ties to even; what is too large for a half becomes the greatest one, as a scale may not be infinite.
inline uint16_t float_to_half(float x) {
  uint32_t bits;
  x = x > 65504.0f ? 65504.0f : x;
  std::memcpy(&bits, &x, 4);
  const uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return static_cast<uint16_t>(sign | 0x7e00);
  if (magnitude < 0x38800000) {  // below the least normal half: a multiple of 2^-24
    const float steps = std::nearbyint(std::fabs(x) * 16777216.0f);
    return static_cast<uint16_t>(sign | static_cast<uint32_t>(steps));
  }
  const uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000) >> 13));
}

inline float keep_scale(const Store& store, int64_t at, int64_t group, float scale) {
  const int64_t i = at * store.n_scales + group;
  if (!store.half_scales) {
    const_cast<float*>(static_cast<const float*>(store.scales))[i] = scale;
    return scale;
  }
  const uint16_t half = float_to_half(scale);
  const_cast<uint16_t*>(static_cast<const uint16_t*>(store.scales))[i] = half;
  return half_to_float(half);
}

// n values of one scale → whole numbers from `least` to `most`.
inline void quantize(const Store& store, int64_t at, int64_t group, const float* x, int64_t n, float least, float most, float* out) {
  float high = 0, low = 0;
  bool is_nan = false;
  for (int64_t i = 0; i < n; ++i) high = std::max(high, x[i]), low = std::max(low, -x[i]), is_nan |= x[i] != x[i];
  float scale = store.kind == Kind::int8 ? std::max(high, low) / 127 : std::max(high / 7, low / 8);
  scale = is_nan ? std::numeric_limits<float>::quiet_NaN() : std::min(scale, std::numeric_limits<float>::max());
  const float kept = keep_scale(store, at, group, scale), inverse = kept > 0 ? 1 / kept : 0.0f;
  // The constant rounds to whole numbers, ties to even; NaN, which compares with nothing, becomes `least`.
  for (int64_t i = 0; i < n; ++i) out[i] = std::min(most, std::max(least, x[i] * inverse + 12582912.0f - 12582912.0f));
}

inline void write_slot(const Write& w, int64_t at, float* x, float* whole) {
  const Store& store = w.store;
  uint8_t* row = const_cast<uint8_t*>(store.data) + at * store.row_bytes;
  if (store.kind == Kind::float32) return static_cast<void>(std::memcpy(row, x, w.C * sizeof(float)));
  if (store.kind == Kind::bfloat16) {
    for (int64_t c = 0; c < w.C; ++c) {
      uint32_t bits;
      std::memcpy(&bits, x + c, 4);
      const bool nan = (bits & 0x7fffffff) > 0x7f800000;
      const uint16_t high = static_cast<uint16_t>(nan ? (bits >> 16 | 0x40) : (bits + 0x7fff + (bits >> 16 & 1)) >> 16);
      std::memcpy(row + 2 * c, &high, 2);
    }
    return;
  }
  if (w.rotated) rotate(x, w.C);
  if (store.kind == Kind::int8) {
    const int64_t wide = store.n_scales == 1 ? w.C : kGroup;
    for (int64_t c = 0, group = 0; c < w.C; c += wide, ++group) {
      const int64_t n = std::min(wide, w.C - c);
      quantize(store, at, group, x + c, n, -127, 127, whole);
      for (int64_t i = 0; i < n; ++i) row[c + i] = static_cast<uint8_t>(static_cast<int8_t>(whole[i]));
    }
    return;
  }
  for (int64_t c = 0, group = 0; c < w.C; c += kGroup, ++group) {
    const int64_t n = std::min<int64_t>(kGroup, w.C - c);
    std::fill(whole, whole + kGroup, 0.0f);
    quantize(store, at, group, x + c, n, -8, 7, whole);
    for (int i = 0; i < 16; ++i) {
      row[c / 2 + i] = static_cast<uint8_t>(static_cast<int>(whole[i] + 8) | static_cast<int>(whole[i + 16] + 8) << 4);
    }
  }
}

// Pages that are given back to the system come again as zeros, one by one as they are touched.
inline void zero_lazily(uint8_t* memory, size_t bytes) {
  uint8_t *first = memory, *end = memory + bytes;
#if defined(__linux__)
  const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE)), at = reinterpret_cast<uintptr_t>(memory);
  uint8_t *whole = memory + (page - at % page) % page, *whole_end = end - reinterpret_cast<uintptr_t>(end) % page;
  if (whole < whole_end && madvise(whole, static_cast<size_t>(whole_end - whole), MADV_DONTNEED) == 0) {
    std::memset(first, 0, static_cast<size_t>(whole - first));
    first = whole_end;
  }
#endif
  std::memset(first, 0, static_cast<size_t>(end - first));
}

template <typename Parallel>
void write(const Write& w, const Parallel& parallel) {
  constexpr int64_t kTokensOfChunk = 32;
  const int64_t tokens = w.B * w.T;
  parallel((tokens + kTokensOfChunk - 1) / kTokensOfChunk, [&](int64_t chunk) {
    std::vector<float> memory(w.C + std::max<int64_t>(w.C, kGroup));
    for (int64_t token = chunk * kTokensOfChunk; token < std::min(tokens, (chunk + 1) * kTokensOfChunk); ++token) {
      const int64_t b = token / w.T, slot = w.lengths[b] + token % w.T;
      if (slot < 0 || slot >= w.S) continue;
      int64_t page = b;
      if (w.table != nullptr) page = std::clamp<int64_t>(w.table[b * w.n_blocks + slot / w.block], 0, w.pool - 1);
      for (int64_t g = 0; g < w.G; ++g) {
        std::memcpy(memory.data(), w.x + (token * w.G + g) * w.C, w.C * sizeof(float));
        write_slot(w, (page * w.G + g) * w.block + slot % w.block, memory.data(), memory.data() + w.C);
      }
    }
  });
}

}  // namespace attention
