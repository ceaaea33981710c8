// The float32 products by themselves, for sanitizers: odd shapes in every order, in buffers of exactly their size, against a plain loop,
// the same bits whatever the number of threads, and from the product of few rows (rows.h) too; norms (norm.h) likewise. Prints "ok" and the number
// of comparisons.
#include "norm.h"
#include "rows.h"

#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <thread>
#include <vector>

namespace {

struct InThreads {
  int threads;
  template <typename Run>
  void operator()(int64_t tasks, const Run& run) const {
    std::atomic<int64_t> next{0};
    const auto work = [&] {
      for (int64_t task; (task = next++) < tasks;) run(task);
    };
    std::vector<std::thread> others;
    for (int i = 1; i < threads; ++i) others.emplace_back(work);
    work();
    for (std::thread& other : others) other.join();
  }
};

std::vector<float> numbers(int64_t count, uint32_t seed) {
  std::vector<float> out(count);
  for (float& value : out) value = static_cast<float>((seed = seed * 1664525u + 1013904223u) >> 8) / (1 << 23) - 1.0f;
  return out;
}

bool check(int64_t M, int64_t N, int64_t K, bool left_transposed, bool right_transposed) {
  const std::vector<float> left = numbers(M * K, 1), right = numbers(K * N, 2);
  const Operand a = {left.data(), left_transposed ? 1 : K, left_transposed ? M : 1};
  const Operand b = {right.data(), right_transposed ? K : 1, right_transposed ? 1 : N};
  std::vector<float> first;
  for (const int threads : {1, 2, 5}) {
    std::vector<float> out(M * N, NAN);
    gemm(a, b, out.data(), M, N, K, threads, InThreads{threads});
    if (first.empty()) first = out;
    if (!out.empty() && std::memcmp(first.data(), out.data(), out.size() * sizeof(float)) != 0) return false;
  }
  if (!left_transposed) {
    for (const int threads : {1, 5}) {
      std::vector<float> out(M * N, NAN);
      few_rows(left.data(), right.data(), right_transposed, out.data(), M, N, K, threads, InThreads{threads});
      if (!out.empty() && std::memcmp(first.data(), out.data(), out.size() * sizeof(float)) != 0) return false;
    }
  }
  for (int64_t i = 0; i < M; ++i) {
    for (int64_t j = 0; j < N; ++j) {
      double sum = 0;
      for (int64_t k = 0; k < K; ++k) sum += double(*a.from(i, k).at) * *b.from(j, k).at;
      if (!(std::abs(sum - first[i * N + j]) <= 1e-6 * (K + 1))) return false;
    }
  }
  return true;
}

bool check_norm(int64_t width, bool centered) {
  const std::vector<float> x = numbers(width, 3);
  std::vector<float> y(width, NAN);
  normalize_row(x.data(), y.data(), width, 1e-5f, centered);
  double mean = 0, square = 0;
  for (int64_t i = 0; centered && i < width; ++i) mean += double(x[i]) / width;
  for (int64_t i = 0; i < width; ++i) square += (x[i] - mean) * (x[i] - mean) / width;
  for (int64_t i = 0; i < width; ++i) {
    if (!(std::abs((x[i] - mean) / std::sqrt(square + 1e-5) - y[i]) <= 1e-4)) return false;
  }
  return true;
}

}  // namespace

int main() {
  const int64_t shapes[][3] = {{0, 3, 4}, {3, 0, 4},  {3, 4, 0},   {1, 1, 1},     {1, 1, 500},  {1, 49, 7},   {9, 1, 193},
                               {7, 5, 3}, {8, 48, 9}, {13, 97, 3}, {67, 50, 385}, {200, 3, 11}, {3, 900, 40}, {530, 70, 31}, {63, 259, 70}, {17, 65, 400}};
  int compared = 0;
  for (const auto& [M, N, K] : shapes) {
    for (int order = 0; order < 4; ++order, ++compared) {
      if (!check(M, N, K, order & 1, order & 2)) return std::printf("wrong: %ld x %ld x %ld, order %d\n", long(M), long(N), long(K), order), 1;
    }
  }
  for (const int64_t width : {0, 1, 7, 16, 172, 2048}) {
    for (const bool centered : {false, true}) {
      if (!check_norm(width, centered)) return std::printf("wrong: the norm of %ld numbers\n", long(width)), 1;
      ++compared;
    }
  }
  std::printf("ok %d\n", compared);
}
