// Adds up 32-bit words as fast as memory delivers them. Addition modulo 2^32 gives the same sum in any order, so every path,
// every number of threads and the pure path agree to the bit.
// Vector types rather than intrinsics: the compiler turns them into AVX-512, AVX2, SSE2 or NEON, as the flags allow.
#pragma once
#include <cstddef>
#include <cstdint>

#if defined(__AVX512F__)
constexpr size_t kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr size_t kVectorBytes = 32;
#else
constexpr size_t kVectorBytes = 16;
#endif

// aligned(4): loads need no alignment beyond a word's, so a chunk may begin anywhere
typedef uint32_t Words __attribute__((vector_size(kVectorBytes), aligned(4), may_alias));

inline uint32_t sum_words(const uint32_t* words, size_t count) {
  constexpr size_t width = kVectorBytes / sizeof(uint32_t);
  Words a = {}, b = {}, c = {}, d = {};  // four sums, so that no addition waits for the one before it
  size_t i = 0;
  for (; i + 4 * width <= count; i += 4 * width) {
    a += *reinterpret_cast<const Words*>(words + i);
    b += *reinterpret_cast<const Words*>(words + i + width);
    c += *reinterpret_cast<const Words*>(words + i + 2 * width);
    d += *reinterpret_cast<const Words*>(words + i + 3 * width);
  }
  const Words all = (a + b) + (c + d);
  uint32_t sum = 0;
  for (size_t lane = 0; lane < width; ++lane) sum += all[lane];
  for (; i < count; ++i) sum += words[i];
  return sum;
}
