// Runs fused attention on odd shapes, from threads that claim items, with arrays of exactly their size: for the sanitizers.
// Checks the exponential first. Prints Σ |o| + |dq| + |dk| + |dv| of each shape, the same whatever the number of threads:
//   flash_check THREADS
#include <atomic>
#include <cstdio>
#include <random>
#include <thread>
#include <tuple>
#include <vector>

#include "flash_backward.h"

struct Case {
  int64_t batch, queries, keys, heads, groups, width, window, offset;
  bool head_major, segmented;
};

template <typename Run>
void in_threads(int threads, int64_t items, const Run& run) {
  std::atomic<int64_t> next{0};
  const auto work = [&] {
    for (int64_t item; (item = next++) < items;) {
      if (!run(item)) std::abort();
    }
  };
  std::vector<std::thread> all;
  for (int i = 0; i < threads; ++i) all.emplace_back(work);
  for (std::thread& thread : all) thread.join();
}

// 2^x against the C library's in double precision.
void check_exp2() {
  const auto ours = [](float x) { return exp2_of_negative(all_lanes(x))[kLanes - 1]; };
  for (float x = 0; x > -126; x -= 0.00037f) {
    if (std::fabs(ours(x) / std::exp2(static_cast<double>(x)) - 1) > 1.5e-7) std::abort();
  }
  const bool ends = ours(0) == 1 && ours(-127) == 0 && ours(-1e30f) == 0 && ours(-kInfinity) == 0 && std::isnan(ours(NAN));
  if (!ends) std::abort();
}

int main(int, char** arguments) {
  check_exp2();
  const int threads = std::atoi(arguments[1]);
  const int64_t whole = int64_t{1} << 62;
  for (const Case& c : {Case{1, 1, 1, 1, 1, 16, whole, 0, false, false}, Case{2, 67, 67, 4, 2, 80, whole, 0, false, true},
                        Case{1, 130, 200, 6, 1, 17, whole, 70, true, false}, Case{3, 5, 300, 2, 2, 96, 33, 290, false, false},
                        Case{2, 129, 129, 3, 3, 1, 64, 0, false, true}, Case{1, 70, 65, 2, 1, 250, whole, 0, false, false},
                        Case{1, 0, 9, 2, 1, 8, whole, 0, false, false}, Case{2, 3, 0, 2, 1, 8, whole, 0, false, false},
                        Case{1, 600, 600, 1, 1, 33, 100, 0, false, false}, Case{1, 4, 80, 5, 1, 24, whole, -2, true, false}}) {
    std::mt19937 random(1);
    const auto filled = [&](int64_t n) {
      std::vector<float> x(n);
      for (float& value : x) value = std::normal_distribution<float>()(random);
      return x;
    };
    const int64_t q_count = c.batch * c.queries * c.heads * c.width, k_count = c.batch * c.keys * c.groups * c.width;
    const auto q = filled(q_count), k = filled(k_count), v = filled(k_count), d_o = filled(q_count);
    std::vector<float> o(q_count), dq(q_count), dk(k_count), dv(k_count), lse(c.batch * c.heads * c.queries);
    const std::vector<int32_t> offset(c.batch, static_cast<int32_t>(c.offset));
    std::vector<int32_t> segments(c.segmented ? c.batch * c.keys : 0);
    for (size_t i = 0; i < segments.size(); ++i) segments[i] = static_cast<int32_t>(i / 11);

    Attention x;
    x.q = q.data(), x.k = k.data(), x.v = v.data(), x.offset = offset.data();
    x.segments = c.segmented ? segments.data() : nullptr;
    x.batch = c.batch, x.queries = c.queries, x.keys = c.keys, x.heads = c.heads, x.groups = c.groups, x.width = c.width;
    x.k_batch = c.keys * c.groups * c.width;
    x.k_key = c.head_major ? c.width : c.groups * c.width, x.k_group = c.head_major ? c.keys * c.width : c.width;
    x.window = c.window, x.scale = 1.0f / std::sqrt(static_cast<float>(c.width));

    const ForwardItems items(x);
    in_threads(threads, items.count, [&](int64_t item) { return forward_item(x, items, item, o.data(), lse.data()); });
    const Gradients grads{o.data(), lse.data(), d_o.data(), dq.data(), dk.data(), dv.data()};
    in_threads(threads, x.batch * x.groups, [&](int64_t item) { return backward_item(x, item, grads); });
    double sum = 0;
    for (const auto* array : {&o, &dq, &dk, &dv}) {
      for (const float value : *array) sum += std::fabs(value);
    }
    if (!std::isfinite(sum)) std::abort();
    std::printf("%a\n", sum);
  }
}
