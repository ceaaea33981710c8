// How fast this processor can multiply 8-bit integers: a loop that never leaves the registers, which bounds a product of many rows.
//   GOP/s = multiplications and additions / seconds of the median pass, all threads at once
// With AVX2 a step is three instructions (multiply, add pairs, add). Codes of four bits, whose sums fit in 16 bits for longer, can do better.
// Leaves out: everything else that a real product does between two dot products (conversions, scales, memory).
#include <algorithm>
#include <chrono>
#include <system_error>
#include <thread>
#include <vector>

#include "export.h"
#include "simd.h"

namespace {

// Keeps the compiler from knowing what is in the register, so that it can neither skip nor merge a dot product.
template <typename Vector>
inline void keep(Vector& vector) {
#if defined(__AVX512F__)
  asm volatile("" : "+v"(vector));
#elif defined(__x86_64__)
  asm volatile("" : "+x"(vector));
#else
  asm volatile("" : "+m"(vector));
#endif
}

constexpr int kSums = 12;  // in flight at once

int32_t multiply_often(int64_t times) {
  Ints sums[kSums] = {};
  Bytes codes = Bytes{} + 1;
  int32_t four = 0x01010101;
  for (int64_t i = 0; i < times; ++i) {
#pragma GCC unroll 12
    for (int s = 0; s < kSums; ++s) {
      keep(codes);  // or the products of all sums would be one, made once
      Dots<127, 1> dots;
      dots.begin(sums[s]);
      dots.add(0, factors<127>(codes), four);
      sums[s] = dots.end(sums[s]);
    }
  }
  Ints all = {};
  for (const Ints& sum : sums) all += sum;
  return all[0];
}

}  // namespace

PIKOJAX_EXPORT double pikojax_int8_peak(int threads, int repeats) {
  constexpr int64_t kTimes = 2'000'000;
  std::vector<double> passes_s;
  std::vector<int32_t> results(std::max(threads, 1));
  for (int repeat = 0; repeat < std::max(repeats, 1); ++repeat) {
    const auto begin = std::chrono::steady_clock::now();
    std::vector<std::thread> others;
    try {
      for (int i = 1; i < threads; ++i) others.emplace_back([&, i] { results[i] = multiply_often(kTimes); });
    } catch (const std::system_error&) {  // the system grants no more threads
      for (std::thread& other : others) other.join();
      return 0.0;
    }
    results[0] = multiply_often(kTimes);
    for (std::thread& other : others) other.join();
    passes_s.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  std::nth_element(passes_s.begin(), passes_s.begin() + passes_s.size() / 2, passes_s.end());
  const bool right = results[0] == (int32_t)(kTimes * kSums * 4);  // every code and activation is 1
  return right ? 2.0 * 4 * kLanes * kSums * kTimes * std::max(threads, 1) / passes_s[passes_s.size() / 2] / 1e9 : 0.0;
}
