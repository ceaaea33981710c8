// Fused attention, backward: the weights p are made again, block by block, from q, k and the saved log-sum-exp.
//   p = 2^(s − lse)     dv = pᵀ · do     ds = p ∘ (do · vᵀ − Σ do ∘ o)     dq = ds · k · scale     dk = dsᵀ · q · scale
// One item is all of one group of one row: it owns its dk, dv and dq, so that sums run in one order whatever the threads do.
// Leaves out: splitting an item among threads (fewer groups × rows than threads leave some idle).
#pragma once
#include "flash_forward.h"

struct Gradients {
  const float *o, *lse, *d_o;  // o and d_o like q, lse [batch, heads, queries]
  float *dq, *dk, *dv;         // dq like q; dk and dv at the strides of k
};

struct Backward {  // packed blocks; all but the tables hold kBlock rows or columns
  float *k[kSuperBlocks], *k_columns[kSuperBlocks], *v_columns[kSuperBlocks], *dk[kSuperBlocks], *dv[kSuperBlocks];
  float *q, *d_o, *dq, *p, *ds, *lse, *along;
};

inline int64_t backward_floats(const Attention& x) {
  return (5 * kSuperBlocks + 3) * kBlock * x.padded() + 2 * kBlock * kBlock + 2 * kBlock;
}

inline Backward cut(float* memory, int64_t padded) {
  Pieces pieces{memory};
  Backward at;
  for (int i = 0; i < kSuperBlocks; ++i) {
    for (float** piece : {&at.k[i], &at.k_columns[i], &at.v_columns[i], &at.dk[i], &at.dv[i]}) {
      *piece = pieces.take(kBlock * padded);
    }
  }
  for (float** piece : {&at.q, &at.d_o, &at.dq}) *piece = pieces.take(kBlock * padded);
  for (float** piece : {&at.p, &at.ds}) *piece = pieces.take(kBlock * kBlock);
  for (float** piece : {&at.lse, &at.along}) *piece = pieces.take(kBlock);
  return at;
}

// Scores to weights, do · vᵀ to ds; what a query does not see gets zeros, for the products read whole rows.
template <bool kWhole>
inline void weigh(float* p, float* ds, int vectors, const Seen& seen, float lse, float along) {
  if (kWhole) vectors = kBlock / kLanes;
  for (int n = 0; n < vectors; ++n) {
    Floats weight = exp2_of_negative(load(p + n * kLanes) - all_lanes(lse));
    Floats slope = weight * (load(ds + n * kLanes) - all_lanes(along));
    if (!kWhole) {
      const Ints here = seen.at(n * kLanes);
      weight = choose(here, weight, Floats{}), slope = choose(here, slope, Floats{});
    }
    store(p + n * kLanes, weight);
    store(ds + n * kLanes, slope);
  }
  for (int n = vectors; n < kBlock / kLanes; ++n) {
    store(p + n * kLanes, Floats{});
    store(ds + n * kLanes, Floats{});
  }
}

inline void backward_pair(const Attention& x, int64_t b, const Pair& pair, const Backward& at, int block) {
  const int padded = x.padded(), width = static_cast<int>(x.width), wide = padded / kLanes;
  float ones[kTileRows];
  std::fill_n(ones, kTileRows, 1.0f);
  int32_t filled[kBlock];
  const int32_t* segments = block_segments(x, b, pair, filled);
  const int32_t* row_segments = x.segments ? x.segments + b * x.keys : nullptr;
  const auto keys_of = [&](int row, int rows) {  // how many keys of the block these queries look at
    return static_cast<int>(std::clamp<int64_t>(pair.position + row + rows - pair.key, 0, pair.keys));
  };
  const auto each_tile = [](int all, const auto& run) {
    for (int row = 0; row < all; row += kTileRows) run(row, std::min(kTileRows, all - row));
  };
  each_tile(pair.queries, [&](int row, int rows) {
    const int vectors = (keys_of(row, rows) + kLanes - 1) / kLanes;
    product<false>(rows, vectors, width, at.q + row * padded, padded, at.k_columns[block], kBlock, at.p + row * kBlock, kBlock,
                   nullptr);
  });
  each_tile(pair.queries, [&](int row, int rows) {
    const int vectors = (keys_of(row, rows) + kLanes - 1) / kLanes;
    product<false>(rows, vectors, width, at.d_o + row * padded, padded, at.v_columns[block], kBlock, at.ds + row * kBlock,
                   kBlock, nullptr);
    for (int i = row; i < row + rows; ++i) {
      const Seen seen(x, pair, pair.position + i, segments, row_segments);
      (seen.all() ? weigh<true> : weigh<false>)(at.p + i * kBlock, at.ds + i * kBlock, vectors, seen, at.lse[i], at.along[i]);
    }
  });
  each_tile(pair.queries, [&](int row, int rows) {
    product<false>(rows, wide, keys_of(row, rows), at.ds + row * kBlock, kBlock, at.k[block], padded, at.dq + row * padded,
                   padded, ones);
  });
  for (const auto& [weights, by, sum] : {std::tuple{at.p, at.d_o, at.dv[block]}, std::tuple{at.ds, at.q, at.dk[block]}}) {
    each_tile(pair.keys, [&, weights = weights, by = by, sum = sum](int key, int keys) {
      const int row = static_cast<int>(std::clamp<int64_t>(pair.key + key - pair.position, 0, pair.queries));  // first to see it
      product<true>(keys, wide, pair.queries - row, weights + row * kBlock + key, kBlock, by + row * padded, padded,
                    sum + key * padded, padded, ones);
    });
  }
}

// Σ do ∘ o of each query, and its log-sum-exp.
inline void row_facts(const Attention& x, const Gradients& grads, int64_t b, int64_t head, int64_t query, int queries,
                      const Backward& at) {
  for (int row = 0; row < queries; ++row) {
    const float* o = grads.o + x.q_at(b, query + row, head);
    const float* d_o = at.d_o + row * x.padded();  // padded with zeros
    Floats sum = {};
    int64_t c = 0;
    for (; c + kLanes <= x.width; c += kLanes) sum = multiply_add(load(o + c), load(d_o + c), sum);
    if (c < x.width) sum = multiply_add(load_some(o + c, x.width - c), load(d_o + c), sum);
    at.along[row] = sum_of_lanes(sum);
    at.lse[row] = grads.lse[x.row_at(b, head, query + row)];
  }
}

inline void backward_queries(const Attention& x, const Gradients& grads, int64_t b, int64_t head, int64_t query, int64_t key,
                             int blocks, const Backward& at) {
  const int64_t padded = x.padded(), stride = x.heads * x.width;
  const int queries = static_cast<int>(std::min<int64_t>(kBlock, x.queries - query));
  bool packed = false;
  for (int block = 0; block < blocks; ++block) {
    const int64_t first = key + block * kBlock;
    const Pair pair{x.offset[b] + query, queries, first, static_cast<int>(std::min<int64_t>(kBlock, x.keys - first))};
    if (!any_seen(x, b, pair)) continue;
    if (!packed) {
      pack_rows(x.q + x.q_at(b, query, head), stride, queries, x.width, padded, x.scale * kLog2E, at.q);
      pack_rows(grads.d_o + x.q_at(b, query, head), stride, queries, x.width, padded, 1.0f, at.d_o);
      row_facts(x, grads, b, head, query, queries, at);
      std::memset(at.dq, 0, sizeof(float) * kBlock * padded);
      packed = true;
    }
    backward_pair(x, b, pair, at, block);
  }
  if (packed) unpack_rows<true>(at.dq, queries, x.width, padded, &x.scale, 0, grads.dq + x.q_at(b, query, head), stride);
}

// False: no memory.
inline bool backward_item(const Attention& x, int64_t item, const Gradients& grads) {
  float* memory = scratch(backward_floats(x));
  if (!memory) return false;
  const int64_t padded = x.padded(), group = item % x.groups, b = item / x.groups;
  const Backward at = cut(memory, padded);
  const int64_t head = group * x.heads_a_group(), heads = x.heads_a_group();
  for (int64_t query = 0; query < x.queries; ++query) {  // the group's heads lie side by side
    std::memset(grads.dq + x.q_at(b, query, head), 0, sizeof(float) * heads * x.width);
  }
  for (int64_t key = 0; key < x.keys; key += kSuperBlocks * kBlock) {
    const int blocks = static_cast<int>(std::min<int64_t>(kSuperBlocks, (x.keys - key + kBlock - 1) / kBlock));
    const auto keys_of = [&](int block) { return static_cast<int>(std::min<int64_t>(kBlock, x.keys - key - block * kBlock)); };
    for (int block = 0; block < blocks; ++block) {
      const int64_t from = x.k_at(b, key + block * kBlock, group);
      pack_rows(x.k + from, x.k_key, keys_of(block), x.width, padded, 1.0f, at.k[block]);
      pack_columns(x.k + from, x.k_key, keys_of(block), x.width, padded, at.k_columns[block]);
      pack_columns(x.v + from, x.k_key, keys_of(block), x.width, padded, at.v_columns[block]);
      std::memset(at.dk[block], 0, sizeof(float) * kBlock * padded);
      std::memset(at.dv[block], 0, sizeof(float) * kBlock * padded);
    }
    for (int64_t h = head; h < head + heads; ++h) {
      for (int64_t query = 0; query < x.queries; query += kBlock) backward_queries(x, grads, b, h, query, key, blocks, at);
    }
    for (int block = 0; block < blocks; ++block) {
      const float one = 1.0f;  // q was packed times scale · log2 e
      const int64_t to = x.k_at(b, key + block * kBlock, group);
      unpack_rows<false>(at.dk[block], keys_of(block), x.width, padded, &kLn2, 0, grads.dk + to, x.k_key);
      unpack_rows<false>(at.dv[block], keys_of(block), x.width, padded, &one, 0, grads.dv + to, x.k_key);
    }
  }
  return true;
}
