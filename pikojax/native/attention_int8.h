// One tile of attention over int8 or int4 slots with AVX-512-VNNI: both products are sums of bytes times bytes.
//   scores[m][s] = Σ_groups qscale[m] · kscale[s] · Σ_c q8[m][c] · k8[s][c]       q in int8, a scale for each 32 of its values
//   o[m][c]      = o[m][c] · fade[m] + share[m] · top · Σ_s w8[m][s] · v8[s][c]   w8 = round(p · vscale / top),  top = max(vscale) / 255,
// the greatest of the slots that the row sees: of the whole tile, mostly, but what a row's neighbours see must not touch its bits.
// vpdpbusd multiplies unsigned by signed bytes, four at a time, into each of 16 sums. So keys are turned until a vector holds four
// values of each of 16 slots, and values until it holds four slots of each of 16 columns; keys get an offset to be unsigned.
// Scales are never negative (w is unsigned). Leaves out: other processors (attention_bytes.h for AVX2, attention_float.h for the rest).
#pragma once
#include <limits>

#include "attention_float.h"

#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
#define PIKOJAX_ATTENTION_INT8 1

namespace attention {

class Int8Tiles {
 public:
  static constexpr int64_t kAhead = 4 * kTile;  // slots: what is fetched into the second-level cache meanwhile
  static int64_t columns(const Problem& p) { return (p.C + 63) / 64; }  // of 64 values, the last one perhaps in part
  static int64_t groups(const Problem& p) { return (p.C + kGroup - 1) / kGroup; }
  static int64_t width(const Problem& p) { return columns(p) * 64; }
  static int64_t column(const Problem&, int64_t c) {  // unpacking bytes deals the columns out by fours to four vectors
    return c / 64 * 64 + c % 16 / 4 * 16 + c % 64 / 16 * 4 + c % 4;
  }
  static int64_t floats(const Problem& p) {
    return 2 * width(p) / 4 * kTile + groups(p) * (3 * kTile + 1) + p.rows() * (width(p) / 4 + 2 * groups(p));
  }

  Int8Tiles(const Problem& p, const float* q, float* o, float* memory)
      : p_(p), o_(o), columns_(columns(p)), groups_(groups(p)), quads_(columns_ * 16), bias_(p.k.kind == Kind::int8 ? 128 : 8) {
    keys_ = reinterpret_cast<int32_t*>(memory);
    values_ = keys_ + quads_ * kTile;
    kscales_ = reinterpret_cast<float*>(values_ + quads_ * kTile);
    vscales_ = kscales_ + groups_ * kTile;
    vshares_ = vscales_ + groups_ * kTile;
    vtops_ = vshares_ + groups_ * kTile;
    qscales_ = vtops_ + groups_;
    q8_ = reinterpret_cast<int32_t*>(qscales_ + p.rows() * groups_);
    offsets_ = q8_ + p.rows() * quads_;
    for (int64_t m = 0; m < p.rows(); ++m) quantize_query(q + m * FloatTiles::padded(p.C), m);
  }

  void pack(const Tile& tile) {
    ahead_ = p_.v.data + (tile.at[0] + kAhead) * p_.v.row_bytes, ahead_end_ = ahead_ + kTile * p_.v.row_bytes;
    for (int s = 0; s < kTile; s += 16) {
      for (int64_t column = 0; column < columns_; ++column) pack_keys(tile.at + s, column, keys_ + column * 16 * kTile + s);
    }
    for (int s = 0; s < kTile; s += 4) {
      for (int64_t column = 0; column < columns_; ++column) pack_values(tile.at + s, column, values_ + s / 4 * quads_ * 4 + column * 64);
    }
    pack_scales(p_.k, tile, kscales_);
    pack_scales(p_.v, tile, vscales_);
    for (int group = 0; group < p_.v.n_scales; ++group) vtops_[group] = share_out(vscales_ + group * kTile, nullptr, vshares_ + group * kTile);
  }

  template <int R>
  void scores(int64_t m, float (*out)[kTile]) {
    for (int64_t group = 0; group < groups_; ++group) {
      __m512i sums[R][4];
      for (int r = 0; r < R; ++r) {
        for (int j = 0; j < 4; ++j) sums[r][j] = _mm512_set1_epi32(offsets_[(m + r) * groups_ + group]);
      }
      for (int64_t quad = group * 8; quad < std::min(group * 8 + 8, (p_.C + 3) / 4); ++quad) {
        for (int j = 0; j < 4; ++j) {
          const __m512i keys = _mm512_load_si512(keys_ + quad * kTile + j * 16);
          if (ahead_ < ahead_end_) prefetch(ahead_), ahead_ += 64;  // keys were while packing: memory is never idle
          for (int r = 0; r < R; ++r) sums[r][j] = _mm512_dpbusd_epi32(sums[r][j], keys, _mm512_set1_epi32(q8_[(m + r) * quads_ + quad]));
        }
      }
      const float* kscales = kscales_ + (p_.k.n_scales == 1 ? 0 : group * kTile);
      for (int r = 0; r < R; ++r) {
        const Floats qscale = all_lanes(qscales_[(m + r) * groups_ + group]);
        for (int j = 0; j < 4; ++j) {
          const Floats scale = qscale * load(kscales + j * 16), dot = (Floats)_mm512_cvtepi32_ps(sums[r][j]);
          store(out[r] + j * 16, group == 0 ? dot * scale : multiply_add(dot, scale, load(out[r] + j * 16)));
        }
      }
    }
  }

  template <int R>
  void weigh(int64_t m, const float (*weights)[kTile], const float* fade, const float* share, const bool* sees_all) {
    const int64_t n = p_.v.n_scales;
    alignas(64) uint8_t bytes[2][R][kTile];  // for a column's first 32 values and its last
    float tops[2][R];
    for (int64_t column = 0; column < columns_; ++column) {
      const int halves = column * 2 + 1 < n ? 2 : 1;
      for (int half = 0; half < halves && (n > 1 || column == 0); ++half) {  // one scale for all: the first column's bytes serve
        const int64_t group = column * 2 + half;
        for (int r = 0; r < R; ++r) {
          tops[half][r] = sees_all[r] ? vtops_[group] : quantize_seen(weights[r], vscales_ + group * kTile, bytes[half][r]);
          if (sees_all[r]) quantize_weights(weights[r], vshares_ + group * kTile, bytes[half][r]);
        }
      }
      if (halves == 1) {
        weigh_column<R, false>(m, bytes, tops, fade, share, column);
      } else {
        weigh_column<R, true>(m, bytes, tops, fade, share, column);
      }
    }
  }

 private:
  void quantize_query(const float* q, int64_t m) {
    uint8_t* bytes = reinterpret_cast<uint8_t*>(q8_ + m * quads_);
    std::memset(bytes, 0, quads_ * 4);
    for (int64_t group = 0; group < groups_; ++group) {
      const int64_t first = group * kGroup, end = std::min<int64_t>(first + kGroup, p_.C);
      float most = 0, trouble = 0;  // trouble: NaN if any value is no finite number, which bytes cannot say
      for (int64_t c = first; c < end; ++c) most = std::max(most, std::fabs(q[c])), trouble += q[c] * 0.0f;
      const float inverse = most > 0 ? 127.0f / most : 0.0f;
      int32_t total = 0;
      for (int64_t c = first; c < end; ++c) {
        const int32_t value = _mm_cvtss_si32(_mm_set_ss(q[c] * inverse));
        bytes[c] = static_cast<uint8_t>(value);
        total += static_cast<int8_t>(value);
      }
      qscales_[m * groups_ + group] = most / 127.0f + trouble;
      offsets_[m * groups_ + group] = -bias_ * total;
    }
  }

  // 64 values (fewer in the last column) of one slot as bytes; int4 as 0 … 15.
  __m512i values_of(const Store& store, int64_t at, int64_t column) const {
    const uint8_t* row = store.data + at * store.row_bytes;
    const int64_t left = p_.C - column * 64;
    if (store.kind == Kind::int8) {
      return left >= 64 ? _mm512_loadu_si512(row + column * 64) : _mm512_maskz_loadu_epi8((1ull << left) - 1, row + column * 64);
    }
    const __m256i packed = left > kGroup ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row + column * 32))
                                         : _mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(row + column * 32)));
    const __m512i twice = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 1, 0, 1, 2, 3, 2, 3), _mm512_castsi256_si512(packed));
    return _mm512_and_si512(_mm512_mask_srli_epi16(twice, 0xff00ff00, twice, 4), _mm512_set1_epi8(15));
  }

  void pack_keys(const int64_t* at, int64_t column, int32_t* out) const {
    if (p_.k.kind == Kind::int8 && p_.C - column * 64 >= 64) return pack_whole_keys(at, column, out);
    Floats rows[16];  // of 32 bits each, whatever they mean
    const __m512i flip = _mm512_set1_epi8(p_.k.kind == Kind::int8 ? char(-128) : 0);
    for (int i = 0; i < 16; ++i) {
      rows[i] = (Floats)_mm512_xor_si512(values_of(p_.k, at[i], column), flip);
      prefetch(p_.k.data + (at[i] + kAhead) * p_.k.row_bytes + column * 64);
    }
    transpose(rows);
    for (int i = 0; i < 16; ++i) store(out + i * kTile, rows[i]);
  }

  // The same for 64 values of int8, with half the shuffles: four rows' 16 bytes come into a vector as they are loaded, so that all
  // that is left to turn is 4 × 4 within its lanes.
  void pack_whole_keys(const int64_t* at, int64_t column, int32_t* out) const {
    const uint8_t* rows[16];
    for (int i = 0; i < 16; ++i) {
      rows[i] = p_.k.data + at[i] * p_.k.row_bytes + column * 64;
      prefetch(rows[i] + kAhead * p_.k.row_bytes);
    }
    const __m512i flip = _mm512_set1_epi8(char(-128));
    for (int part = 0; part < 4; ++part) {
      const auto lane = [&](int row) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[row] + part * 16)); };
      __m512i a[4];
      for (int i = 0; i < 4; ++i) {
        a[i] = _mm512_castsi128_si512(lane(i));
        a[i] = _mm512_inserti32x4(a[i], lane(4 + i), 1);
        a[i] = _mm512_inserti32x4(a[i], lane(8 + i), 2);
        a[i] = _mm512_xor_si512(_mm512_inserti32x4(a[i], lane(12 + i), 3), flip);
      }
      const __m512i low01 = _mm512_unpacklo_epi32(a[0], a[1]), low23 = _mm512_unpacklo_epi32(a[2], a[3]);
      const __m512i high01 = _mm512_unpackhi_epi32(a[0], a[1]), high23 = _mm512_unpackhi_epi32(a[2], a[3]);
      int32_t* to = out + part * 4 * kTile;
      _mm512_store_si512(to, _mm512_unpacklo_epi64(low01, low23));
      _mm512_store_si512(to + kTile, _mm512_unpackhi_epi64(low01, low23));
      _mm512_store_si512(to + 2 * kTile, _mm512_unpacklo_epi64(high01, high23));
      _mm512_store_si512(to + 3 * kTile, _mm512_unpackhi_epi64(high01, high23));
    }
  }

  void pack_values(const int64_t* at, int64_t column, int32_t* out) const {
    __m512i rows[4];
    for (int i = 0; i < 4; ++i) {
      rows[i] = values_of(p_.v, at[i], column);
      if (p_.v.kind == Kind::int4) rows[i] = _mm512_sub_epi8(rows[i], _mm512_set1_epi8(8));
    }
    const __m512i low01 = _mm512_unpacklo_epi8(rows[0], rows[1]), low23 = _mm512_unpacklo_epi8(rows[2], rows[3]);
    const __m512i high01 = _mm512_unpackhi_epi8(rows[0], rows[1]), high23 = _mm512_unpackhi_epi8(rows[2], rows[3]);
    _mm512_store_si512(out, _mm512_unpacklo_epi16(low01, low23));
    _mm512_store_si512(out + 16, _mm512_unpackhi_epi16(low01, low23));
    _mm512_store_si512(out + 32, _mm512_unpacklo_epi16(high01, high23));
    _mm512_store_si512(out + 48, _mm512_unpackhi_epi16(high01, high23));
  }

  // To out[group][slot].
  void pack_scales(const Store& store, const Tile& tile, float* out) const {
    const void* from = static_cast<const uint8_t*>(store.scales) + tile.at[0] * store.n_scales * (store.half_scales ? 2 : 4);
    if (tile.in_order && store.n_scales == 1 && !store.half_scales) {
      std::memcpy(out, from, kTile * sizeof(float));
    } else if (tile.in_order && store.n_scales == 1) {
      for (int s = 0; s < kTile; s += 16) store_halves(out + s, _mm256_loadu_si256(static_cast<const __m256i*>(from) + s / 16));
    } else if (tile.in_order && store.n_scales == 2 && store.half_scales) {  // 32 bits a slot
      for (int s = 0; s < kTile; s += 16) {
        const __m512i pairs = _mm512_loadu_si512(static_cast<const __m512i*>(from) + s / 16);
        store_halves(out + s, _mm512_cvtepi32_epi16(pairs));
        store_halves(out + kTile + s, _mm512_cvtepi32_epi16(_mm512_srli_epi32(pairs, 16)));
      }
    } else {
      for (int s = 0; s < kTile; ++s) {
        for (int group = 0; group < store.n_scales; ++group) out[group * kTile + s] = scale_of(store, tile.at[s], group);
      }
    }
  }

  static void store_halves(float* to, __m256i halves) { _mm512_storeu_ps(to, _mm512_cvtph_ps(halves)); }

  // Values' scales as parts of the greatest one, which 255 stands for; of those of slots with a weight, if weights are given. A NaN
  // among them makes the greatest NaN, for bytes cannot say it.
  static float share_out(const float* scales, const float* weights, float* out) {
    Floats most = Floats{};
    __mmask16 is_nan = 0;
    for (int s = 0; s < kTile; s += 16) {
      const __m512 scale = (__m512)load(scales + s);
      const __mmask16 counts = weights ? _mm512_cmp_ps_mask((__m512)load(weights + s), _mm512_setzero_ps(), _CMP_GT_OQ) : 0xffff;
      is_nan |= _mm512_mask_cmp_ps_mask(counts, scale, scale, _CMP_UNORD_Q);
      most = (Floats)_mm512_mask_max_ps((__m512)most, counts, scale, (__m512)most);
    }
    const float top = largest_lane(most) / 255.0f;
    const Floats inverse = all_lanes(top > 1e-30f ? 1.0f / top : 0.0f);
    for (int s = 0; s < kTile; s += 16) store(out + s, load(scales + s) * inverse);
    return is_nan ? std::numeric_limits<float>::quiet_NaN() : top;
  }

  static float quantize_seen(const float* weights, const float* scales, uint8_t* out) {
    alignas(64) float shares[kTile];
    const float top = share_out(scales, weights, shares);
    quantize_weights(weights, shares, out);
    return top;
  }

  // Packing works within lanes of 128 bits: the four bytes of slots 4 i … 4 i + 3 come to stand at `four(i)`.
  static void quantize_weights(const float* weights, const float* scales, uint8_t* out) {
    __m512i whole[4];
    for (int j = 0; j < 4; ++j) whole[j] = _mm512_cvtps_epi32((__m512)(load(weights + j * 16) * load(scales + j * 16)));
    const __m512i low = _mm512_packus_epi32(whole[0], whole[1]), high = _mm512_packus_epi32(whole[2], whole[3]);
    _mm512_store_si512(out, _mm512_packus_epi16(low, high));
  }

  static int32_t four(const uint8_t* bytes, int i) {
    int32_t x;
    std::memcpy(&x, bytes + (i % 4 * 4 + i / 4) * 4, sizeof x);
    return x;
  }

  template <int R, bool kTwoScales>
  void weigh_column(int64_t m, const uint8_t (*bytes)[R][kTile], const float (*tops)[R], const float* fade, const float* share, int64_t column) {
    constexpr __mmask16 kSecond = 0xff00;  // the lanes of a vector that hold values 32 … 63 of the column
    __m512i sums[R][4];
    for (int r = 0; r < R; ++r) {
      for (int j = 0; j < 4; ++j) sums[r][j] = _mm512_setzero_si512();
    }
    for (int i = 0; i < kTile / 4; ++i) {
      const int32_t* values = values_ + i * quads_ * 4 + column * 64;
      for (int r = 0; r < R; ++r) {
        __m512i weights = _mm512_set1_epi32(four(bytes[0][r], i));
        if (kTwoScales) weights = _mm512_mask_set1_epi32(weights, kSecond, four(bytes[1][r], i));
        for (int j = 0; j < 4; ++j) sums[r][j] = _mm512_dpbusd_epi32(sums[r][j], weights, _mm512_load_si512(values + j * 16));
      }
    }
    for (int r = 0; r < R; ++r) {
      Floats scale = all_lanes(tops[0][r] * share[r]);
      if (kTwoScales) scale = (Floats)_mm512_mask_mov_ps((__m512)scale, kSecond, _mm512_set1_ps(tops[1][r] * share[r]));
      float* o = o_ + (m + r) * columns_ * 64 + column * 64;
      for (int j = 0; j < 4; ++j) {
        const Floats faded = load(o + j * 16) * all_lanes(fade[r]);
        store(o + j * 16, multiply_add((Floats)_mm512_cvtepi32_ps(sums[r][j]), scale, faded));
      }
    }
  }

  const Problem& p_;
  float* o_;
  const int64_t columns_, groups_, quads_;  // quads_: fours of values in a padded row
  const int32_t bias_;
  int32_t *keys_, *values_;
  float *kscales_, *vscales_, *vshares_, *vtops_, *qscales_;
  int32_t *q8_, *offsets_;
  const uint8_t *ahead_ = nullptr, *ahead_end_ = nullptr;  // values of a later tile, asked for while scores are computed
};

}  // namespace attention
#endif
