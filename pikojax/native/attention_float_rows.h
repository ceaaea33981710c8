// One tile of attention in float32 with AVX2: rows are read where they lie in the cache, along the row, and nothing is turned.
//   scores[m][s] = Σ_c q[m][c] · k[s][c]        o[m][c] = o[m][c] · fade[m] + share[m] · Σ_s p[m][s] · v[s][c]
// A score's eight partial sums are folded at the end, eight slots at once (fold.h): turning the keys first (attention_float.h) would take
// more instructions for the four query rows that mostly share a kv head. What cannot be read in place is widened first.
// Leaves out: other processors, softmax (attention.h).
#pragma once
#include "attention_float.h"
#include "fold.h"

#if PIKOJAX_LANES == 8

namespace attention {

class FloatRows {
 public:
  static int64_t floats(const Problem& p) { return 2 * FloatTiles::padded(p.C) * kTile; }
  static int64_t width(const Problem& p) { return FloatTiles::padded(p.C); }  // of one row of o
  static int64_t column(const Problem&, int64_t c) { return c; }              // where in it value c stands

  FloatRows(const Problem& p, const float* q, float* o, float* memory) : p_(p), q_(q), o_(o), padded_(width(p)), wide_keys_(memory), wide_values_(memory + padded_ * kTile) {
    std::fill(memory, memory + floats(p), 0.0f);  // the columns beyond C stay 0
  }

  void pack(const Tile& tile) {
    rows(p_.k, tile, wide_keys_, keys_);
    rows(p_.v, tile, wide_values_, values_);
    ahead_ = Ahead(p_, tile);
  }

  template <int R>
  void scores(int64_t m, float (*out)[kTile]) {
    if (kind(p_.k) == Kind::bfloat16) {
      scores_of<R, Kind::bfloat16>(m, out);
    } else {
      scores_of<R, Kind::float32>(m, out);
    }
  }

  template <int R>
  void weigh(int64_t m, const float (*weights)[kTile], const float* fade, const float* share, const bool*) {
    if (kind(p_.v) == Kind::bfloat16) {
      weigh_of<R, Kind::bfloat16>(m, weights, fade, share);
    } else {
      weigh_of<R, Kind::float32>(m, weights, fade, share);
    }
  }

 private:
  bool in_place(const Store& store) const { return padded_ == p_.C && (store.kind == Kind::float32 || store.kind == Kind::bfloat16); }
  Kind kind(const Store& store) const { return in_place(store) ? store.kind : Kind::float32; }

  void rows(const Store& store, const Tile& tile, float* wide, const uint8_t** found) const {
    find_rows(store, tile, found);
    if (in_place(store)) return;
    for (int s = 0; s < kTile; ++s) {
      widen(store, tile.at[s], p_.C, wide + s * padded_);
      found[s] = reinterpret_cast<const uint8_t*>(wide + s * padded_);
    }
  }

  // Values c … c + 7 of a row.
  template <Kind kKind>
  static Floats values(const uint8_t* row, int64_t c) {
    if (kKind == Kind::float32) return load<Floats>(row + 4 * c);
    return (Floats)((Ints)_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(row + 2 * c))) << 16);
  }

  template <int R, Kind kKind>
  void scores_of(int64_t m, float (*out)[kTile]) {
    for (int s = 0; s < kTile; s += kLanes) {
      ahead_.fetch();
      Floats sums[R];
      fold_eight<R>(
          [&](int i, Floats (&both)[2][R]) {
            const uint8_t *one = keys_[s + i], *two = keys_[s + i + 1];
            for (int64_t c = 0; c < padded_; c += kLanes) {
              const Floats a = values<kKind>(one, c), b = values<kKind>(two, c);
              for (int r = 0; r < R; ++r) {
                const Floats q = load(q_ + (m + r) * padded_ + c);
                both[0][r] = multiply_add(a, q, both[0][r]);
                both[1][r] = multiply_add(b, q, both[1][r]);
              }
            }
          },
          sums);
      for (int r = 0; r < R; ++r) store(out[r] + s, sums[r]);
    }
  }

  template <int R, Kind kKind>
  void weigh_of(int64_t m, const float (*weights)[kTile], const float* fade, const float* share) {
    int64_t c = 0;
    for (; c + 2 * kLanes <= padded_; c += 2 * kLanes) weigh_columns<R, kKind, 2>(m, weights, fade, share, c);
    if (c < padded_) weigh_columns<R, kKind, 1>(m, weights, fade, share, c);
  }

  template <int R, Kind kKind, int kWide>
  void weigh_columns(int64_t m, const float (*weights)[kTile], const float* fade, const float* share, int64_t c) {
    Floats sums[R][kWide] = {};
    for (int s = 0; s < kTile; ++s) {
      Floats of_slot[kWide];
      for (int j = 0; j < kWide; ++j) of_slot[j] = values<kKind>(values_[s], c + j * kLanes);
      for (int r = 0; r < R; ++r) {
        for (int j = 0; j < kWide; ++j) sums[r][j] = multiply_add(all_lanes(weights[r][s]), of_slot[j], sums[r][j]);
      }
    }
    for (int r = 0; r < R; ++r) {
      float* o = o_ + (m + r) * padded_ + c;
      for (int j = 0; j < kWide; ++j) store(o + j * kLanes, multiply_add(sums[r][j], all_lanes(share[r]), load(o + j * kLanes) * all_lanes(fade[r])));
    }
  }

  const Problem& p_;
  const float* q_;
  float* o_;
  const int64_t padded_;
  float *wide_keys_, *wide_values_;
  const uint8_t *keys_[kTile], *values_[kTile];
  Ahead ahead_;
};

}  // namespace attention
#endif
