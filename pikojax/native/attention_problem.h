// What one call of decode attention is asked, where a slot lies, and how the work is cut.
//   query row t of batch row b stands at position length[b] − T + t and sees the slots (position − window, position]
// Slots are taken in tiles of 64 and tiles in splits of 2,048, both counted from slot 0: what a row's sum looks like depends on
// nothing but the row, neither on the batch, nor on how many rows there are, nor on the threads.
// Leaves out: checking shapes (attention.cc); wrong lengths, layers and block numbers are clamped here, so that none reads astray.
#pragma once
#include <algorithm>
#include <cstdint>

namespace attention {

constexpr int kTile = 64;
constexpr int64_t kSplit = 2048;
constexpr int64_t kMostTokens = 16;  // that a piece of work serves at once: their sums stay in the first-level cache
constexpr int kGroup = 32;  // values that share a scale, in the formats that have more than one a slot

enum class Kind { float32, bfloat16, int8, int4 };

// The keys, or the values, of one layer.
struct Store {
  Kind kind;
  const uint8_t* data;
  int64_t row_bytes;   // of one slot and head
  const void* scales;  // float16 or float32, `n_scales` a slot and head: 0 (floats), 1, or one for each group of 32
  bool half_scales;
  int n_scales;
};

struct Problem {
  int64_t B, T, H, G, C, S;
  int64_t first, all;  // of `all` tokens these are the T from `first` on
  int64_t window;  // 0: none
  float scale;
  float softcap;  // 0: none
  bool rotated;  // the keys are rotated: rotate the queries too
  const float* q;
  const int32_t* lengths;
  const int32_t* table;  // [B, n_blocks], or null: row b's slots lie in order
  int64_t n_blocks, block, pool;
  Store k, v;
  float* out;

  int64_t rows() const { return T * (H / G); }  // query rows of one kv head: row m is token first + m / R, head g · R + m % R
  int64_t row_at(int64_t b, int64_t g, int64_t m) const {  // where row m stands in q and out
    const int64_t R = H / G;
    return ((b * all + first + m / R) * H + g * R + m % R) * C;
  }
};

struct Range {
  int64_t first, end;  // slots
  bool empty() const { return first >= end; }
};

inline Range seen_by(const Problem& p, int64_t b, int64_t t) {
  const int64_t length = std::clamp<int64_t>(p.lengths[b], 0, p.S + p.all - 1), end = length - p.all + p.first + t + 1;
  return {p.window == 0 ? 0 : std::max<int64_t>(0, end - p.window), std::clamp<int64_t>(end, 0, p.S)};
}

inline Range seen_by_any(const Problem& p, int64_t b) { return {seen_by(p, b, 0).first, seen_by(p, b, p.T - 1).end}; }

// The place of a slot among the slots-and-heads of the layer.
inline int64_t place(const Problem& p, int64_t b, int64_t g, int64_t slot) {
  if (p.table == nullptr) return (b * p.G + g) * p.S + slot;
  const int64_t page = std::clamp<int64_t>(p.table[b * p.n_blocks + slot / p.block], 0, p.pool - 1);
  return (page * p.G + g) * p.block + slot % p.block;
}

// 64 slots. Those that no query row sees are never read: a neighbour that is seen stands in for each, and gets the weight 0.
struct Tile {
  int64_t first;
  int64_t at[kTile];  // their places
  bool in_order;      // at[i] = at[0] + i
  int64_t ahead = 0, n_ahead = 0;  // where the next tile begins, and how many of its slots follow each other there

  Tile(const Problem& p, int64_t b, int64_t g, int64_t first, Range seen) : first(first) {
    in_order = seen.first <= first && first + kTile <= seen.end && (p.table == nullptr || p.block % kTile == 0);
    if (in_order) {
      at[0] = place(p, b, g, first);
      for (int i = 1; i < kTile; ++i) at[i] = at[0] + i;
    } else {
      for (int i = 0; i < kTile; ++i) at[i] = place(p, b, g, std::clamp(first + i, seen.first, seen.end - 1));
      in_order = true;
      for (int i = 1; i < kTile; ++i) in_order &= at[i] == at[0] + i;
    }
    const int64_t next = first + kTile;
    if (next >= seen.end) return;
    ahead = place(p, b, g, next);
    n_ahead = std::min<int64_t>({kTile, seen.end - next, p.block - next % p.block});
  }
};

// Where each slot's row stands in the cache.
inline void find_rows(const Store& store, const Tile& tile, const uint8_t** rows) {
  rows[0] = store.data + tile.at[0] * store.row_bytes;
  if (tile.in_order) {
    for (int s = 1; s < kTile; ++s) rows[s] = rows[0] + s * store.row_bytes;
  } else {
    for (int s = 1; s < kTile; ++s) rows[s] = store.data + tile.at[s] * store.row_bytes;
  }
}

// The rows of the next tile, asked for an eighth at a time while this one is worked on, so that the memory is never idle: the processor's own
// foresight ends with a page. Once they are all asked for there is nothing more to do.
struct Ahead {
  const uint8_t* at[2] = {};
  int64_t left[2] = {}, step[2] = {};  // lines

  Ahead() = default;
  Ahead(const Problem& p, const Tile& tile) {
    for (int i = 0; i < 2; ++i) {
      const Store& store = i == 0 ? p.k : p.v;
      at[i] = store.data + tile.ahead * store.row_bytes, left[i] = (tile.n_ahead * store.row_bytes + 63) / 64;
      step[i] = (kTile / 8 * store.row_bytes + 63) / 64;
    }
  }

  void fetch() {
    for (int i = 0; i < 2; ++i) {
      if (step[i] == 8 && left[i] >= 8) {  // as a rule: instructions saved
        for (int line = 0; line < 8; ++line) __builtin_prefetch(at[i] + line * 64);
        at[i] += 8 * 64, left[i] -= 8;
        continue;
      }
      for (int64_t line = 0; line < step[i] && left[i] > 0; ++line, --left[i], at[i] += 64) __builtin_prefetch(at[i]);
    }
  }
};

}  // namespace attention
