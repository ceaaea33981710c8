// The float32 product of few rows, C[M, N] = A[M, K] · B[K, N], or · Bᵀ where B lies as [N, K]: what a decode step calls. Reading B is the
// cost, so B is read along its rows, once for each 16 rows of A; sums stay in the first-level cache.
//
//     a stripe of columns a task; K in gemm.h's steps, in parts of kPart; four values of k at a time:   sum[row][n] ← fma(a[row][k], b[k][n], sum[row][n])
//
// Each element is summed in gemm.h's order: within a step from first to last k, then step by step. So a row has the same bits among few
// rows as among many, and it does not matter which of the two computed it.
// Leaves out: arithmetic at full speed; from some 64 rows on gemm.h is faster.
#pragma once
#include "gemm.h"

constexpr int64_t kStripe = 256;    // columns of sums at a time
constexpr int64_t kPart = 64;       // of a step: with a stripe of B it stays in the second-level cache for the next rows
constexpr int64_t kTurned = 64;     // columns that are turned over at a time, where B lies transposed
constexpr int64_t kLeastColumns = 64;  // of a task

inline float multiply_add(float a, float b, float c) {
#if defined(__FMA__)
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}

// kDepth values of k: `rows` of A (its rows `a_stride` apart), lines of B `b_stride` apart, sums kStripe apart.
template <int kRowsNow, int kDepth>
inline __attribute__((always_inline)) void add_products(const float* a, int64_t a_stride, const float* b, int64_t b_stride, int64_t columns, float* sums) {
  Vector factor[kRowsNow][kDepth];
  for (int row = 0; row < kRowsNow; ++row)
    for (int k = 0; k < kDepth; ++k) factor[row][k] = a[row * a_stride + k] - Vector{};
  int64_t n = 0;
  for (; n + kWidth <= columns; n += kWidth) {
    Vector line[kDepth];
    for (int k = 0; k < kDepth; ++k) line[k] = *reinterpret_cast<const Vector*>(b + k * b_stride + n);
    for (int row = 0; row < kRowsNow; ++row) {
      Vector* sum = reinterpret_cast<Vector*>(sums + row * kStripe + n);
      Vector now = *sum;
      for (int k = 0; k < kDepth; ++k) now = multiply_add(factor[row][k], line[k], now);
      *sum = now;
    }
  }
  for (; n < columns; ++n)
    for (int row = 0; row < kRowsNow; ++row)
      for (int k = 0; k < kDepth; ++k) sums[row * kStripe + n] = multiply_add(a[row * a_stride + k], b[k * b_stride + n], sums[row * kStripe + n]);
}

template <int kRowsNow>
void add_part(const float* a, int64_t a_stride, const float* b, int64_t b_stride, int64_t depth, int64_t columns, float* sums) {
  int64_t k = 0;
  for (; k + 4 <= depth; k += 4) add_products<kRowsNow, 4>(a + k, a_stride, b + k * b_stride, b_stride, columns, sums);
  for (; k < depth; ++k) add_products<kRowsNow, 1>(a + k, a_stride, b + k * b_stride, b_stride, columns, sums);
}

// One part of a step for all rows.
inline void add_rows(const float* a, int64_t a_stride, int64_t rows, const float* b, int64_t b_stride, int64_t depth, int64_t columns, float* sums) {
  for (int64_t row = 0; row < rows;) {
    const float* a_now = a + row * a_stride;
    float* sums_now = sums + row * kStripe;
    const int64_t left = rows - row;
    if (left >= 4) add_part<4>(a_now, a_stride, b, b_stride, depth, columns, sums_now), row += 4;
    else if (left >= 2) add_part<2>(a_now, a_stride, b, b_stride, depth, columns, sums_now), row += 2;
    else add_part<1>(a_now, a_stride, b, b_stride, depth, columns, sums_now), row += 1;
  }
}

constexpr int64_t kRowsAtOnce = 16;  // their sums, 16 KB, stay in the first-level cache

// Rows first … first + rows of a stripe of C, `columns` wide.
inline void stripe(const float* a, const Operand& b, bool turned, float* c, int64_t rows, int64_t columns, int64_t N, int64_t K, int64_t step) {
  alignas(64) float sums[kRowsAtOnce * kStripe];
  alignas(64) float block[kPart * kTurned];
  for (int64_t k = 0; k < K; k += step) {
    const int64_t depth = std::min(step, K - k);
    for (int64_t row = 0; row < rows; ++row) std::fill(sums + row * kStripe, sums + row * kStripe + columns, 0.0f);
    for (int64_t part = 0; part < depth; part += kPart) {
      const int64_t deep = std::min(kPart, depth - part);
      if (!turned) {
        add_rows(a + k + part, K, rows, b.at + (k + part) * b.depth_stride, b.depth_stride, deep, columns, sums);
        continue;
      }
      for (int64_t n = 0; n < columns; n += kTurned) {
        const int64_t wide = std::min(kTurned, columns - n);
        pack_columns<kTurned>(b.from(n, k + part), wide, deep, block);
        add_rows(a + k + part, K, rows, block, kTurned, deep, wide, sums + n);
      }
    }
    for (int64_t row = 0; row < rows; ++row) {
      float *to = c + row * N, *from = sums + row * kStripe;
      if (k == 0) std::copy(from, from + columns, to);
      else for (int64_t n = 0; n < columns; ++n) to[n] += from[n];
    }
  }
}

// All of C: `run(tasks, what)` calls what(task) for each task, perhaps on several threads.
template <typename Run>
void few_rows(const float* a, const float* b, bool transposed, float* c, int64_t M, int64_t N, int64_t K, int threads, const Run& run) {
  if (M == 0 || N == 0) return;
  if (K == 0) return std::fill(c, c + M * N, 0.0f);
  const Operand columns_of_b = {b, transposed ? K : 1, transposed ? 1 : N};
  const int64_t step = parts(K, parts(K, kStep));
  const int64_t wide = std::clamp(parts(parts(N, 2 * threads), kLeastColumns) * kLeastColumns, kLeastColumns, kStripe);
  run(parts(N, wide), [&](int64_t task) {
    const int64_t n = task * wide, columns = std::min(wide, N - n);
    for (int64_t row = 0; row < M; row += kRowsAtOnce) {
      stripe(a + row * K, columns_of_b.from(n, 0), transposed, c + row * N + n, std::min(kRowsAtOnce, M - row), columns, N, K, step);
    }
  });
}
