// Attention over a cache: o = softmax(q·kᵀ · scale)·v; each slot is read once for every 16 tokens.
//   tile by tile:  most = max(scores);  p = 2^(scores − most);  top' = max(top, most);  fade = 2^(top − top');  share = 2^(most − top')
//                  sum = sum · fade + share · Σ p;   o = o · fade + share · p·v
// One piece of work is a split (2,048 slots) of one batch row and kv head: its keys and values serve all query heads of that kv head and
// 16 tokens while they lie in the first-level cache. Pieces are added up in order, whoever finished first.
// Knows nothing of XLA: `parallel(n, run)` calls run(0 … n − 1) on `threads` threads. Leaves out: gradients, dropout, masks of other shapes.
#pragma once
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <memory>
#include <new>
#include <vector>

#include "attention_float.h"
#include "attention_float_rows.h"
#include "attention_bytes.h"
#include "attention_int8.h"
#include "attention_problem.h"
#include "stretches.h"

namespace attention {

constexpr float kLog2OfE = 1.44269504f;
constexpr float kNothing = -std::numeric_limits<float>::infinity();

typedef float Four __attribute__((vector_size(16)));

// The greatest lane of each of four vectors.
inline Four greatest_of_four(const Floats (&v)[4]) {
#if PIKOJAX_LANES == 16
  const auto both = [](__m512 a, __m512 b) { return _mm512_max_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)); };
  const __m512d ab = (__m512d)both((__m512)v[0], (__m512)v[1]), cd = (__m512d)both((__m512)v[2], (__m512)v[3]);
  const __m512 all = _mm512_max_ps((__m512)_mm512_unpacklo_pd(ab, cd), (__m512)_mm512_unpackhi_pd(ab, cd));
  const __m256 half = _mm256_max_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
  return (Four)_mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
#elif PIKOJAX_LANES == 8
  const auto both = [](__m256 a, __m256 b) { return _mm256_max_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b)); };
  const __m256d ab = (__m256d)both((__m256)v[0], (__m256)v[1]), cd = (__m256d)both((__m256)v[2], (__m256)v[3]);
  const __m256 all = _mm256_max_ps((__m256)_mm256_unpacklo_pd(ab, cd), (__m256)_mm256_unpackhi_pd(ab, cd));
  return (Four)_mm_max_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1));
#else
  return Four{largest_lane(v[0]), largest_lane(v[1]), largest_lane(v[2]), largest_lane(v[3])};
#endif
}

// 2^a and 2^b, one after the other; `out` has room for 16.
inline void exp2_of_eight(Four a, Four b, float* out) {
#if PIKOJAX_LANES == 16
  store(out, exp2_of_negative((Floats)_mm512_insertf32x4(_mm512_zextps128_ps512((__m128)a), (__m128)b, 1)));
#else
  store(out, a);
  store(out + 4, b);
  for (int i = 0; i < 8; i += kLanes) store(out + i, exp2_of_negative(load(out + i)));
#endif
}

struct Piece {
  const Problem* p;  // of its tokens alone
  int64_t b, g, split;
};

// 64-byte aligned floats of this thread, kept from call to call: fresh memory would have to be cleared by the system every time.
inline float* scratch(int64_t floats) {
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  thread_local std::unique_ptr<void, Free> memory;
  thread_local int64_t held = 0;
  if (floats > held) {
    held = 0;
    memory.reset(std::aligned_alloc(64, (floats * sizeof(float) + 63) / 64 * 64));
    if (!memory) throw std::bad_alloc();
    held = floats;
  }
  return static_cast<float*>(memory.get());
}

// In place: x · H of the largest power of two n that divides C, block by block; H / √n is its own inverse.
inline void rotate(float* x, int64_t C) {
  const int64_t n = C & -C;
  for (int64_t half = 1; half < n; half *= 2) {
    for (int64_t start = 0; start < C; start += 2 * half) {
      for (int64_t i = start; i < start + half; ++i) {
        const float a = x[i], b = x[i + half];
        x[i] = a + b;
        x[i + half] = a - b;
      }
    }
  }
  const float unit = 1.0f / std::sqrt(static_cast<float>(n));
  for (int64_t c = 0; c < C; ++c) x[c] *= unit;
}

// Query rows [rows, padded C] of one kv head, scaled so that 2^score is the weight.
inline void gather_queries(const Problem& p, int64_t b, int64_t g, float* out) {
  const int64_t padded = FloatTiles::padded(p.C);
  for (int64_t m = 0; m < p.rows(); ++m, out += padded) {
    std::memcpy(out, p.q + p.row_at(b, g, m), p.C * sizeof(float));
    std::fill(out + p.C, out + padded, 0.0f);
    if (p.rotated) rotate(out, p.C);
    for (int64_t c = 0; c < p.C; ++c) out[c] *= p.scale * kLog2OfE;
  }
}

// What one piece of work leaves: for each query row the greatest score, the sum of weights, and o.
struct Partial {
  float *top, *sum, *o;
  Partial(float* memory, int64_t rows) : top(memory), sum(memory + rows), o(memory + 2 * rows) {}
  static int64_t floats(int64_t rows, int64_t width) { return rows * (2 + width); }
};

template <typename Tiles>
class Attend {
 public:
  Attend(Piece piece, Partial out) : p_(*piece.p), piece_(piece), out_(out) {}

  void run() {
    const int64_t rows = p_.rows(), q_floats = (rows * FloatTiles::padded(p_.C) + 15) / 16 * 16;
    float* memory = scratch(q_floats + Tiles::floats(p_) + rows * kLanes);
    float* q = memory;
    sums_ = memory + q_floats + Tiles::floats(p_);
    std::fill(sums_, sums_ + rows * kLanes, 0.0f);
    std::fill(out_.top, out_.top + rows, kNothing);
    std::fill(out_.o, out_.o + rows * Tiles::width(p_), 0.0f);
    gather_queries(p_, piece_.b, piece_.g, q);
    Tiles tiles(p_, q, out_.o, memory + q_floats);
    const Range all = seen_by_any(p_, piece_.b);
    const int64_t first = std::max(all.first, piece_.split * kSplit) / kTile * kTile;
    for (int64_t slot = first; slot < std::min(all.end, (piece_.split + 1) * kSplit); slot += kTile) {
      const Tile tile(p_, piece_.b, piece_.g, slot, all);
      tiles.pack(tile);
      rows_of_tile(tiles, slot);
    }
    for (int64_t m = 0; m < rows; ++m) out_.sum[m] = sum_of_lanes(load(sums_ + m * kLanes));
  }

 private:
  // All rows that see a slot of the tile, four at a time.
  void rows_of_tile(Tiles& tiles, int64_t slot) {
    const int64_t R = p_.H / p_.G;
    int64_t t = 0, end = p_.T;
    while (t < end && seen_by(p_, piece_.b, t).end <= slot) ++t;
    while (t < end && seen_by(p_, piece_.b, end - 1).first >= slot + kTile) --end;
    int64_t m = t * R;
    for (; m + 4 <= end * R; m += 4) rows_at_once<4>(tiles, m, slot);
    if (end * R - m == 3) rows_at_once<3>(tiles, m, slot);
    if (end * R - m == 2) rows_at_once<2>(tiles, m, slot);
    if (end * R - m == 1) rows_at_once<1>(tiles, m, slot);
  }

  template <int N>
  void rows_at_once(Tiles& tiles, int64_t m, int64_t slot) {
    alignas(64) float scores[N][kTile];
    Floats most[4], totals[N];
    bool sees_all[N];
    tiles.template scores<N>(m, scores);
    for (int r = 0; r < N; ++r) {
      if (p_.softcap > 0) cap(scores[r]);
      sees_all[r] = hide_unseen(m + r, slot, scores[r]);
      most[r] = load(scores[r]);
      for (int s = kLanes; s < kTile; s += kLanes) most[r] = larger(load(scores[r] + s), most[r]);
    }
    for (int r = N; r < 4; ++r) most[r] = most[0];
    alignas(64) float fade[16], tops[4];
    const float* share = fade + 4;
    const Four greatest = greatest_of_four(most);
    Four before = {};
    std::memcpy(&before, out_.top + m, N * sizeof(float));
    const Four top = greatest > before ? greatest : before;  // NaN leaves it as it was
    std::memcpy(out_.top + m, &top, N * sizeof(float));
    store(tops, greatest);
    exp2_of_eight(before - top, greatest - top, fade);
    for (int r = 0; r < N; ++r) {  // scores become weights, the greatest of which is 1
      totals[r] = Floats{};
      for (int s = 0; s < kTile; s += kLanes) {
        const Floats weights = exp2_of_negative(load(scores[r] + s) - all_lanes(tops[r]));
        store(scores[r] + s, weights);
        totals[r] = totals[r] + weights;
      }
    }
    for (int r = 0; r < N; ++r) {
      float* sums = sums_ + (m + r) * kLanes;
      store(sums, multiply_add(totals[r], all_lanes(share[r]), load(sums) * all_lanes(fade[r])));
    }
    tiles.template weigh<N>(m, scores, fade, share, sees_all);
  }

  void cap(float* scores) const {
    const float most = p_.softcap * kLog2OfE;
    for (int s = 0; s < kTile; s += kLanes) store(scores + s, tanh_of(load(scores + s) * all_lanes(1.0f / most)) * all_lanes(most));
  }

  // → whether there was nothing to hide
  bool hide_unseen(int64_t m, int64_t slot, float* scores) const {
    const Range seen = seen_by(p_, piece_.b, m / (p_.H / p_.G));
    for (int64_t s = slot; s < std::min(seen.first, slot + kTile); ++s) scores[s - slot] = kNothing;
    for (int64_t s = std::max(seen.end, slot); s < slot + kTile; ++s) scores[s - slot] = kNothing;
    return seen.first <= slot && slot + kTile <= seen.end;
  }

  const Problem& p_;
  const Piece piece_;
  const Partial out_;
  float* sums_ = nullptr;  // [rows, kLanes]
};

// Adds up a batch row and kv head's pieces, in order (into the first one). A query row that saw nothing gets zeros.
template <typename Tiles>
void merge(const Problem& p, int64_t b, int64_t g, float* partials, int64_t stride, int64_t n) {
  const int64_t rows = p.rows(), R = p.H / p.G, width = Tiles::width(p);
  for (int64_t m = 0; m < rows; ++m) {
    float top = kNothing, sum = 0;
    const auto part = [&](int64_t i) { return Partial(partials + i * stride, rows); };
    for (int64_t i = 0; i < n; ++i) top = std::max(top, part(i).top[m]);
    float* out = p.out + p.row_at(b, g, m);
    std::fill(out, out + p.C, 0.0f);
    if (n == 0 || seen_by(p, b, m / R).empty()) continue;  // not by `top`: a row of NaN leaves it as it was, and must give NaN
    float* o = part(0).o + m * width;
    for (int64_t i = 0; i < n; ++i) {
      const float share = exp2_of_negative(all_lanes(part(i).top[m] - top))[0], *from = part(i).o + m * width;
      sum = sum + share * part(i).sum[m];
      for (int64_t c = 0; c < width; ++c) o[c] = i == 0 ? share * o[c] : o[c] + share * from[c];
    }
    for (int64_t c = 0; c < p.C; ++c) out[c] = o[Tiles::column(p, c)] / sum;
  }
}

template <typename Tiles, typename Parallel>
void attend_with(const Problem& whole, int threads, const Parallel& parallel) {
  std::vector<Problem> parts;  // 16 tokens each
  for (int64_t t = 0; t < whole.T; t += kMostTokens) {
    parts.push_back(whole);
    parts.back().first = whole.first + t;
    parts.back().T = std::min(kMostTokens, whole.T - t);
  }
  std::vector<Piece> pieces;
  std::vector<int64_t> first_piece;  // of each part, batch row and kv head
  const int64_t heads = whole.B * whole.G, all_heads = heads * static_cast<int64_t>(parts.size());
  for (int64_t head = 0; head < all_heads; ++head) {
    const Problem& p = parts[head / heads];
    const int64_t b = head % heads / p.G, g = head % p.G;
    const Range seen = seen_by_any(p, b);
    first_piece.push_back(pieces.size());
    if (seen.empty()) continue;
    for (int64_t split = seen.first / kSplit; split * kSplit < seen.end; ++split) pieces.push_back({&p, b, g, split});
  }
  first_piece.push_back(pieces.size());
  const int64_t floats = Partial::floats(parts[0].rows(), Tiles::width(whole));
  std::unique_ptr<float[]> partials(new float[pieces.size() * floats + 1]);
  std::vector<std::atomic<int64_t>> left(all_heads);
  const auto merge_head = [&](int64_t head) {
    const int64_t first = first_piece[head];
    merge<Tiles>(parts[head / heads], head % heads / whole.G, head % whole.G, partials.get() + first * floats, floats, first_piece[head + 1] - first);
  };
  for (int64_t head = 0; head < all_heads; ++head) {
    left[head] = first_piece[head + 1] - first_piece[head];
    if (left[head] == 0) merge_head(head);
  }
  std::atomic<bool> failed{false};  // an exception must not leave a thread of the pool
  const auto run = [&](size_t i) {
    const Piece piece = pieces[i];
    const int64_t head = (piece.p - parts.data()) * heads + piece.b * whole.G + piece.g;
    try {
      Attend<Tiles>(piece, Partial(partials.get() + i * floats, piece.p->rows())).run();
    } catch (const std::bad_alloc&) {
      failed = true;
    }
    if (--left[head] == 0) merge_head(head);
  };
  const std::vector<size_t> bounds = stretches(pieces.size(), 1, threads);
  parallel(static_cast<int64_t>(bounds.size()) - 1, [&](int64_t stretch) {
    for (size_t i = bounds[stretch]; i < bounds[stretch + 1]; ++i) run(i);
  });
  if (failed) throw std::bad_alloc();
}

// Throws std::bad_alloc, and nothing else.
template <typename Parallel>
void attend(const Problem& p, int threads, const Parallel& parallel) {
  [[maybe_unused]] const auto bytes = [](const Store& store) { return store.kind == Kind::int8 || store.kind == Kind::int4; };
#if PIKOJAX_LANES == 8
  return bytes(p.k) && bytes(p.v) ? attend_with<ByteTiles>(p, threads, parallel) : attend_with<FloatRows>(p, threads, parallel);
#else
#if defined(PIKOJAX_ATTENTION_INT8)
  if (bytes(p.k) && bytes(p.v)) return attend_with<Int8Tiles>(p, threads, parallel);
#endif
  attend_with<FloatTiles>(p, threads, parallel);
#endif
}

}  // namespace attention
