// The vector operations that kernels are written with, once, for AVX-512 with VNNI, AVX2, and any other processor.
//   kLanes outputs side by side: 16, 8 or 4;  Bytes: four bytes a lane;  Ints and Floats: one number a lane
// Plain arithmetic (+ * & | >>) is the compilers' own on vector types; only what they lack is written here, three times.
// Leaves out: whatever no kernel uses; multiply-adds without rounding in between where the processor is not known to have them.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__) && defined(__AVX512VNNI__)
#define PIKOJAX_LANES 16
#elif defined(__AVX2__)
#define PIKOJAX_LANES 8
#else
#define PIKOJAX_LANES 4
#endif
constexpr int kLanes = PIKOJAX_LANES;

typedef uint8_t Bytes __attribute__((vector_size(4 * kLanes)));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));
typedef float Floats __attribute__((vector_size(4 * kLanes)));

template <typename Vector>
inline Vector load(const void* at) {
  Vector vector;
  std::memcpy(&vector, at, sizeof vector);
  return vector;
}

template <typename Vector>
inline void store(void* at, Vector vector) {
  std::memcpy(at, &vector, sizeof vector);
}

inline Floats load(const float* at) { return load<Floats>(at); }
inline Ints load(const int32_t* at) { return load<Ints>(at); }

// The first n floats, zeros behind them; reads nothing beyond.
inline Floats load_some(const float* at, int n) {
  float some[kLanes] = {};
  std::memcpy(some, at, sizeof(float) * n);
  return load(some);
}

inline void store_some(float* at, Floats floats, int n) { std::memcpy(at, &floats, sizeof(float) * n); }

inline Ints all_lanes(int32_t value) { return value - Ints{}; }
inline Floats all_lanes(float value) { return value - Floats{}; }
inline Floats to_float(Ints ints) { return __builtin_convertvector(ints, Floats); }
inline Floats choose(Ints which, Floats yes, Floats no) { return which ? yes : no; }

// The larger of each pair; b where a is no number.
inline Floats larger(Floats a, Floats b) {
#if PIKOJAX_LANES == 16
  return (Floats)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
  return (Floats)_mm256_max_ps((__m256)a, (__m256)b);
#else
  return a > b ? a : b;
#endif
}

// A vector in fours, to be folded.
template <typename Lanes>
struct Fours {
  typedef decltype(Lanes{}[0] + 0) Lane;
  typedef Lane Four __attribute__((vector_size(16)));
  Four parts[kLanes / 4];
  explicit Fours(Lanes lanes) { std::memcpy(parts, &lanes, sizeof lanes); }
};

inline int32_t sum_of_lanes(Ints lanes) {
  const Fours<Ints> fours(lanes);
  auto sum = fours.parts[0];
  for (int i = 1; i < kLanes / 4; ++i) sum += fours.parts[i];
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

inline float sum_of_lanes(Floats lanes) {  // from first to last
  float sum = 0;
  for (int i = 0; i < kLanes; ++i) sum += lanes[i];
  return sum;
}

template <typename Lanes>
inline auto largest_lane(Lanes lanes) {
  const Fours<Lanes> fours(lanes);
  auto most = fours.parts[0];
  for (int i = 1; i < kLanes / 4; ++i) most = fours.parts[i] > most ? fours.parts[i] : most;
  const auto low = most[0] > most[1] ? most[0] : most[1], high = most[2] > most[3] ? most[2] : most[3];
  return low > high ? low : high;
}

inline void prefetch(const uint8_t* at) { __builtin_prefetch(at, 0, 2); }

// One rounding where the processor can, and the same choice everywhere: the build forbids the compiler to fuse a product and a sum by
// itself, for a row's bits must not depend on how many rows the surrounding loop was compiled for.
inline Floats multiply_add(Floats a, Floats b, Floats c) {
#if PIKOJAX_LANES == 16
  return (Floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__)
  return (Floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  return a * b + c;
#endif
}

// Four activations as one number, to be multiplied with the four bytes of each lane.
inline int32_t load_four(const int8_t* at) {
  int32_t four;
  std::memcpy(&four, at, 4);
  return four;
}

// float16 → float32: the exponent is moved into place, and a multiplication by 2^112 corrects its bias, subnormals included.
inline float half_to_float(uint16_t half) {
#if defined(__F16C__)
  return _cvtsh_ss(half);
#else
  const uint32_t exponent_and_fraction = (uint32_t)(half & 0x7fff) << 13;
  const bool special = (half & 0x7c00) == 0x7c00;  // infinity and NaN
  uint32_t bits = exponent_and_fraction;
  float value;
  std::memcpy(&value, &bits, 4);
  value *= 0x1p112f;
  std::memcpy(&bits, &value, 4);
  if (special) bits = 0x7f800000u | exponent_and_fraction;
  bits |= (uint32_t)(half & 0x8000) << 16;
  std::memcpy(&value, &bits, 4);
  return value;
#endif
}

// Σ code · activation over the four bytes of a lane, one step after the other, for codes up to kMost and |activations| up to 127. Exact.
//   dots.begin(start); dots.add(0, factors<kMost>(codes), four); … dots.add(kSteps - 1, …); sum = dots.end(start)
// `start` is given twice, for it enters where that costs least. kChains: how many sums side by side keep the processor busy.
#if PIKOJAX_LANES == 16

constexpr int kChains = 2;

template <int kMost>
using Factors = Bytes;

template <int kMost>
inline Bytes factors(Bytes codes) { return codes; }

template <int kMost, int kSteps>
struct Dots {
  Ints sum;
  void begin(Ints start) { sum = start; }
  void add(int, Bytes codes, int32_t four) { sum = (Ints)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)codes, _mm512_set1_epi32(four)); }
  Ints end(Ints) const { return sum; }
};

// kLanes bytes as floats.
inline Floats load_unsigned(const uint8_t* at) { return to_float((Ints)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)at))); }
inline Floats load_signed(const uint8_t* at) { return to_float((Ints)_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)at))); }

inline Floats load_halves(const uint8_t* at) { return (Floats)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)at)); }

inline Bytes look_up(const uint8_t (&table)[16], Bytes indices) {
  const __m512i tables = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i*)table));
  return (Bytes)_mm512_shuffle_epi8(tables, (__m512i)indices);
}

#elif defined(__AVX2__)

constexpr int kChains = 1;

inline Ints add_pairs(Ints sum, __m256i pairs) { return sum + (Ints)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)); }

// Sums stay in 16 bits, two products to each, for as many steps as they are sure to fit: eight with codes up to 15. Codes above 127,
// of which not even two products fit, become two factors of four bits.
template <int kMost>
struct Factors {
  static constexpr int kBits = kMost > 127 ? 15 : kMost;  // the largest of a factor
  static constexpr int kFit = 32767 / (2 * 127 * kBits);  // steps
  Bytes parts[kMost > 127 ? 2 : 1];
};

template <int kMost>
inline Factors<kMost> factors(Bytes codes) {
  if constexpr (kMost > 127) return {codes & 15, codes >> 4};
  else return {codes};
}

template <int kMost, int kSteps>
struct Dots {
  static constexpr int kParts = kMost > 127 ? 2 : 1, kFit = Factors<kMost>::kFit < kSteps ? Factors<kMost>::kFit : kSteps;
  static_assert(kSteps % kFit == 0, "the last sums of 16 bits would be lost");
  __m256i pairs[kParts];
  Ints sum;
  void begin(Ints) { sum = Ints{}; }
  void add(int step, const Factors<kMost>& codes, int32_t four) {
#pragma GCC unroll 2
    for (int part = 0; part < kParts; ++part) {
      const __m256i products = _mm256_maddubs_epi16((__m256i)codes.parts[part], _mm256_set1_epi32(four));
      pairs[part] = step % kFit == 0 ? products : _mm256_add_epi16(pairs[part], products);
      asm("" : "+x"(pairs[part]));  // in this order: compilers would rather add in a tree, and run out of registers
      if (step % kFit == kFit - 1) sum += (Ints)_mm256_madd_epi16(pairs[part], _mm256_set1_epi16(part == 0 ? 1 : 16));
    }
  }
  Ints end(Ints start) const { return sum + start; }
};

inline Floats load_unsigned(const uint8_t* at) { return to_float((Ints)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)at))); }
inline Floats load_signed(const uint8_t* at) { return to_float((Ints)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)at))); }

inline Floats load_halves(const uint8_t* at) { return (Floats)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)at)); }

inline Bytes look_up(const uint8_t (&table)[16], Bytes indices) {
  const __m256i tables = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)table));
  return (Bytes)_mm256_shuffle_epi8(tables, (__m256i)indices);
}

#else

constexpr int kChains = 1;

template <int kMost>
using Factors = Bytes;

template <int kMost>
inline Bytes factors(Bytes codes) { return codes; }

template <int kMost, int kSteps>
struct Dots {
  Ints sum;
  void begin(Ints start) { sum = start; }
  void add(int, Bytes codes, int32_t four) {
    const Ints lanes = (Ints)codes;
    for (int i = 0; i < 4; ++i) {
      int8_t activation;
      std::memcpy(&activation, (const char*)&four + i, 1);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
      sum += ((lanes >> (8 * i)) & 255) * activation;
#else
      sum += ((lanes >> (24 - 8 * i)) & 255) * activation;
#endif
    }
  }
  Ints end(Ints) const { return sum; }
};

inline Floats load_unsigned(const uint8_t* at) { return Floats{(float)at[0], (float)at[1], (float)at[2], (float)at[3]}; }
inline Floats load_signed(const uint8_t* at) {
  return Floats{(float)(int8_t)at[0], (float)(int8_t)at[1], (float)(int8_t)at[2], (float)(int8_t)at[3]};
}

inline Floats load_halves(const uint8_t* at) {
  Floats floats;
  for (int i = 0; i < kLanes; ++i) {
    uint16_t half;
    std::memcpy(&half, at + 2 * i, 2);
    floats[i] = half_to_float(half);
  }
  return floats;
}

inline Bytes look_up(const uint8_t (&table)[16], Bytes indices) {
  Bytes found;
  for (int i = 0; i < 4 * kLanes; ++i) found[i] = table[indices[i]];
  return found;
}

#endif
