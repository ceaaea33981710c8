// Vectors of floats for the fused attention, written once for AVX-512, AVX2 and the compiler's baseline (SSE2 or NEON).
//   exp2(x) = 2^n · 2^f,  n = round(x),  f = x − n in [−½, ½],  2^f by a polynomial of degree 6 (relative error 2e-9, then rounding)
// Leaves out: results above 1 (softmax never needs them; x ≤ 0 is assumed), and numbers below 2^-126, which become zero.
#pragma once
#include <cstdint>
#include <cstring>
#include <utility>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

// aligned(4): loads need no alignment beyond a float's, so that arrays of the caller can be read where they lie
typedef float Floats __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));

inline Floats load(const float* from) { return *reinterpret_cast<const Floats*>(from); }
inline Ints load(const int32_t* from) { return *reinterpret_cast<const Ints*>(from); }
inline void store(float* to, Floats x) { *reinterpret_cast<Floats*>(to) = x; }
inline Floats splat(float x) { return x - Floats{}; }
inline Ints splat(int32_t x) { return x - Ints{}; }

// The first n floats, zeros behind them; reads nothing beyond.
inline Floats load_some(const float* from, int n) {
  float some[kLanes] = {};
  std::memcpy(some, from, sizeof(float) * n);
  return load(some);
}

inline void store_some(float* to, Floats x, int n) {
  float some[kLanes];
  store(some, x);
  std::memcpy(to, some, sizeof(float) * n);
}

// One rounding where the processor can, and the same choice everywhere: a row must not depend on which tile computed it.
inline Floats multiply_add(Floats a, Floats b, Floats c) {
#if defined(__AVX512F__)
  return (Floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__)
  return (Floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  return a * b + c;
#endif
}

// The larger of each pair; b where a is no number.
inline Floats larger(Floats a, Floats b) {
#if defined(__AVX512F__)
  return (Floats)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
  return (Floats)_mm256_max_ps((__m256)a, (__m256)b);
#else
  return a > b ? a : b;
#endif
}

inline Floats choose(Ints which, Floats yes, Floats no) { return which ? yes : no; }

#if defined(__clang__)
#define PIKOJAX_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define PIKOJAX_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, Ints{__VA_ARGS__})
#endif

// a0 b0 a1 b1 … : the lower halves of two vectors in turn, and the upper ones.
inline Floats zip_low(Floats a, Floats b) {
#if defined(__AVX512F__)
  return PIKOJAX_SHUFFLE(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
#elif defined(__AVX2__)
  return PIKOJAX_SHUFFLE(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
#else
  return PIKOJAX_SHUFFLE(a, b, 0, 4, 1, 5);
#endif
}

inline Floats zip_high(Floats a, Floats b) {
#if defined(__AVX512F__)
  return PIKOJAX_SHUFFLE(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
#elif defined(__AVX2__)
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

inline float largest(Floats x) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps((__m512)x);
#else
  float most = x[0];
  for (int i = 1; i < kLanes; ++i) most = x[i] > most ? x[i] : most;
  return most;
#endif
}

inline float total(Floats x) {
  float sum = 0;
  for (int i = 0; i < kLanes; ++i) sum += x[i];
  return sum;
}

// 2^x for x ≤ 0: exactly 1 at 0, exactly 0 from −127 down (and so for minus infinity); what is no number stays so.
inline Floats exp2_of_negative(Floats x) {
  x = larger(splat(-127.0f), x);
  const Floats shift = splat(12582912.0f + 127.0f);  // 1.5 · 2^23: adding it rounds to whole numbers; 127: the exponent's bias
  const Floats shifted = x + shift, f = x - (shifted - shift);
  Floats y = splat(0.00015337577497120947f);
  y = multiply_add(y, f, splat(0.0013399859890341759f));
  y = multiply_add(y, f, splat(0.009618519805371761f));
  y = multiply_add(y, f, splat(0.05550329014658928f));
  y = multiply_add(y, f, splat(0.24022646248340607f));
  y = multiply_add(y, f, splat(0.6931471824645996f));
  y = multiply_add(y, f, splat(1.0f));
  return y * (Floats)((Ints)shifted << 23);  // the low bits of `shifted` are n + 127; n = −127 makes a factor of zero
}
