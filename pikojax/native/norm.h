// (x − mean) / √(mean square + ε) of each row of x [rows, width]; without `centered` the mean is left where it is.
//   sums:  lane l of kWidth takes columns l, l + kWidth, …; then the lanes from first to last, then what is left over
// The order hangs on the width alone, so a row has the same bits whatever rows stand beside it. A compiler of tensor programs sums a row
// in another order when there are more of them.
// And softmax of a row, likewise: exp(x − max) / sum, from first to last.
// Leaves out: scale and bias (products of single numbers, which have one order anyway), gradients.
#pragma once
#include <algorithm>
#include <cmath>

#include "gemm.h"

// Σ (x − from)², or Σ x where kSquares is false.
template <bool kSquares>
inline float sum_of_row(const float* x, int64_t width, float from) {
  Vector lanes = {};
  int64_t i = 0;
  for (; i + kWidth <= width; i += kWidth) {
    const Vector away = *reinterpret_cast<const Vector*>(x + i) - from;
    lanes = kSquares ? multiply_add(away, away, lanes) : lanes + away;
  }
  float sum = 0;
  for (int64_t lane = 0; lane < kWidth; ++lane) sum += lanes[lane];
  for (; i < width; ++i) sum += kSquares ? (x[i] - from) * (x[i] - from) : x[i] - from;
  return sum;
}

inline void normalize_row(const float* x, float* y, int64_t width, float eps, bool centered) {
  const float mean = centered ? sum_of_row<false>(x, width, 0.0f) / width : 0.0f;
  const float factor = 1.0f / std::sqrt(sum_of_row<true>(x, width, mean) / width + eps);
  for (int64_t i = 0; i < width; ++i) y[i] = (x[i] - mean) * factor;
}

inline void softmax_row(const float* x, float* y, int64_t width) {
  float most = x[0], sum = 0;
  for (int64_t i = 1; i < width; ++i) most = std::max(most, x[i]);
  for (int64_t i = 0; i < width; ++i) sum += y[i] = std::exp(x[i] - most);
  for (int64_t i = 0; i < width; ++i) y[i] /= sum;
}
