// One tile of attention over int8 or int4 slots with AVX2: sums of bytes times bytes, over rows that are read where they lie.
//   scores[m][s] = Σ_parts qscale[m] · kscale[s] · Σ_c q8[m][c] · k[s][c]           q in bytes, as many scales a row as a key has
//   o[m][c]      = o[m][c] · fade[m] + share[m] · unit[m] · Σ_s w8[m][s] · v[s][c]  w8 = round(p · vscale / unit)
// vpmaddubsw adds two products of an unsigned and a signed byte in 16 bits, which 255 · 127 would fill twice over. So scales are chosen by
// what neighbours make together: as a rule one of them is small, and hardly a bit is lost. int4 leaves room for many more products.
// Keys are multiplied along the row and folded at the end (fold.h); of values four slots are zipped. Sums of integers are the same in any
// order, and a row's scales hang on the row alone.
// Scales are never negative. Leaves out: other processors (attention_int8.h has AVX-512's way, attention_float.h serves the rest).
#pragma once
#include <limits>

#include "attention_float.h"
#include "fold.h"

#if PIKOJAX_LANES == 8

namespace attention {

class ByteTiles {
 public:
  typedef int16_t Shorts __attribute__((vector_size(32)));
  static int64_t groups(const Problem& p) { return (p.C + kGroup - 1) / kGroup; }
  static int64_t padded(const Problem& p) { return groups(p) * kGroup; }
  static int64_t row(const Problem& p) { return (groups(p) + 1) / 2 * 2 * kGroup; }
  static int64_t width(const Problem& p) { return p.v.kind == Kind::int4 ? row(p) : padded(p); }
  static int64_t column(const Problem& p, int64_t c) {  // zipping deals the columns out by fours, to four vectors or to eight
    const int64_t fours = c % 16 / 4, in_four = c % 4;
    if (p.v.kind != Kind::int4) return c / 32 * 32 + fours * 8 + c % 32 / 16 * 4 + in_four;
    return c / 64 * 64 + fours * 16 + c % 32 / 16 * 8 + c % 64 / 32 * 4 + in_four;
  }
  static int64_t floats(const Problem& p) { return groups(p) * 2 * kTile + p.rows() * (row(p) / 4 + 2 * groups(p)) + 2 * kTile * padded(p) / 4; }

  ByteTiles(const Problem& p, const float* q, float* o, float* memory) : p_(p), o_(o), groups_(groups(p)), padded_(padded(p)), row_(row(p)) {
    kscales_ = memory;
    vscales_ = kscales_ + groups_ * kTile;
    qscales_ = vscales_ + groups_ * kTile;
    offsets_ = reinterpret_cast<int32_t*>(qscales_ + p.rows() * groups_);
    q_ = reinterpret_cast<int8_t*>(offsets_ + p.rows() * groups_);
    wide_keys_ = reinterpret_cast<uint8_t*>(q_ + p.rows() * row_);
    wide_values_ = wide_keys_ + kTile * padded_;
    for (int64_t m = 0; m < p.rows(); ++m) quantize_query(q + m * FloatTiles::padded(p.C), m);
  }

  void pack(const Tile& tile) {
    key_stride_ = rows(p_.k, tile, wide_keys_, keys_);
    value_stride_ = rows(p_.v, tile, wide_values_, values_);
    pack_scales(p_.k, tile, kscales_);
    pack_scales(p_.v, tile, vscales_);
    ahead_ = Ahead(p_, tile);
  }

  template <int R>
  void scores(int64_t m, float (*out)[kTile]) {
    if (p_.k.kind == Kind::int4) return score_nibbles<R>(m, out);
    if (key_stride_ == 64) return score_bytes_of<R, 64>(m, out);
    if (key_stride_ == 128) return score_bytes_of<R, 128>(m, out);
    score_bytes_of<R, 0>(m, out);
  }

  template <int R>
  void weigh(int64_t m, const float (*weights)[kTile], const float* fade, const float* share, const bool*) {
    alignas(32) uint8_t bytes[2][R][kTile];  // for each of two groups of columns
    float scales[2][R] = {};
    const bool is_int4 = p_.v.kind == Kind::int4;
    if (groups_ % 2 == 1) std::memset(bytes[1], 0, sizeof bytes[1]);
    for (int64_t c = 0; c < width(p_); c += is_int4 ? 2 * kGroup : kGroup) {
      for (int64_t i = 0, group = c / kGroup; i < (is_int4 ? 2 : 1); ++i, ++group) {
        for (int r = 0; r < R && group < p_.v.n_scales; ++r) {  // one scale for all: the first group's bytes serve
          scales[i][r] = quantize_weights(weights[r], vscales_ + group * kTile, bytes[i][r]) * share[r];
        }
      }
      if (is_int4) {
        weigh_nibbles<R, false>(m, bytes, fade, scales, c), weigh_nibbles<R, true>(m, bytes, fade, scales, c);
      } else {
        if (value_stride_ == 64) weigh_columns<R, 64>(m, bytes[0], fade, scales[0], c);
        else if (value_stride_ == 128) weigh_columns<R, 128>(m, bytes[0], fade, scales[0], c);
        else weigh_columns<R, 0>(m, bytes[0], fade, scales[0], c);
      }
    }
  }

 private:
  // Signed bytes, with as many scales as the keys have. An int8 key as an unsigned byte is up to 255, so there no two neighbours make more
  // than 127 (128, once rounded): their products are added in 16 bits. `offsets_` undoes what makes keys unsigned.
  void quantize_query(const float* q, int64_t m) {
    const bool is_int4 = p_.k.kind == Kind::int4;
    const int64_t wide = is_int4 || p_.k.n_scales > 1 ? kGroup : padded_;
    std::memset(q_ + m * row_, 0, row_);
    for (int64_t part = 0; part < padded_ / wide; ++part) {
      const int64_t first = part * wide, end = std::min(first + wide, p_.C);
      float most = 0, trouble = 0;  // trouble: NaN if any value is no finite number, which bytes cannot say
      for (int64_t c = first; c < end; ++c) {
        const float other = is_int4 || c % 2 == 1 || c + 1 == end ? 0.0f : std::fabs(q[c + 1]);
        most = std::max(most, std::fabs(q[c]) + other), trouble += q[c] * 0.0f;
      }
      const float inverse = most > 0 ? 127.0f / most : 0.0f;
      int32_t total = 0;
      for (int64_t c = first; c < end; ++c) {
        const int8_t value = static_cast<int8_t>(_mm_cvtss_si32(_mm_set_ss(q[c] * inverse)));
        // of int4 two groups' first 16 values stand side by side, then their last
        q_[m * row_ + (is_int4 ? c / 64 * 64 + c % 32 / 16 * 32 + c % 64 / 32 * 16 + c % 16 : c)] = value;
        total += value;
      }
      qscales_[m * groups_ + part] = most / 127.0f + trouble;
      offsets_[m * groups_ + part] = (is_int4 ? -8 : -128) * total;
    }
  }

  // Where each slot's bytes stand: in the cache itself, if whole vectors can be read there. → how far the slots are apart, where that is known
  // when this is compiled (only the first is looked up then), else 0
  int64_t rows(const Store& store, const Tile& tile, uint8_t* wide, const uint8_t** found) const {
    if (tile.in_order && store.kind == Kind::int8 && (store.row_bytes == 64 || store.row_bytes == 128)) {
      found[0] = store.data + tile.at[0] * store.row_bytes;
      return store.row_bytes;
    }
    find_rows(store, tile, found);
    if (store.kind == Kind::int4 || padded_ == p_.C) return 0;
    for (int s = 0; s < kTile; ++s) {
      std::memcpy(wide + s * padded_, found[s], p_.C);
      std::memset(wide + s * padded_ + p_.C, 0, padded_ - p_.C);
      found[s] = wide + s * padded_;
    }
    return 0;
  }

  template <int kStride>
  static const uint8_t* row_of(const uint8_t* const* rows, int s) {
    return kStride > 0 ? rows[0] + s * kStride : rows[s];
  }

  template <int R, int kStride>
  void score_bytes_of(int64_t m, float (*out)[kTile]) {
    if (p_.k.n_scales > 1) return score_bytes<R, kGroup, kStride>(m, out);
    if constexpr (kStride > 0) return score_bytes<R, kStride, kStride>(m, out);  // rows are as wide as they are far apart
    if (padded_ == 64) return score_bytes<R, 64, 0>(m, out);
    if (padded_ == 128) return score_bytes<R, 128, 0>(m, out);
    score_bytes<R, 0, 0>(m, out);
  }

  // kWide: so many values share a scale, if it is known beforehand; kStride: so far are rows apart.
  template <int R, int kWide, int kStride>
  void score_bytes(int64_t m, float (*out)[kTile]) {
    const int64_t wide = kWide > 0 ? kWide : padded_;
    const __m256i flip = _mm256_set1_epi8(char(-128));
    for (int s = 0; s < kTile; s += kLanes) {
      ahead_.fetch();
      for (int64_t part = 0; part < padded_ / wide; ++part) {
        Ints sums[R];
        fold_eight<R>(
            [&](int i, Ints (&both)[2][R]) {
#pragma GCC unroll 8
              for (int64_t c = part * wide; c < part * wide + wide; c += kGroup) {
                const __m256i one = _mm256_xor_si256(load<__m256i>(row_of<kStride>(keys_, s + i) + c), flip);
                const __m256i two = _mm256_xor_si256(load<__m256i>(row_of<kStride>(keys_, s + i + 1) + c), flip);
                for (int r = 0; r < R; ++r) {
                  const __m256i q = load<__m256i>(q_ + (m + r) * row_ + c);
                  both[0][r] = add_pairs(both[0][r], _mm256_maddubs_epi16(one, q));
                  both[1][r] = add_pairs(both[1][r], _mm256_maddubs_epi16(two, q));
                }
              }
            },
            sums);
        const Floats kscale = load(kscales_ + part * kTile + s);
        for (int r = 0; r < R; ++r) {
          const int64_t at = (m + r) * groups_ + part;
          add_scaled(out[r] + s, part == 0, sums[r] + all_lanes(offsets_[at]), all_lanes(qscales_[at]) * kscale);
        }
      }
    }
  }

  // 64 columns of two groups at a time, one in each half of a vector. Codes are 0 … 15, so products fit into 16 bits until all but two are added.
  template <int R>
  void score_nibbles(int64_t m, float (*out)[kTile]) {
    const __m256i nibble = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
    for (int s = 0; s < kTile; s += kLanes) {
      ahead_.fetch();
      for (int64_t group = 0; group < groups_; group += 2) {
        const bool is_whole = group + 1 < groups_;
        Shorts fours[2][R];
        fold_fours<R>(
            [&](int i, Shorts (&both)[2][R]) {
              for (int j = 0; j < 2; ++j) {
                const __m256i codes = two_groups(keys_[s + i + j] + group * 16, is_whole);
                const __m256i low = _mm256_and_si256(codes, nibble), high = _mm256_and_si256(_mm256_srli_epi16(codes, 4), nibble);
                for (int r = 0; r < R; ++r) {
                  const int8_t* q = q_ + (m + r) * row_ + group * kGroup;
                  both[j][r] = (Shorts)_mm256_maddubs_epi16(low, load<__m256i>(q)) + (Shorts)_mm256_maddubs_epi16(high, load<__m256i>(q + 32));
                }
              }
            },
            fours);
        for (int r = 0; r < R; ++r) {
          const __m256i first = _mm256_madd_epi16((__m256i)fours[0][r], ones), last = _mm256_madd_epi16((__m256i)fours[1][r], ones);
          const auto add = [&](int64_t group, __m256i sums) {
            const int64_t at = (m + r) * groups_ + group;
            add_scaled(out[r] + s, group == 0, (Ints)sums + all_lanes(offsets_[at]), all_lanes(qscales_[at]) * load(kscales_ + group * kTile + s));
          };
          add(group, _mm256_permute2x128_si256(first, last, 0x20));
          if (is_whole) add(group + 1, _mm256_permute2x128_si256(first, last, 0x31));
        }
      }
    }
  }

  static void add_scaled(float* out, bool is_first, Ints sums, Floats scale) {
    store(out, is_first ? to_float(sums) * scale : multiply_add(to_float(sums), scale, load(out)));
  }

  template <int R, int kStride>
  void weigh_columns(int64_t m, const uint8_t (*bytes)[kTile], const float* fade, const float* scales, int64_t c) {
    weigh_bytes<R, kStride, false>(m, bytes, fade, scales, c), weigh_bytes<R, kStride, true>(m, bytes, fade, scales, c);
  }

  // 32 columns: kUpper false, the first 8 of each half; true, its last.
  template <int R, int kStride, bool kUpper>
  void weigh_bytes(int64_t m, const uint8_t (*bytes)[kTile], const float* fade, const float* scales, int64_t c) {
    Ints sums[R][2] = {};
    for (int s = 0; s < kTile; s += 8) {
      const auto zipped = [&](int s) { return zip_bytes<kUpper>(load<__m256i>(row_of<kStride>(values_, s) + c), load<__m256i>(row_of<kStride>(values_, s + 1) + c)); };
      const __m256i a = zipped(s), b = zipped(s + 2), d = zipped(s + 4), e = zipped(s + 6);
      const __m256i low[2] = {_mm256_unpacklo_epi16(a, b), _mm256_unpacklo_epi16(d, e)};
      const __m256i high[2] = {_mm256_unpackhi_epi16(a, b), _mm256_unpackhi_epi16(d, e)};
      for (int r = 0; r < R; ++r) {
        const __m256i one = four(bytes[r] + s), two = four(bytes[r] + s + 4);
        sums[r][0] = add_pairs(sums[r][0], add_products(one, low[0], two, low[1]));
        sums[r][1] = add_pairs(sums[r][1], add_products(one, high[0], two, high[1]));
      }
    }
    for (int r = 0; r < R; ++r) {
      float* o = o_ + (m + r) * width(p_) + c + kUpper * 16;
      for (int j = 0; j < 2; ++j) add_faded(o + j * kLanes, to_float(sums[r][j]), all_lanes(scales[r]), fade[r]);
    }
  }

  // 64 columns of two groups, one in each half of a vector. Codes are 0 … 15, so that the sums of a whole tile fit into 16 bits: 8 · 254 · 15;
  // that a code stands for 8 less is taken off at the end.
  template <int R, bool kUpper>
  void weigh_nibbles(int64_t m, const uint8_t (*bytes)[R][kTile], const float* fade, const float (*scales)[R], int64_t c) {
    const bool is_whole = c / kGroup + 1 < groups_;
    const __m256i nibble = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
    for (int upper = 0; upper < 2; ++upper) {
      Shorts sums[R][2] = {};
      for (int s = 0; s < kTile; s += 4) {
        const auto row = [&](int i) { return two_groups(values_[s + i] + c / 2, is_whole); };
        const __m256i one = zip_bytes<kUpper>(row(0), row(1)), two = zip_bytes<kUpper>(row(2), row(3));
        const __m256i codes = upper ? _mm256_unpackhi_epi16(one, two) : _mm256_unpacklo_epi16(one, two);
        const __m256i low = _mm256_and_si256(codes, nibble), high = _mm256_and_si256(_mm256_srli_epi16(codes, 4), nibble);
        for (int r = 0; r < R; ++r) {
          const __m256i fours = _mm256_blend_epi32(four(bytes[0][r] + s), four(bytes[1][r] + s), 0xf0);
          sums[r][0] += (Shorts)_mm256_maddubs_epi16(fours, low);
          sums[r][1] += (Shorts)_mm256_maddubs_epi16(fours, high);
        }
      }
      for (int r = 0; r < R; ++r) {
        float* o = o_ + (m + r) * width(p_) + c + kUpper * 32 + upper * 16;
        const auto halves = [](__m256i low, __m256i high) { return _mm256_blend_epi32(low, high, 0xf0); };
        const Ints eights = (Ints)halves(_mm256_set1_epi32(8 * sum_of(bytes[0][r])), _mm256_set1_epi32(8 * sum_of(bytes[1][r])));
        const Floats scale = (Floats)halves((__m256i)all_lanes(scales[0][r]), (__m256i)all_lanes(scales[1][r]));
        for (int j = 0; j < 2; ++j) {
          add_faded(o + j * kLanes, to_float((Ints)_mm256_madd_epi16((__m256i)sums[r][j], ones) - eights), scale, fade[r]);
        }
      }
    }
  }

  static __m256i four(const uint8_t* weights) { return (__m256i)all_lanes(load_four(reinterpret_cast<const int8_t*>(weights))); }
  static __m256i add_products(__m256i w, __m256i v, __m256i other_w, __m256i other_v) {
    return _mm256_add_epi16(_mm256_maddubs_epi16(w, v), _mm256_maddubs_epi16(other_w, other_v));
  }
  template <bool kUpper>
  static __m256i zip_bytes(__m256i a, __m256i b) {
    return kUpper ? _mm256_unpackhi_epi8(a, b) : _mm256_unpacklo_epi8(a, b);
  }
  static void add_faded(float* o, Floats sum, Floats scale, float fade) { store(o, multiply_add(sum, scale, load(o) * all_lanes(fade))); }
  static int32_t sum_of(const uint8_t* bytes) {
    const Ints sums = (Ints)(_mm256_sad_epu8(load<__m256i>(bytes), __m256i{}) + _mm256_sad_epu8(load<__m256i>(bytes + 32), __m256i{}));
    return (sums[0] + sums[2]) + (sums[4] + sums[6]);
  }

  // The 16 bytes each of two groups of int4; of the last one alone, if there is no other.
  static __m256i two_groups(const uint8_t* at, bool is_whole) {
    return is_whole ? load<__m256i>(at) : _mm256_zextsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at)));
  }

  // To out[group][slot].
  void pack_scales(const Store& store, const Tile& tile, float* out) const {
    const uint8_t* from = static_cast<const uint8_t*>(store.scales) + tile.at[0] * store.n_scales * (store.half_scales ? 2 : 4);
    if (tile.in_order && store.n_scales == 1 && !store.half_scales) {
      std::memcpy(out, from, kTile * sizeof(float));
    } else if (tile.in_order && store.n_scales == 1) {
      for (int s = 0; s < kTile; s += kLanes) ::store(out + s, load_halves(from + 2 * s));
    } else if (tile.in_order && store.n_scales == 2 && store.half_scales) {  // 32 bits a slot
      for (int s = 0; s < kTile; s += kLanes) {
        const __m256 a = (__m256)load_halves(from + 4 * s), b = (__m256)load_halves(from + 4 * s + 16);
        const auto in_order = [](__m256 mixed) { return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(mixed), 0xd8)); };
        ::store(out + s, in_order(_mm256_shuffle_ps(a, b, 0x88)));
        ::store(out + kTile + s, in_order(_mm256_shuffle_ps(a, b, 0xdd)));
      }
    } else {
      for (int s = 0; s < kTile; ++s) {
        for (int group = 0; group < store.n_scales; ++group) out[group * kTile + s] = scale_of(store, tile.at[s], group);
      }
    }
  }

  // weights · scales as bytes: of those whose products are added in 16 bits, slots 8 i + j, j + 1, j + 4 and j + 5, none make more than 254.
  // → what 1 stands for
  static float quantize_weights(const float* weights, const float* scales, uint8_t* out) {
    Floats products[kTile / kLanes], most = {}, trouble = {};  // trouble: NaN if any product is no finite number, which bytes cannot say
    for (int i = 0; i < kTile / kLanes; ++i) {
      const Floats weight = load(weights + i * kLanes);
      products[i] = choose(weight > Floats{}, weight * load(scales + i * kLanes), Floats{});  // not seen: its scale must not count, even if it is NaN
      trouble = trouble + (products[i] - products[i]);
    }
    for (int i = 0; i < kTile / kLanes; i += 4) {
      most = larger(fold_halves(fold_pairs(products[i], products[i + 1]), fold_pairs(products[i + 2], products[i + 3])), most);
    }
    most = larger((Floats)_mm256_permute2f128_ps((__m256)most, (__m256)most, 1), most);
    most = larger((Floats)_mm256_shuffle_ps((__m256)most, (__m256)most, 0x4e), most);
    most = larger((Floats)_mm256_shuffle_ps((__m256)most, (__m256)most, 0xb1), most);
    const Floats inverse = choose(most > all_lanes(1e-30f), all_lanes(252.0f) / most, Floats{});
    const auto whole = [&](int i) { return _mm256_cvtps_epi32((__m256)(products[i] * inverse)); };
    for (int i = 0; i < kTile / kLanes; i += 4) {
      const __m256i mixed = _mm256_packus_epi16(_mm256_packs_epi32(whole(i), whole(i + 1)), _mm256_packs_epi32(whole(i + 2), whole(i + 3)));
      store(out + i * kLanes, _mm256_permutevar8x32_epi32(mixed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));  // packing works within halves
    }
    const bool is_odd = _mm256_movemask_ps(_mm256_cmp_ps((__m256)trouble, (__m256)trouble, _CMP_UNORD_Q)) != 0;
    return is_odd ? std::numeric_limits<float>::quiet_NaN() : most[0] / 252.0f;
  }

  const Problem& p_;
  float* o_;
  const int64_t groups_, padded_, row_;  // row_: bytes of a query row
  float *kscales_, *vscales_, *qscales_;
  int32_t* offsets_;
  int8_t* q_;
  uint8_t *wide_keys_, *wide_values_;
  const uint8_t *keys_[kTile], *values_[kTile];
  int64_t key_stride_, value_stride_;
  Ahead ahead_;
};

}  // namespace attention
#endif
