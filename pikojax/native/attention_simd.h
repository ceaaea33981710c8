// Vectors of float for attention: 16, 8 or 4 lanes, whatever the flags allow, and 2^x on them.
//   2^x = 2^n · 2^f,  n = round(x),  f in [-1/2, 1/2];  2^f by a polynomial of degree 6, off by 2e-9 before rounding
// Leaves out: integers (attention_int8.h needs them on one path only), x above 127, gradual underflow: below 2^-126 comes 0.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace attention {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif
typedef float Vec __attribute__((vector_size(4 * kLanes)));
typedef int32_t IntVec __attribute__((vector_size(4 * kLanes)));

inline Vec load(const float* from) {
  Vec v;
  std::memcpy(&v, from, sizeof v);
  return v;
}
inline void store(float* to, Vec v) { std::memcpy(to, &v, sizeof v); }
inline Vec splat(float x) { return x - Vec{}; }

// Every multiply-add is written out as one, and the build forbids the compiler to make others: a row's bits must not depend on
// how many rows the surrounding loop was compiled for.
inline Vec fma(Vec a, Vec b, Vec c) {
#if defined(__AVX512F__)
  return (Vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__)
  return (Vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  return a * b + c;
#endif
}

inline Vec max(Vec a, Vec b) {
#if defined(__AVX512F__)
  return (Vec)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
  return (Vec)_mm256_max_ps((__m256)a, (__m256)b);
#else
  return a > b ? a : b;
#endif
}

inline float greatest(Vec v) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps((__m512)v);
#else
  float most = v[0];
  for (int lane = 1; lane < kLanes; ++lane) most = v[lane] > most ? v[lane] : most;
  return most;
#endif
}

inline float sum(Vec v) {
  float total = 0;
  for (int lane = 0; lane < kLanes; ++lane) total += v[lane];
  return total;
}

// 2^x for x ≤ 127 (−∞ gives 0; NaN stays NaN on the vector paths).
inline Vec exp2(Vec x) {
  const Vec magic = splat(12582912.0f);  // 1.5 · 2^23: adding it drops the fraction
  const Vec n = (x + magic) - magic, f = x - n;
  Vec y = splat(0x1.41d334p-13f);
  y = fma(y, f, splat(0x1.5f456ap-10f));
  y = fma(y, f, splat(0x1.3b2dbcp-7f));
  y = fma(y, f, splat(0x1.c6aed4p-5f));
  y = fma(y, f, splat(0x1.ebfbdap-3f));
  y = fma(y, f, splat(0x1.62e430p-1f));
  y = fma(y, f, splat(1.0f));
#if defined(__AVX512F__)
  const __mmask16 not_zero = _mm512_cmp_ps_mask((__m512)x, (__m512)splat(-126.0f), _CMP_NLT_UQ);
  return (Vec)_mm512_maskz_scalef_ps(not_zero, (__m512)y, (__m512)n);
#else
  const IntVec power = (__builtin_convertvector(max(n, splat(-127.0f)), IntVec) + 127) << 23;
  Vec scale;
  std::memcpy(&scale, &power, sizeof scale);
  return x < splat(-126.0f) ? splat(0.0f) : y * scale;
#endif
}

typedef float Four __attribute__((vector_size(16)));
inline void store(float* to, Four v) { std::memcpy(to, &v, sizeof v); }

// The greatest lane of each of four vectors.
inline Four greatest_of_four(const Vec (&v)[4]) {
#if defined(__AVX512F__)
  const auto both = [](__m512 a, __m512 b) { return _mm512_max_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)); };
  const __m512d ab = (__m512d)both((__m512)v[0], (__m512)v[1]), cd = (__m512d)both((__m512)v[2], (__m512)v[3]);
  const __m512 all = _mm512_max_ps((__m512)_mm512_unpacklo_pd(ab, cd), (__m512)_mm512_unpackhi_pd(ab, cd));
  const __m256 half = _mm256_max_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
  return (Four)_mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
#else
  return Four{greatest(v[0]), greatest(v[1]), greatest(v[2]), greatest(v[3])};
#endif
}

// 2^a and 2^b, one after the other; `out` has room for 16.
inline void exp2_of_eight(Four a, Four b, float* out) {
#if defined(__AVX512F__)
  store(out, exp2((Vec)_mm512_insertf32x4(_mm512_zextps128_ps512((__m128)a), (__m128)b, 1)));
#else
  store(out, a);
  store(out + 4, b);
  for (int i = 0; i < 8; i += kLanes) store(out + i, exp2(load(out + i)));
#endif
}

inline float half_to_float(uint16_t h) {
#if defined(__F16C__)
  return _cvtsh_ss(h);
#else
  const uint32_t sign = uint32_t(h & 0x8000) << 16, rest = h & 0x7fff;
  if (rest < 0x0400) return (sign ? -1.0f : 1.0f) * float(rest) * 0x1p-24f;  // zero and subnormal
  const uint32_t bits = sign | (rest < 0x7c00 ? (rest << 13) + (112u << 23) : (rest << 13) | 0x7f800000u);
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
#endif
}

#if defined(__AVX512F__)
// Rows to columns: out[c · out_stride + i] = the c-th 32 bits of a[i].
inline void transpose(__m512i (&a)[16], void* out, int out_stride) {
  __m512i b[16];
  for (int i = 0; i < 16; i += 2) {
    b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
    b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    for (int j = 0; j < 2; ++j) {
      a[i + 2 * j] = _mm512_unpacklo_epi64(b[i + j], b[i + 2 + j]);
      a[i + 2 * j + 1] = _mm512_unpackhi_epi64(b[i + j], b[i + 2 + j]);
    }
  }
  int32_t* to = static_cast<int32_t*>(out);
  for (int i = 0; i < 4; ++i) {  // a[4 k + i]: columns i, 4 + i, 8 + i, 12 + i of rows 4 k … 4 k + 3, one column a 128-bit lane
    const __m512i even = _mm512_shuffle_i32x4(a[i], a[4 + i], 0x88), odd = _mm512_shuffle_i32x4(a[i], a[4 + i], 0xdd);
    const __m512i even2 = _mm512_shuffle_i32x4(a[8 + i], a[12 + i], 0x88), odd2 = _mm512_shuffle_i32x4(a[8 + i], a[12 + i], 0xdd);
    _mm512_storeu_si512(to + i * out_stride, _mm512_shuffle_i32x4(even, even2, 0x88));
    _mm512_storeu_si512(to + (4 + i) * out_stride, _mm512_shuffle_i32x4(odd, odd2, 0x88));
    _mm512_storeu_si512(to + (8 + i) * out_stride, _mm512_shuffle_i32x4(even, even2, 0xdd));
    _mm512_storeu_si512(to + (12 + i) * out_stride, _mm512_shuffle_i32x4(odd, odd2, 0xdd));
  }
}
#endif

// Rows to columns: out[c · out_stride + lane] = rows[lane][column + c] for kLanes rows and kLanes columns.
inline void transpose(const float* const* rows, int64_t column, float* out, int out_stride) {
#if defined(__AVX512F__)
  __m512i a[16];
  for (int i = 0; i < 16; ++i) a[i] = _mm512_loadu_si512(rows[i] + column);
  transpose(a, out, out_stride);
#elif defined(__AVX2__)
  __m256 a[8], b[8];
  for (int i = 0; i < 8; ++i) a[i] = _mm256_loadu_ps(rows[i] + column);
  for (int i = 0; i < 8; i += 2) {
    b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]);
    b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    for (int j = 0; j < 2; ++j) {
      a[i + 2 * j] = _mm256_shuffle_ps(b[i + j], b[i + 2 + j], 0x44);
      a[i + 2 * j + 1] = _mm256_shuffle_ps(b[i + j], b[i + 2 + j], 0xee);
    }
  }
  for (int i = 0; i < 4; ++i) {
    _mm256_storeu_ps(out + i * out_stride, _mm256_permute2f128_ps(a[i], a[4 + i], 0x20));
    _mm256_storeu_ps(out + (4 + i) * out_stride, _mm256_permute2f128_ps(a[i], a[4 + i], 0x31));
  }
#else
  for (int lane = 0; lane < kLanes; ++lane) {
    for (int c = 0; c < kLanes; ++c) out[c * out_stride + lane] = rows[lane][column + c];
  }
#endif
}

}  // namespace attention
