// What fused attention is asked for: arrays and strides, and which keys a query may see.
//   query i of row b stands at position offset_b + i and sees the keys at positions  max(0, position − window + 1) … position
//   of its own segment
#pragma once
#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>

#include "flash_product.h"

constexpr int kSuperBlocks = 4;  // blocks of queries or keys that share what was packed for them

struct Attention {
  const float *q, *k, *v;   // q [batch, queries, heads, width]; k, v at the strides below, their last axis dense
  const int32_t* offset;    // [batch]
  const int32_t* segments;  // [batch, keys], or null
  int64_t batch, queries, keys, heads, groups, width;
  int64_t k_batch, k_key, k_group;  // strides of k and v in floats
  int64_t window;
  float scale;

  int64_t heads_a_group() const { return heads / groups; }
  int padded() const { return static_cast<int>((width + kLanes - 1) / kLanes * kLanes); }
  int64_t q_at(int64_t b, int64_t query, int64_t head) const { return ((b * queries + query) * heads + head) * width; }
  int64_t k_at(int64_t b, int64_t key, int64_t group) const { return b * k_batch + key * k_key + group * k_group; }
  int64_t row_at(int64_t b, int64_t head, int64_t query) const { return (b * heads + head) * queries + query; }
  int64_t first_key(int64_t position) const { return std::max<int64_t>(0, position - window + 1); }
  int64_t last_key(int64_t position) const { return std::min(position, keys - 1); }
};

// A block of queries of one head against a block of keys.
struct Pair {
  int64_t position;  // of the first query
  int queries;
  int64_t key;  // the first
  int keys;
};

// Whether any of the queries may see any of the keys. Looking at more would change no bit: what is masked adds exact zeros.
inline bool any_seen(const Attention& x, int64_t b, const Pair& pair) {
  const int64_t last = pair.position + pair.queries - 1;
  if (pair.key > last || pair.key + pair.keys <= x.first_key(pair.position)) return false;
  if (!x.segments) return true;
  const int32_t* segments = x.segments + b * x.keys;
  const auto of_queries = std::minmax_element(segments + pair.position, segments + std::min(last + 1, x.keys));
  const auto of_keys = std::minmax_element(segments + pair.key, segments + pair.key + pair.keys);
  return *of_queries.first <= *of_keys.second && *of_keys.first <= *of_queries.second;
}

// The keys of the block that a query at `position` may see are those from `first` to `last`, of its segment if there is one.
struct Seen {
  int first = 0, last = 0;
  const int32_t* segments = nullptr;  // of the block's keys, kBlock of them
  int32_t segment = 0;

  Seen() = default;
  Seen(const Attention& x, const Pair& pair, int64_t position, const int32_t* key_segments, const int32_t* row_segments)
      : first(static_cast<int>(std::max<int64_t>(x.first_key(position) - pair.key, 0))),
        last(static_cast<int>(std::min<int64_t>(position - pair.key, pair.keys - 1))),
        segments(key_segments),
        segment(key_segments ? row_segments[position] : 0) {}
  bool all() const { return first == 0 && last == kBlock - 1 && !segments; }
  Ints at(int column) const {
    Ints key;
    for (int i = 0; i < kLanes; ++i) key[i] = column + i;
    Ints seen = (key >= all_lanes(first)) & (key <= all_lanes(last));
    if (segments) seen &= load(segments + column) == all_lanes(segment);
    return seen;
  }
};

// A thread's working memory, kept from call to call. Null where there is none to be had.
inline float* scratch(int64_t floats) {
  struct Free {
    void operator()(float* memory) const { std::free(memory); }
  };
  thread_local std::unique_ptr<float, Free> memory;
  thread_local int64_t size = 0;
  if (size < floats) {
    void* fresh = nullptr;
    size = 0;
    memory.reset();
    if (posix_memalign(&fresh, 64, sizeof(float) * floats) != 0) return nullptr;
    memory.reset(static_cast<float*>(fresh));
    size = floats;
  }
  return memory.get();
}

// Hands out pieces of it, each aligned as vectors like it.
struct Pieces {
  float* next;
  float* take(int64_t floats) {
    float* piece = next;
    next += (floats + 15) / 16 * 16;
    return piece;
  }
};

// The segments of a block's keys, filled up to kBlock: null where there are none.
inline const int32_t* block_segments(const Attention& x, int64_t b, const Pair& pair, int32_t* filled) {
  if (!x.segments) return nullptr;
  std::copy_n(x.segments + b * x.keys + pair.key, pair.keys, filled);
  std::fill(filled + pair.keys, filled + kBlock, 0);  // beyond `last`, so never looked at
  return filled;
}
