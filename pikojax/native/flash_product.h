// Small dense products on packed blocks, the arithmetic of fused attention:
//   c[m][n] = keep[m] · c[m][n] + Σ_k a(m, k) · b[k][n],   a(m, k) = a[m][k], or a[k][m] where kTransposed
// A tile of c stays in registers while k runs. Each number of c is one chain of multiply-adds over k in order, whatever tile it
// falls into, so that a row's result does not depend on the rows beside it; a zero in `a` leaves the chain as it is.
// Leaves out: blocking for caches (the blocks are small enough), columns that fill no whole vector (packing pads with zeros).
#pragma once
#include "exp2.h"
#include "transpose.h"

constexpr int kBlock = 64;  // queries and keys in a block
constexpr int kTileRows = 6;
#if PIKOJAX_LANES == 16 || defined(__aarch64__)
constexpr int kTileVectors = 4;  // 24 of 32 registers hold the tile
#else
constexpr int kTileVectors = 2;  // 12 of 16
#endif

template <bool kTransposed, int kRows, int kVectors>
inline void product_tile(int depth, const float* a, int64_t lda, const float* b, int64_t ldb, float* c, int64_t ldc,
                         const float* keep) {
  Floats sum[kRows][kVectors];
#pragma GCC unroll 8
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 8
    for (int n = 0; n < kVectors; ++n) sum[m][n] = keep ? load(c + m * ldc + n * kLanes) * all_lanes(keep[m]) : Floats{};
  }
  for (int k = 0; k < depth; ++k) {
    Floats row[kVectors];
#pragma GCC unroll 8
    for (int n = 0; n < kVectors; ++n) row[n] = load(b + k * ldb + n * kLanes);
#pragma GCC unroll 8
    for (int m = 0; m < kRows; ++m) {
      const Floats factor = all_lanes(kTransposed ? a[k * lda + m] : a[m * lda + k]);
#pragma GCC unroll 8
      for (int n = 0; n < kVectors; ++n) sum[m][n] = multiply_add(factor, row[n], sum[m][n]);
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 8
    for (int n = 0; n < kVectors; ++n) store(c + m * ldc + n * kLanes, sum[m][n]);
  }
}

template <bool kTransposed, int kRows>
inline void product_rows(int vectors, int depth, const float* a, int64_t lda, const float* b, int64_t ldb, float* c, int64_t ldc,
                         const float* keep) {
  const int tiles = (vectors + kTileVectors - 1) / kTileVectors;
  for (int tile = 0, done = 0; tile < tiles; ++tile) {
    const int n = (vectors - done + tiles - tile - 1) / (tiles - tile);  // shares as even as can be: 5 vectors are 3 and 2
    const float* b_n = b + done * kLanes;
    float* c_n = c + done * kLanes;
    if (n == 1) product_tile<kTransposed, kRows, 1>(depth, a, lda, b_n, ldb, c_n, ldc, keep);
    if (n == 2) product_tile<kTransposed, kRows, 2>(depth, a, lda, b_n, ldb, c_n, ldc, keep);
    if constexpr (kTileVectors == 4) {
      if (n == 3) product_tile<kTransposed, kRows, 3>(depth, a, lda, b_n, ldb, c_n, ldc, keep);
      if (n == 4) product_tile<kTransposed, kRows, 4>(depth, a, lda, b_n, ldb, c_n, ldc, keep);
    }
    done += n;
  }
}

// Up to kTileRows rows of c; `keep` null: what stands in c is forgotten.
template <bool kTransposed>
inline void product(int rows, int vectors, int depth, const float* a, int64_t lda, const float* b, int64_t ldb, float* c,
                    int64_t ldc, const float* keep) {
  static_assert(kTileRows == 6, "the cases below");
  const int64_t a_row = kTransposed ? 1 : lda;
  if (rows == 6) return product_rows<kTransposed, 6>(vectors, depth, a, lda, b, ldb, c, ldc, keep);
  if (rows >= 4) {
    product_rows<kTransposed, 4>(vectors, depth, a, lda, b, ldb, c, ldc, keep);
    a += 4 * a_row, c += 4 * ldc, keep = keep ? keep + 4 : keep, rows -= 4;
  }
  for (; rows > 0; --rows, a += a_row, c += ldc, keep = keep ? keep + 1 : keep) {
    product_rows<kTransposed, 1>(vectors, depth, a, lda, b, ldb, c, ldc, keep);
  }
}

// Copies `rows` rows of `width` floats, times `scale`, into rows of `padded` floats; zeros fill up to kBlock rows and each row.
inline void pack_rows(const float* from, int64_t stride, int rows, int width, int padded, float scale, float* to) {
  const int whole = width / kLanes * kLanes;
  for (int row = 0; row < rows; ++row, from += stride, to += padded) {
    for (int c = 0; c < whole; c += kLanes) store(to + c, load(from + c) * all_lanes(scale));
    if (whole < padded) store(to + whole, load_some(from + whole, width - whole) * all_lanes(scale));
  }
  std::memset(to, 0, sizeof(float) * (kBlock - rows) * padded);
}

// The same rows as columns: to[c][row], kBlock columns, `padded` rows.
inline void pack_columns(const float* from, int64_t stride, int rows, int width, int padded, float* to) {
  for (int row = 0; row < kBlock; row += kLanes) {
    for (int c = 0; c < padded; c += kLanes) {
      Floats square[kLanes];
      for (int i = 0; i < kLanes; ++i) {
        if (row + i >= rows) {
          square[i] = Floats{};
          continue;
        }
        const float* at = from + (row + i) * stride + c;
        square[i] = c + kLanes <= width ? load(at) : load_some(at, width - c);
      }
      transpose(square);
      for (int i = 0; i < kLanes; ++i) store(to + (c + i) * kBlock + row, square[i]);
    }
  }
}

// Writes `rows` rows of `width` floats, each times its factor; adds to what is there where kAdd.
template <bool kAdd>
inline void unpack_rows(const float* from, int rows, int width, int padded, const float* factors, int64_t factor_stride,
                        float* to, int64_t stride) {
  const int whole = width / kLanes * kLanes;
  for (int row = 0; row < rows; ++row, from += padded, to += stride, factors += factor_stride) {
    const Floats factor = all_lanes(*factors);
    for (int c = 0; c < whole; c += kLanes) store(to + c, load(from + c) * factor + (kAdd ? load(to + c) : Floats{}));
    if (whole == width) continue;
    const int n = width - whole;
    store_some(to + whole, load(from + whole) * factor + (kAdd ? load_some(to + whole, n) : Floats{}), n);
  }
}
