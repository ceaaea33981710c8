// One tile of attention in float32, for any format: rows are widened, keys turned so that as many slots as a vector has lanes
// stand in one.
//   scores[m][s] = Σ_c q[m][c] · k[s][c]        o[m][c] = o[m][c] · fade[m] + share[m] · Σ_s p[m][s] · v[s][c]
// Leaves out: softmax (attention.h).
#pragma once
#include "attention_problem.h"
#include "exp2.h"
#include "transpose.h"

namespace attention {

inline float scale_of(const Store& store, int64_t at, int64_t group) {
  if (store.n_scales == 0) return 1.0f;
  const int64_t i = at * store.n_scales + (store.n_scales == 1 ? 0 : group);
  return store.half_scales ? half_to_float(static_cast<const uint16_t*>(store.scales)[i]) : static_cast<const float*>(store.scales)[i];
}

// The C values of one slot and head as floats.
inline void widen(const Store& store, int64_t at, int64_t C, float* out) {
  const uint8_t* row = store.data + at * store.row_bytes;
  if (store.kind == Kind::float32) {
    std::memcpy(out, row, C * sizeof(float));
  } else if (store.kind == Kind::bfloat16) {
    for (int64_t c = 0; c < C; ++c) {
      uint16_t high;
      std::memcpy(&high, row + 2 * c, sizeof high);
      const uint32_t bits = uint32_t(high) << 16;
      std::memcpy(out + c, &bits, sizeof bits);
    }
  } else {
    for (int64_t start = 0; start < C; start += kGroup) {
      const float scale = scale_of(store, at, start / kGroup);
      const int64_t n = std::min<int64_t>(kGroup, C - start);
      if (store.kind == Kind::int8) {
        for (int64_t i = 0; i < n; ++i) out[start + i] = float(static_cast<int8_t>(row[start + i])) * scale;
      } else {  // byte j of a group holds the values j and j + 16
        for (int64_t i = 0; i < n; ++i) {
          const int nibble = i < 16 ? row[start / 2 + i] & 15 : row[start / 2 + i - 16] >> 4;
          out[start + i] = float(nibble - 8) * scale;
        }
      }
    }
  }
}

class FloatTiles {
 public:
  static int64_t padded(int64_t C) { return (C + kLanes - 1) / kLanes * kLanes; }

  // Floats of memory that `memory` must hold.
  static int64_t floats(const Problem& p) { return 3 * padded(p.C) * kTile; }
  static int64_t width(const Problem& p) { return padded(p.C); }            // of one row of o
  static int64_t column(const Problem&, int64_t c) { return c; }            // where in it value c stands

  // q: [rows, padded(C)], already scaled; o: [rows, padded(C)], zeros.
  FloatTiles(const Problem& p, const float* q, float* o, float* memory)
      : p_(p), q_(q), o_(o), padded_(padded(p.C)), keys_(memory), wide_keys_(keys_ + padded_ * kTile), wide_values_(wide_keys_ + padded_ * kTile) {
    std::fill(memory, memory + floats(p), 0.0f);  // the columns beyond C stay 0
  }

  void pack(const Tile& tile) {
    rows(p_.k, tile, wide_keys_, rows_);
    for (int s = 0; s < kTile; s += kLanes) {
      for (int64_t c = 0; c < padded_; c += kLanes) transpose(rows_ + s, c, keys_ + c * kTile + s, kTile);
    }
    rows(p_.v, tile, wide_values_, rows_);
  }

  template <int R>
  void scores(int64_t m, float (*out)[kTile]) const {
    constexpr int kWide = kLanes == 16 ? 4 : 2;
    for (int s = 0; s < kTile; s += kWide * kLanes) {
      Floats sums[R][kWide] = {};
      for (int64_t c = 0; c < p_.C; ++c) {
        for (int r = 0; r < R; ++r) {
          for (int j = 0; j < kWide; ++j) {
            sums[r][j] = multiply_add(all_lanes(q_[(m + r) * padded_ + c]), load(keys_ + c * kTile + s + j * kLanes), sums[r][j]);
          }
        }
      }
      for (int r = 0; r < R; ++r) {
        for (int j = 0; j < kWide; ++j) store(out[r] + s + j * kLanes, sums[r][j]);
      }
    }
  }

  template <int R>
  void weigh(int64_t m, const float (*weights)[kTile], const float* fade, const float* share, const bool*) {
    constexpr int kWide = kLanes == 16 ? 4 : 2;
    int64_t c = 0;
    for (; c + kWide * kLanes <= padded_; c += kWide * kLanes) weigh_columns<R, kWide>(m, weights, fade, share, c);
    for (; c < padded_; c += kLanes) weigh_columns<R, 1>(m, weights, fade, share, c);
  }

 private:
  template <int R, int kWide>
  void weigh_columns(int64_t m, const float (*weights)[kTile], const float* fade, const float* share, int64_t c) {
    Floats sums[R][kWide] = {};
    for (int s = 0; s < kTile; ++s) {
      for (int r = 0; r < R; ++r) {
        for (int j = 0; j < kWide; ++j) sums[r][j] = multiply_add(all_lanes(weights[r][s]), load(rows_[s] + c + j * kLanes), sums[r][j]);
      }
    }
    for (int r = 0; r < R; ++r) {
      float* o = o_ + (m + r) * padded_ + c;
      for (int j = 0; j < kWide; ++j) store(o + j * kLanes, multiply_add(sums[r][j], all_lanes(share[r]), load(o + j * kLanes) * all_lanes(fade[r])));
    }
  }

  // Where each slot's values stand as floats: in the cache itself, if they can be read there.
  void rows(const Store& store, const Tile& tile, float* wide, const float** found) const {
    for (int s = 0; s < kTile; ++s) {
      if (store.kind == Kind::float32 && padded_ == p_.C) {
        found[s] = reinterpret_cast<const float*>(store.data + tile.at[s] * store.row_bytes);
        for (int64_t c = 0; c < p_.C; c += 16) __builtin_prefetch(found[s] + kTile * p_.C + c);
      } else {
        widen(store, tile.at[s], p_.C, wide + s * padded_);
        __builtin_prefetch(store.data + (tile.at[s] + kTile) * store.row_bytes);
        found[s] = wide + s * padded_;
      }
    }
  }

  const Problem& p_;
  const float* q_;
  float* o_;
  const int64_t padded_;
  float *keys_, *wide_keys_, *wide_values_;
  const float* rows_[kTile];
};

}  // namespace attention
