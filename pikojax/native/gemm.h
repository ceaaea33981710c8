// The float32 matrix product C[M, N] = A[M, K] · B[K, N], blocked for the caches.
//
// C is cut into blocks, one a task. For each, K goes in steps. A step's part of B is packed (gemm_pack.h), then that of A, a few rows at a
// time: as many as stay in the second-level cache. Every read below is then consecutive. Tiles of kRows × kColumns sums, held in
// registers, run down those rows, while a panel of B (kColumns wide) stays in the first-level cache. Threads share nothing but the two
// operands, so each packs for itself.
//
// An element is the sum over k of the products in one order: within a step from first to last, then the steps from first to last.
// The steps depend on K alone. So its bits depend on its own row of A and column of B, not on the number of threads, nor on what
// other rows and columns there are.
// Leaves out: float64, bfloat16, batches of small products, fewer rows than a tile (reading B is then the cost, not arithmetic).
#pragma once
#include <atomic>
#include <memory>
#include <new>

#include "gemm_pack.h"

#if defined(__AVX512F__)
constexpr int64_t kWidth = 16, kRows = 8, kVectors = 3;  // 24 of the 32 registers hold sums, 3 a row of B
constexpr int64_t kStep = 192;                           // a panel of B: 36 KB, of 48 KB
constexpr int64_t kPackedRows = 512;                     // a step of A: 384 KB, of 2 MB
#else
#if defined(__AVX2__)
constexpr int64_t kWidth = 8, kRows = 6, kVectors = 2;  // 12 of the 16 registers hold sums, 2 a row of B, 1 a number of A
#else
constexpr int64_t kWidth = 4, kRows = 4, kVectors = 3;
#endif
constexpr int64_t kStep = 384;        // a panel of B: 24 KB, of 32 KB
constexpr int64_t kPackedRows = 120;  // a step of A: 180 KB, of 512 KB
#endif
constexpr int64_t kColumns = kVectors * kWidth, kBlockColumns = 768;
constexpr int64_t kTasksAThread = 2;  // so that one that is interrupted holds up less

typedef float Vector __attribute__((vector_size(kWidth * sizeof(float)), aligned(4), may_alias));

// Written out: the build forbids the compiler to fuse a product and a sum by itself.
inline __attribute__((always_inline)) Vector multiply_add(Vector a, Vector b, Vector c) {
#if defined(__AVX512F__)
  return (Vector)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__) && defined(__FMA__)
  return (Vector)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  return a * b + c;
#endif
}

// `next_c`: where the tile after this one goes. Its lines are asked for row by row between the products: all at once, they would hold
// up the reading of A.
template <bool kAdd>
inline __attribute__((always_inline)) void tile(const float* a, const float* b, int64_t depth, float* c, int64_t c_stride,
                                                const float* next_c) {
  Vector sums[kRows][kVectors];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 3
    for (int j = 0; j < kVectors; ++j) sums[i][j] = Vector{};
  }
  int64_t k = 0;
#pragma GCC unroll 1
  for (int64_t part = 1; part <= kRows; ++part, next_c += c_stride) {
#pragma GCC unroll 3
    for (int j = 0; j < kVectors; ++j) __builtin_prefetch(next_c + j * kWidth, 1);
#pragma GCC unroll 1
    for (const int64_t end = depth * part / kRows; k < end; ++k, a += kRows, b += kColumns) {
      Vector row[kVectors];
#pragma GCC unroll 3
      for (int j = 0; j < kVectors; ++j) row[j] = *reinterpret_cast<const Vector*>(b + j * kWidth);
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) {
        const Vector factor = a[i] - Vector{};  // in every lane
#pragma GCC unroll 3
        for (int j = 0; j < kVectors; ++j) sums[i][j] = multiply_add(factor, row[j], sums[i][j]);
      }
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 3
    for (int j = 0; j < kVectors; ++j) {
      Vector* to = reinterpret_cast<Vector*>(c + i * c_stride + j * kWidth);
      *to = kAdd ? *to + sums[i][j] : sums[i][j];
    }
  }
}

// A tile of which only `rows` × `columns` exist: the same arithmetic, written to a whole tile beside.
template <bool kAdd>
void partial_tile(const float* a, const float* b, int64_t depth, float* c, int64_t c_stride, int64_t rows, int64_t columns) {
  float whole[kRows * kColumns];
  tile<false>(a, b, depth, whole, kColumns, whole);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) {
      float& to = c[i * c_stride + j];
      to = kAdd ? to + whole[i * kColumns + j] : whole[i * kColumns + j];
    }
  }
}

template <bool kAdd>
void tiles(const float* a, const float* b, int64_t depth, float* c, int64_t c_stride, int64_t rows, int64_t columns) {
  for (int64_t j = 0; j < columns; j += kColumns) {
    for (int64_t i = 0; i < rows; i += kRows) {
      const int64_t high = std::min(kRows, rows - i), wide = std::min(kColumns, columns - j);
      const float *panel_a = a + i * depth, *panel_b = b + j * depth;
      float* to = c + i * c_stride + j;
      if (high == kRows && wide == kColumns) {
        const float* next = i + kRows < rows ? to + kRows * c_stride : c + j + kColumns;  // may end beyond C: it is not read
        tile<kAdd>(panel_a, panel_b, depth, to, c_stride, next);
      } else {
        partial_tile<kAdd>(panel_a, panel_b, depth, to, c_stride, high, wide);
      }
    }
  }
}

inline int64_t parts(int64_t whole, int64_t most) { return (whole + most - 1) / most; }

// `whole` in equal parts of at most `most`, each a multiple of `unit`.
inline int64_t part_size(int64_t whole, int64_t most, int64_t unit) { return parts(parts(whole, parts(whole, most)), unit) * unit; }

struct Cut {
  int64_t rows, columns;  // of a block
};

// Each row of blocks packs all of B, each column of them all of A: of the ways to have enough blocks, the one that packs least.
inline Cut cut_up(int64_t M, int64_t N, int64_t threads) {
  Cut best = {M, N};
  int64_t least = INT64_MAX;
  for (int64_t across = parts(N, kBlockColumns); across <= parts(N, kColumns); ++across) {
    const int64_t columns = part_size(N, parts(N, across), kColumns), rows = part_size(M, parts(M, parts(kTasksAThread * threads, across)), kRows);
    const int64_t packed = N * parts(M, rows) + M * parts(N, columns);
    if (packed < least) least = packed, best = {rows, columns};
  }
  return best;
}

// One thread's panels. They stay with it: memory that is taken anew for every product has to be cleared by the system each time.
struct Panels {
  std::unique_ptr<float[]> memory;
  int64_t size = 0;
  float* of(int64_t wanted) {
    if (wanted > size) {
      size = 0;  // what is freed here must not be handed out if there is no more
      memory.reset();
      memory.reset(new float[wanted + 16]);
      size = wanted;
    }
    return memory.get() + (64 - reinterpret_cast<uintptr_t>(memory.get()) % 64) % 64 / sizeof(float);
  }
};

// for_tasks(n, run) calls run(0 … n − 1), on as many of `threads` as it likes. Throws std::bad_alloc, and nothing else.
template <typename ForTasks>
void gemm(const Operand& a, const Operand& b, float* c, int64_t M, int64_t N, int64_t K, int64_t threads, const ForTasks& for_tasks) {
  if (M == 0 || N == 0) return;
  if (K == 0) return std::fill(c, c + M * N, 0.0f);
  const Cut cut = cut_up(M, N, threads);
  const int64_t rows = cut.rows, columns = cut.columns, down = parts(M, rows), across = parts(N, columns);
  const int64_t step = parts(K, parts(K, kStep)), packed_rows = part_size(rows, kPackedRows, kRows);
  std::atomic<bool> failed{false};  // an exception must not leave a thread of the pool
  for_tasks(down * across, [&](int64_t task) {
    static thread_local Panels panels;
    const int64_t i = task / across * rows, j = task % across * columns;
    const int64_t high = std::min(rows, M - i), wide = std::min(columns, N - j);
    float* packed_b = nullptr;
    try {
      packed_b = panels.of((packed_rows + columns) * step);
    } catch (const std::bad_alloc&) {
      failed = true;
      return;
    }
    float* packed_a = packed_b + columns * step;
    for (int64_t k = 0; k < K; k += step) {
      const int64_t depth = std::min(step, K - k);
      pack<kColumns>(b.from(j, k), wide, depth, packed_b);
      for (int64_t row = 0; row < high; row += packed_rows) {
        const int64_t packed = std::min(packed_rows, high - row);
        pack<kRows>(a.from(i + row, k), packed, depth, packed_a);
        (k == 0 ? tiles<false> : tiles<true>)(packed_a, packed_b, depth, c + (i + row) * N + j, N, packed, wide);
      }
    }
  });
  if (failed) throw std::bad_alloc();
}
