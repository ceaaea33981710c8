// Fused attention, forward: o = softmax(q · kᵀ · scale) · v by the running softmax, never more than a few rows of scores at once.
//   for each block of keys:  m' = max(m, max s)   p = 2^(s − m')   l = l · 2^(m − m') + Σ p   o = o · 2^(m − m') + p · v
//   at the end  o / l,  and  lse = m + log2 l,  all of it the backward pass needs to make p again
// Scores are in base 2: q is packed times scale · log2 e. Key blocks begin at multiples of kBlock whatever the queries are, so
// that a query's result is the same bits alone, in a chunk of a prompt, and in the whole.
#pragma once
#include <cmath>
#include <limits>

#include "flash_shape.h"

constexpr float kLog2E = 1.44269504088896341f, kLn2 = 0.69314718055994531f;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Some heads of one group × a few blocks of queries: they share the packed keys and values.
struct ForwardItems {
  int64_t heads, blocks;            // in an item
  int64_t head_items, block_items;  // of each group, of each row
  int64_t count;

  explicit ForwardItems(const Attention& x) : heads(1) {
    for (int64_t n = 1; n <= 2 * kSuperBlocks; ++n) heads = x.heads_a_group() % n == 0 ? n : heads;
    blocks = std::max<int64_t>(1, kSuperBlocks / heads);
    head_items = x.heads_a_group() / heads;
    block_items = (x.queries + kBlock * blocks - 1) / (kBlock * blocks);
    count = x.batch * x.groups * head_items * block_items;
  }
};

// What is known of a block of queries so far.
struct Running {
  const float* q;     // [kBlock, padded], scaled
  float* o;           // [kBlock, padded]
  float* most;        // m, [kBlock]
  float* sum;         // l, kLanes partial sums a row
};

inline int64_t forward_floats(const Attention& x) {
  const ForwardItems items(x);
  const int64_t rows = items.heads * items.blocks * kBlock, padded = x.padded();
  return rows * (2 * padded + 1 + kLanes) + 2 * kBlock * padded + kTileRows * (kBlock + 16) + 16 * 8;
}

// Scores to weights, in place, for a tile's rows: `factors` become what multiplies all that was summed before.
// Where kWhole, every query sees every key.
template <bool kWhole>
inline void soften(float* s, int rows, int vectors, const Seen* seen, float* most, float* sum, float* factors) {
  constexpr int kPadded = (kTileRows + kLanes - 1) / kLanes * kLanes;
  float bases[kPadded] = {}, steps[kPadded] = {};
  if (kWhole) vectors = kBlock / kLanes;
  for (int i = 0; i < rows; ++i) {
    float* row = s + i * kBlock;
    Floats highest = all_lanes(-kInfinity);
    for (int n = 0; n < vectors; ++n) {
      Floats score = load(row + n * kLanes);
      if (!kWhole) store(row + n * kLanes, score = choose(seen[i].at(n * kLanes), score, all_lanes(-kInfinity)));
      highest = larger(highest, score);
    }
    const float before = most[i];
    most[i] = std::max(before, largest_lane(highest));
    bases[i] = most[i] == -kInfinity ? 0.0f : most[i];  // nothing seen yet: −∞ − 0 gives weights of 0, −∞ + ∞ would give NaN
    steps[i] = before - bases[i];
  }
  for (int i = 0; i < kPadded; i += kLanes) store(steps + i, exp2_of_negative(load(steps + i)));
  for (int i = 0; i < rows; ++i) {
    float* row = s + i * kBlock;
    const Floats base = all_lanes(bases[i]);
    Floats added = {};
    for (int n = 0; n < vectors; ++n) {
      const Floats weight = exp2_of_negative(load(row + n * kLanes) - base);
      store(row + n * kLanes, weight);
      added += weight;
    }
    store(sum + i * kLanes, multiply_add(load(sum + i * kLanes), all_lanes(steps[i]), added));
    factors[i] = steps[i];
  }
}

inline void forward_pair(const Attention& x, int64_t b, const Pair& pair, const Running& run, const float* k_columns,
                         const float* v, float* s) {
  const int padded = x.padded();
  int32_t filled[kBlock];
  const int32_t* segments = block_segments(x, b, pair, filled);
  const int32_t* row_segments = x.segments ? x.segments + b * x.keys : nullptr;
  float* factors = s + kTileRows * kBlock;
  for (int row = 0; row < pair.queries; row += kTileRows) {
    const int rows = std::min(kTileRows, pair.queries - row);
    const int64_t position = pair.position + row;
    const int keys = static_cast<int>(std::min<int64_t>(pair.keys, position + rows - pair.key));  // none of them sees more
    if (keys <= 0) continue;
    const int vectors = (keys + kLanes - 1) / kLanes;
    product<false>(rows, vectors, static_cast<int>(x.width), run.q + row * padded, padded, k_columns, kBlock, s, kBlock, nullptr);
    Seen seen[kTileRows];
    bool whole = true;
    for (int i = 0; i < rows; ++i) {
      seen[i] = Seen(x, pair, position + i, segments, row_segments);
      whole = whole && seen[i].all();
    }
    (whole ? soften<true> : soften<false>)(s, rows, vectors, seen, run.most + row, run.sum + row * kLanes, factors);
    product<false>(rows, padded / kLanes, keys, s, kBlock, v, padded, run.o + row * padded, padded, factors);
  }
}

inline void write_out(const Attention& x, int64_t b, int64_t head, int64_t query, int queries, const Running& run, float* o,
                      float* lse) {
  float shares[kBlock];
  for (int row = 0; row < queries; ++row) {
    const float sum = sum_of_lanes(load(run.sum + row * kLanes));
    shares[row] = sum == 0 ? 0.0f : 1.0f / sum;  // a query that sees nothing gets zeros
    lse[x.row_at(b, head, query + row)] = sum == 0 ? kInfinity : run.most[row] + std::log2(sum);
  }
  unpack_rows<false>(run.o, queries, x.width, x.padded(), shares, 1, o + x.q_at(b, query, head), x.heads * x.width);
}

// o [batch, queries, heads, width], lse [batch, heads, queries]. False: no memory.
inline bool forward_item(const Attention& x, const ForwardItems& items, int64_t item, float* o, float* lse) {
  float* memory = scratch(forward_floats(x));
  if (!memory) return false;
  Pieces pieces{memory};
  const int64_t block_item = items.block_items - 1 - item % items.block_items;  // the last blocks have most keys: first
  item /= items.block_items;
  const int64_t head_item = item % items.head_items, group = item / items.head_items % x.groups;
  const int64_t b = item / items.head_items / x.groups, padded = x.padded();
  const int64_t head = group * x.heads_a_group() + head_item * items.heads, query = block_item * items.blocks * kBlock;
  const int64_t blocks = std::min(items.blocks, (x.queries - query + kBlock - 1) / kBlock), runs = items.heads * blocks;
  float *q = pieces.take(runs * kBlock * padded), *outs = pieces.take(runs * kBlock * padded);
  float *most = pieces.take(runs * kBlock), *sum = pieces.take(runs * kBlock * kLanes);
  float *k_columns = pieces.take(kBlock * padded), *v = pieces.take(kBlock * padded), *s = pieces.take(kTileRows * kBlock + 16);
  std::memset(outs, 0, sizeof(float) * runs * kBlock * padded);
  std::memset(sum, 0, sizeof(float) * runs * kBlock * kLanes);
  std::fill_n(most, runs * kBlock, -kInfinity);

  const auto query_of = [&](int64_t run) { return query + run % blocks * kBlock; };
  const auto head_of = [&](int64_t run) { return head + run / blocks; };
  const auto queries_of = [&](int64_t run) { return static_cast<int>(std::min<int64_t>(kBlock, x.queries - query_of(run))); };
  const auto running = [&](int64_t run) {
    return Running{q + run * kBlock * padded, outs + run * kBlock * padded, most + run * kBlock, sum + run * kBlock * kLanes};
  };
  for (int64_t run = 0; run < runs; ++run) {
    pack_rows(x.q + x.q_at(b, query_of(run), head_of(run)), x.heads * x.width, queries_of(run), x.width, padded,
              x.scale * kLog2E, q + run * kBlock * padded);
  }
  const int64_t position = x.offset[b] + query, beyond = std::min<int64_t>(x.queries, query + blocks * kBlock) - query;
  const int64_t last = x.last_key(position + beyond - 1);
  for (int64_t key = x.first_key(position) / kBlock * kBlock; key <= last; key += kBlock) {
    const int keys = static_cast<int>(std::min<int64_t>(kBlock, x.keys - key));
    bool packed = false;
    for (int64_t run = 0; run < runs; ++run) {
      const Pair pair{x.offset[b] + query_of(run), queries_of(run), key, keys};
      if (!any_seen(x, b, pair)) continue;
      if (!packed) {
        pack_columns(x.k + x.k_at(b, key, group), x.k_key, keys, x.width, padded, k_columns);
        pack_rows(x.v + x.k_at(b, key, group), x.k_key, keys, x.width, padded, 1.0f, v);
        packed = true;
      }
      forward_pair(x, b, pair, running(run), k_columns, v, s);
    }
  }
  for (int64_t run = 0; run < runs; ++run) {
    write_out(x, b, head_of(run), query_of(run), queries_of(run), running(run), o, lse);
  }
  return true;
}
