// The float32 product of few rows, C[M, N] = A[M, K] · B[K, N], or · Bᵀ where B lies as [N, K]: what a decode step calls. Reading B is the
// cost, so B is read along its rows in pieces as long as can be, once for each 16 rows of A; sums stay in the first-level cache.
//
//     a stripe of columns a task, or one step of K of it; K in parts of kPart; four values of k at a time:   sum[row][n] ← fma(a[row][k], b[k][n], sum[row][n])
//
// Each element is summed in gemm.h's order: within a step from first to last k, then step by step. So a row has the same bits among few
// rows as among many, and it does not matter which of the two computed it. Where N has too few stripes to share, threads take steps, whose
// sums are added in their order at the end: memory delivers whole rows of B sooner than a piece of each.
// Leaves out: arithmetic at full speed; from some 64 rows on gemm.h is faster.
#pragma once
#include <vector>

#include "gemm.h"

constexpr int64_t kRowsAtOnce = 16;
constexpr int64_t kSums = 4096;     // of a stripe: 16 KB, half of the first-level cache
constexpr int64_t kPart = 64;       // of a step: with a stripe of B it stays in the second-level cache for the next rows
constexpr int64_t kTurned = 4096;   // numbers of B that are turned over at a time, where it lies transposed: for few rows of A in long pieces
constexpr int64_t kLeastColumns = 64;  // of a stripe

inline float multiply_add(float a, float b, float c) {
#if defined(__FMA__)
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}

// kDepth values of k: `rows` of A (its rows `a_stride` apart), lines of B `b_stride` apart, sums `sums_stride` apart.
template <int kRowsNow, int kDepth>
inline __attribute__((always_inline)) void add_products(const float* a, int64_t a_stride, const float* b, int64_t b_stride, int64_t columns, float* sums, int64_t sums_stride) {
  Vector factor[kRowsNow][kDepth];
  for (int row = 0; row < kRowsNow; ++row)
    for (int k = 0; k < kDepth; ++k) factor[row][k] = a[row * a_stride + k] - Vector{};
  int64_t n = 0;
  for (; n + kWidth <= columns; n += kWidth) {
    Vector line[kDepth];
    for (int k = 0; k < kDepth; ++k) line[k] = *reinterpret_cast<const Vector*>(b + k * b_stride + n);
    for (int row = 0; row < kRowsNow; ++row) {
      Vector* sum = reinterpret_cast<Vector*>(sums + row * sums_stride + n);
      Vector now = *sum;
      for (int k = 0; k < kDepth; ++k) now = multiply_add(factor[row][k], line[k], now);
      *sum = now;
    }
  }
  for (; n < columns; ++n)
    for (int row = 0; row < kRowsNow; ++row)
      for (int k = 0; k < kDepth; ++k) sums[row * sums_stride + n] = multiply_add(a[row * a_stride + k], b[k * b_stride + n], sums[row * sums_stride + n]);
}

template <int kRowsNow>
void add_part(const float* a, int64_t a_stride, const float* b, int64_t b_stride, int64_t depth, int64_t columns, float* sums, int64_t sums_stride) {
  int64_t k = 0;
  for (; k + 4 <= depth; k += 4) add_products<kRowsNow, 4>(a + k, a_stride, b + k * b_stride, b_stride, columns, sums, sums_stride);
  for (; k < depth; ++k) add_products<kRowsNow, 1>(a + k, a_stride, b + k * b_stride, b_stride, columns, sums, sums_stride);
}

// One part of a step for all rows.
inline void add_rows(const float* a, int64_t a_stride, int64_t rows, const float* b, int64_t b_stride, int64_t depth, int64_t columns, float* sums, int64_t sums_stride) {
  for (int64_t row = 0; row < rows;) {
    const float* a_now = a + row * a_stride;
    float* sums_now = sums + row * sums_stride;
    const int64_t left = rows - row;
    if (left >= 4) add_part<4>(a_now, a_stride, b, b_stride, depth, columns, sums_now, sums_stride), row += 4;
    else if (left == 3) add_part<3>(a_now, a_stride, b, b_stride, depth, columns, sums_now, sums_stride), row += 3;
    else if (left >= 2) add_part<2>(a_now, a_stride, b, b_stride, depth, columns, sums_now, sums_stride), row += 2;
    else add_part<1>(a_now, a_stride, b, b_stride, depth, columns, sums_now, sums_stride), row += 1;
  }
}

// A step where B lies transposed, kWide columns turned over at a time.
template <int64_t kWide>
void add_turned(const float* a, int64_t a_stride, int64_t rows, const Operand& b, int64_t depth, int64_t columns, float* sums) {
  alignas(64) float block[kTurned];
  for (int64_t part = 0; part < depth; part += kTurned / kWide) {
    const int64_t deep = std::min(kTurned / kWide, depth - part);
    for (int64_t n = 0; n < columns; n += kWide) {
      const int64_t wide = std::min(kWide, columns - n);
      pack_columns<kWide>(b.from(n, part), wide, deep, block);
      add_rows(a + part, a_stride, rows, block, kWide, deep, wide, sums + n, columns);
    }
  }
}

// One step, from k on: `rows` rows of a stripe, `columns` wide. The sums replace what is in c, or are added to it.
inline void step_of_stripe(const float* a, const Operand& b, bool turned, float* c, int64_t rows, int64_t columns, int64_t N, int64_t K, int64_t k, int64_t depth, bool add) {
  alignas(64) float sums[kSums];
  std::fill(sums, sums + rows * columns, 0.0f);
  if (turned) {
    rows <= 2 ? add_turned<16>(a + k, K, rows, b.from(0, k), depth, columns, sums) : add_turned<64>(a + k, K, rows, b.from(0, k), depth, columns, sums);
  } else {
    for (int64_t part = 0; part < depth; part += kPart)
      add_rows(a + k + part, K, rows, b.at + (k + part) * b.depth_stride, b.depth_stride, std::min(kPart, depth - part), columns, sums, columns);
  }
  for (int64_t row = 0; row < rows; ++row) {
    float *to = c + row * N, *from = sums + row * columns;
    if (!add) std::copy(from, from + columns, to);
    else for (int64_t n = 0; n < columns; ++n) to[n] += from[n];
  }
}

// All of C: `run(tasks, what)` calls what(task) for each task, perhaps on several threads.
template <typename Run>
void few_rows(const float* a, const float* b, bool transposed, float* c, int64_t M, int64_t N, int64_t K, int threads, const Run& run) {
  if (M == 0 || N == 0) return;
  if (K == 0) return std::fill(c, c + M * N, 0.0f);
  const Operand columns_of_b = {b, transposed ? K : 1, transposed ? 1 : N};
  const int64_t step = parts(K, parts(K, kStep)), steps = parts(K, step), rows_now = std::min(M, kRowsAtOnce);
  const int64_t widest = std::min(parts(N, kLeastColumns) * kLeastColumns, kSums / rows_now / kLeastColumns * kLeastColumns);
  const bool by_steps = steps > 1 && parts(N, widest) < 2 * threads;
  const int64_t least_tasks = 2 * threads, together = by_steps ? steps : 1;
  int64_t wide = widest;  // narrower, where there are too few tasks for an even share
  while (wide > kLeastColumns && parts(N, wide) * together < least_tasks && parts(N, wide) * together % threads != 0)
    wide = std::max(kLeastColumns, wide / 2 / kLeastColumns * kLeastColumns);
  const int64_t stripes = parts(N, wide);
  std::vector<float> later(by_steps ? (steps - 1) * M * N : 0);  // sums of the steps after the first
  run(stripes * together, [&](int64_t task) {
    const int64_t n = task % stripes * wide, columns = std::min(wide, N - n);
    const int64_t first = by_steps ? task / stripes : 0, end = by_steps ? first + 1 : steps;
    float* to = (first == 0 ? c : later.data() + (first - 1) * M * N) + n;
    for (int64_t row = 0; row < M; row += kRowsAtOnce)
      for (int64_t s = first; s < end; ++s)
        step_of_stripe(a + row * K, columns_of_b.from(n, 0), transposed, to + row * N, std::min(kRowsAtOnce, M - row), columns, N, K, s * step, std::min(step, K - s * step), s > first);
  });
  for (size_t i = 0; i < later.size(); ++i) c[i % (M * N)] += later[i];
}
