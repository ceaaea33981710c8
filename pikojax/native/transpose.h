// A square of kLanes vectors turned over, by zipping them.
#pragma once
#include "simd.h"

#if defined(__clang__)
#define PIKOJAX_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define PIKOJAX_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, Ints{__VA_ARGS__})
#endif

// a0 b0 a1 b1 … : the lower halves of two vectors in turn, and the upper ones.
inline Floats zip_low(Floats a, Floats b) {
#if PIKOJAX_LANES == 16
  return PIKOJAX_SHUFFLE(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
#elif PIKOJAX_LANES == 8
  return PIKOJAX_SHUFFLE(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
#else
  return PIKOJAX_SHUFFLE(a, b, 0, 4, 1, 5);
#endif
}

inline Floats zip_high(Floats a, Floats b) {
#if PIKOJAX_LANES == 16
  return PIKOJAX_SHUFFLE(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
#elif PIKOJAX_LANES == 8
  return PIKOJAX_SHUFFLE(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
#else
  return PIKOJAX_SHUFFLE(a, b, 2, 6, 3, 7);
#endif
}

// Transposes a square of kLanes vectors: log2(kLanes) rounds in which row i is zipped with row i + kLanes / 2.
inline void transpose(Floats (&rows)[kLanes]) {
  for (int round = 1; round < kLanes; round *= 2) {
    Floats zipped[kLanes];
    for (int i = 0; i < kLanes / 2; ++i) {
      zipped[2 * i] = zip_low(rows[i], rows[i + kLanes / 2]);
      zipped[2 * i + 1] = zip_high(rows[i], rows[i + kLanes / 2]);
    }
    for (int i = 0; i < kLanes; ++i) rows[i] = zipped[i];
  }
}

// to[c · stride + lane] = rows[lane][column + c], for kLanes rows and kLanes columns.
inline void transpose(const float* const* rows, int64_t column, float* to, int64_t stride) {
  Floats square[kLanes];
  for (int i = 0; i < kLanes; ++i) square[i] = load(rows[i] + column);
  transpose(square);
  for (int i = 0; i < kLanes; ++i) store(to + i * stride, square[i]);
}
