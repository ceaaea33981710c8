// Sums across vectors with AVX2: of eight vectors the sum of each one's lanes, side by side in one.
//   a0 … a7, b0 … b7, …  →  Σa, Σb, …: in three rounds, each of which halves how many vectors there are
// For products of rows that are read where they lie; what turns its rows first has nothing to fold.
#pragma once
#include "simd.h"

#if PIKOJAX_LANES == 8

// a0 + a1, a2 + a3, b0 + b1, b2 + b3, and the same of the upper halves.
template <typename Vector>
inline Vector fold_pairs(Vector a, Vector b) {
  return (Vector)_mm256_shuffle_ps((__m256)a, (__m256)b, 0x88) + (Vector)_mm256_shuffle_ps((__m256)a, (__m256)b, 0xdd);
}

// The lower half of a and that of its upper one, then the same of b.
template <typename Vector>
inline Vector fold_halves(Vector a, Vector b) {
  return (Vector)_mm256_permute2f128_ps((__m256)a, (__m256)b, 0x20) + (Vector)_mm256_permute2f128_ps((__m256)a, (__m256)b, 0x31);
}

// Of eight vectors, of which `two(i, sums)` makes the i-th and the next for each of R rows (so many fit into registers): in fours[h][r] the
// sums of the lower halves of vectors 4 h … 4 h + 3, then those of their upper halves.
template <int R, typename Vector, typename Two>
inline void fold_fours(const Two& two, Vector (&fours)[2][R]) {
  for (int four = 0; four < 2; ++four) {
    Vector pairs[2][R];
    for (int pair = 0; pair < 2; ++pair) {
      Vector sums[2][R] = {};
      two(four * 4 + pair * 2, sums);
      for (int r = 0; r < R; ++r) pairs[pair][r] = fold_pairs(sums[0][r], sums[1][r]);
    }
    for (int r = 0; r < R; ++r) fours[four][r] = fold_pairs(pairs[0][r], pairs[1][r]);
  }
}

// The sums of all lanes of the eight.
template <int R, typename Vector, typename Two>
inline void fold_eight(const Two& two, Vector (&out)[R]) {
  Vector fours[2][R];
  fold_fours<R>(two, fours);
  for (int r = 0; r < R; ++r) out[r] = fold_halves(fours[0][r], fours[1][r]);
}

#endif
