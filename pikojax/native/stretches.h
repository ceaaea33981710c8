// How threads share what each reads once from end to end: in long stretches first and short ones last.
//   16 pieces, 2 threads → 4, 3, 2, 1, 1, 1, 1, 1, 1, 1
// Whenever a thread begins somewhere else, its stream of reads has to gather way again; and none should wait long for another.
#pragma once
#include <algorithm>
#include <cstddef>
#include <vector>

// Where the stretches begin, and the end; none is shorter than `least`, but the last.
inline std::vector<size_t> stretches(size_t pieces, size_t least, int threads) {
  std::vector<size_t> bounds = {0};
  while (bounds.back() < pieces) {
    const size_t left = pieces - bounds.back(), share = left / (2 * (size_t)std::max(threads, 1));
    bounds.push_back(bounds.back() + std::min(left, std::max({share, least, size_t{1}})));
  }
  return bounds;
}
