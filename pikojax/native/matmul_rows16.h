// x [M, K] · w [K, N] for quantized weights: integer products within each group of 32 along K, float32 steps from group to group.
//   out = Σ_groups float(Σ q · code − zero · Σq) · (scale_w · scale_x)  [+ min · (scale_x · Σq)]
// A group's weights are unpacked once and meet all rows of a block; the rows' sums stay in the first-level cache. So one row runs as
// fast as memory delivers weights, and many as fast as the processor multiplies. Each row takes the same float steps in the same
// order (groups in order, multiply-add) whatever rows stand beside it and however the work is shared: its result has the same bits.
// Threads share tiles and blocks of rows, never K. Leaves out: everything of XLA's (matmul.cc), and how tiles are made.
#pragma once
#include <array>
#include <string_view>
#include <utility>

#include "matmul_activations.h"
#include "matmul_formats.h"
#include "stretches.h"

constexpr int kRows = 96;           // in a block, at most: sums of two tiles take 12 KB, and a group's activations 3 KB
constexpr int kFewRows = 8;         // up to here one tile at a time is read, as one stream from end to end
constexpr size_t kAhead = 8192;     // bytes that are asked for before they are needed
constexpr size_t kChunkBytes = 96 << 10;  // of weights, claimed by a thread at a time; for few rows the least

struct Problem {
  size_t m, k, n;
  size_t block_groups, blocks;  // groups of 32 in a block, blocks along K
  const float* x;
  const uint8_t* tiles;
  float* out;

  size_t groups() const { return block_groups * blocks; }
  size_t n_tiles() const { return (n + kTile - 1) / kTile; }
  size_t row_blocks() const { return (m + kRows - 1) / kRows; }
  int rows_of(size_t row_block) const { return (int)std::min<size_t>(kRows, m - row_block * kRows); }
};

// The rows that meet a group's codes at once: as many sums in flight as stay in registers.
template <typename Codes>
constexpr int kRowsAtOnce = kLanes != 8 ? 6 : Codes::kMost > 127 ? 2 : 4;

// A group's codes, unpacked, of one part of a tile.
template <typename Codes>
struct Unpacked {
  Factors<Codes::kMost> vectors[8];
  Unpacked() = default;
  explicit Unpacked(const uint8_t* at) {
    Bytes codes[8];
    Codes::unpack(at, codes);
#pragma GCC unroll 8
    for (int v = 0; v < 8; ++v) vectors[v] = factors<Codes::kMost>(codes[v]);
  }
};

// sums[row][tile][16] += one group's share, for kT tiles and kR rows at once.
template <typename Codes, typename Scales, int kT, int kR>
inline __attribute__((always_inline)) void add_group(const Unpacked<Codes> (&codes)[kT], const Floats (&scales)[kT][2],
                                                     const Floats (&mins)[kT], const Activations& x, size_t group, int row,
                                                     float* sums) {
  constexpr int kHalves = Scales::kByHalves ? 2 : 1, kSteps = 8 / kHalves;
  const size_t at = group * x.rows + row;
  const int8_t* four = x.codes + at * kGroup;
  Floats total[kR][kT];
#pragma GCC unroll 2
  for (int half = 0; half < kHalves; ++half) {
    const auto start = [&](int r) { return Scales::kHasMins ? Ints{} : all_lanes(x.sums[(group * kHalves + half) * x.rows + row + r]); };
    Dots<Codes::kMost, kSteps> dots[kR][kT];
#pragma GCC unroll 8
    for (int r = 0; r < kR; ++r)
#pragma GCC unroll 2
      for (int t = 0; t < kT; ++t) dots[r][t].begin(start(r));
#pragma GCC unroll 8
    for (int step = 0; step < kSteps; ++step)
#pragma GCC unroll 8
      for (int r = 0; r < kR; ++r) {
        const int v = half * kSteps + step;
        const int32_t four_of_row = load_four(four + r * kGroup + 4 * v);
#pragma GCC unroll 2
        for (int t = 0; t < kT; ++t) dots[r][t].add(step, codes[t].vectors[v], four_of_row);
      }
#pragma GCC unroll 8
    for (int r = 0; r < kR; ++r)
#pragma GCC unroll 2
      for (int t = 0; t < kT; ++t) {
        const Floats so_far = half == 0 ? load<Floats>(sums + (r * kT + t) * kTile) : total[r][t];
        total[r][t] = multiply_add(to_float(dots[r][t].end(start(r))), scales[t][half] * all_lanes(x.scales[at + r]), so_far);
      }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kR; ++r)
#pragma GCC unroll 2
    for (int t = 0; t < kT; ++t) {
      if (Scales::kHasMins) {
        float scaled_sum;
        std::memcpy(&scaled_sum, x.sums + at + r, 4);
        total[r][t] = multiply_add(mins[t], all_lanes(scaled_sum), total[r][t]);
      }
      store(sums + (r * kT + t) * kTile, total[r][t]);
    }
}

// The same for all rows from `row` on.
template <typename Codes, typename Scales, int kT, int kR>
inline void add_rows(const Unpacked<Codes> (&codes)[kT], const Floats (&scales)[kT][2], const Floats (&mins)[kT], const Activations& x,
                     size_t group, int row, float* sums) {
  for (; row + kR <= x.rows; row += kR) add_group<Codes, Scales, kT, kR>(codes, scales, mins, x, group, row, sums + row * kT * kTile);
  if constexpr (kR > 1) add_rows<Codes, Scales, kT, (kR > 2 ? kR - 2 : 1)>(codes, scales, mins, x, group, row, sums);
}

// sums[row][tile][16] = the products of a block of rows with kT tiles.
template <typename Codes, typename Scales, int kT>
void multiply_tiles(const Problem& p, const uint8_t* tiles, const Activations& x, float* sums) {
  const size_t head = Scales::bytes(p.block_groups), block_bytes = head + p.block_groups * Codes::kBytes;
  const size_t tile_bytes = p.blocks * block_bytes;
  std::fill(sums, sums + (size_t)x.rows * kT * kTile, 0.0f);
  for (size_t group = 0, block = 0; block < p.blocks; ++block) {
    const uint8_t* block_at = tiles + block * block_bytes;
    for (size_t inner = 0; inner < p.block_groups; ++inner, ++group) {
      const uint8_t* codes_at = block_at + head + inner * Codes::kBytes;
      for (int t = 0; t < kT; ++t)
        for (size_t line = 0; line < Codes::kBytes + head / p.block_groups; line += 64)
          prefetch(codes_at + t * tile_bytes + line + kAhead);
      for (int part = 0; part < kParts; ++part) {
        Unpacked<Codes> codes[kT];
        Floats scales[kT][2], mins[kT];
#pragma GCC unroll 2
        for (int t = 0; t < kT; ++t) {
          codes[t] = Unpacked<Codes>(codes_at + t * tile_bytes + part * kPartBytes);
          const uint8_t* scales_at = block_at + t * tile_bytes;
          scales[t][0] = Scales::scale(scales_at, part, inner, p.block_groups, 0);
          scales[t][1] = Scales::kByHalves ? Scales::scale(scales_at, part, inner, p.block_groups, 1) : Floats{};
          mins[t] = Scales::kHasMins ? Scales::min(scales_at, part, inner, p.block_groups) : Floats{};
        }
        add_rows<Codes, Scales, kT, kRowsAtOnce<Codes>>(codes, scales, mins, x, group, 0, sums + part * kLanes);
      }
    }
  }
}

// total[row] += one group's share of one part of a tile, for kR rows. The same steps in the same order as in add_group.
template <typename Codes, typename Scales, int kR>
inline __attribute__((always_inline)) void add_part(const uint8_t* block_at, const uint8_t* codes_at, int part, size_t inner, size_t groups,
                                                    const int8_t* four, const int32_t* sums, const float* scales, Floats* total) {
  constexpr int kHalves = Scales::kByHalves ? 2 : 1, kSteps = 8 / kHalves;
  const Unpacked<Codes> codes(codes_at + part * kPartBytes);
#pragma GCC unroll 2
  for (int half = 0; half < kHalves; ++half) {
    const Floats scale = Scales::scale(block_at, part, inner, groups, half);
#pragma GCC unroll 8
    for (int r = 0; r < kR; ++r) {
      const auto start = [&](int chain) { return Scales::kHasMins || chain > 0 ? Ints{} : all_lanes(sums[half * kR + r]); };
      Dots<Codes::kMost, kSteps / kChains> dots[kChains];
#pragma GCC unroll 2
      for (int chain = 0; chain < kChains; ++chain) dots[chain].begin(start(chain));
#pragma GCC unroll 8
      for (int step = 0; step < kSteps; ++step) {
        const int v = half * kSteps + step;
        dots[step % kChains].add(step / kChains, codes.vectors[v], load_four(four + r * kGroup + 4 * v));
      }
      Ints sum = dots[0].end(start(0));
#pragma GCC unroll 2
      for (int chain = 1; chain < kChains; ++chain) sum += dots[chain].end(start(chain));
      total[r] = multiply_add(to_float(sum), scale * all_lanes(scales[r]), total[r]);
    }
  }
  if (!Scales::kHasMins) return;
  const Floats min = Scales::min(block_at, part, inner, groups);
#pragma GCC unroll 8
  for (int r = 0; r < kR; ++r) {
    float scaled_sum;
    std::memcpy(&scaled_sum, sums + r, 4);
    total[r] = multiply_add(min, all_lanes(scaled_sum), total[r]);
  }
}

// sums[row][16] = the products of kR rows with one tile, which is read once from end to end: the sums stay in registers, or near them.
// What comes next is asked for by the line, scales and codes alike, as it lies in memory.
template <typename Codes, typename Scales, int kR>
void multiply_few(const Problem& p, const uint8_t* tile, const Activations& x, float* sums) {
  constexpr int kHalves = Scales::kByHalves ? 2 : 1;
  const size_t groups = p.block_groups, head = Scales::bytes(groups), stride = Codes::kBytes + head / groups;
  Floats total[kParts][kR] = {};
  const int8_t* four = x.codes;
  const int32_t* sums_at = x.sums;
  const float* scales_at = x.scales;
  const uint8_t *block_at = tile, *ahead = tile + kAhead;
  for (size_t block = 0; block < p.blocks; ++block) {
    const uint8_t* codes_at = block_at + head;
    for (size_t inner = 0; inner < groups; ++inner, codes_at += Codes::kBytes) {
      for (const uint8_t* until = block_at + kAhead + (inner + 1) * stride; ahead < until; ahead += 64) prefetch(ahead);
      for (int part = 0; part < kParts; ++part) {
        add_part<Codes, Scales, kR>(block_at, codes_at, part, inner, groups, four, sums_at, scales_at, total[part]);
        if (kParts > 1) asm volatile("" ::: "memory");  // or the compiler keeps all activations for the next part, and has no registers left
      }
      four += kR * kGroup, sums_at += kR * kHalves, scales_at += kR;
    }
    block_at = codes_at;
  }
  for (int part = 0; part < kParts; ++part)
    for (int r = 0; r < kR; ++r) store(sums + r * kTile + part * kLanes, total[part][r]);
}

using Multiply = void (*)(const Problem&, const uint8_t* tiles, const Activations&, float* sums);

// What differs between formats: how many bytes, which sums of the activations, and the loops.
struct Format {
  std::string_view name;
  size_t block_weights;  // 0: all of K is one block
  size_t code_bytes;     // of a tile's 32 weights
  size_t (*scale_bytes)(size_t block_groups);
  Sums sums;
  int zero;
  std::array<Multiply, kFewRows> few;  // [rows - 1], one tile
  Multiply one_tile, two_tiles;        // any number of rows
};

template <typename Codes, typename Scales, int... kR>
constexpr std::array<Multiply, kFewRows> for_few_rows(std::integer_sequence<int, kR...>) {
  return {multiply_few<Codes, Scales, kR + 1>...};
}

template <typename Codes, typename Scales>
constexpr Format format(std::string_view name, size_t block_weights) {
  const Sums sums = Scales::kHasMins ? Sums::kScaled : Scales::kByHalves ? Sums::kNegatedZeroByHalves : Sums::kNegatedZero;
  return {name, block_weights, Codes::kBytes, Scales::bytes, sums, Codes::kZero,
          for_few_rows<Codes, Scales>(std::make_integer_sequence<int, kFewRows>()),
          multiply_tiles<Codes, Scales, 1>, multiply_tiles<Codes, Scales, 2>};
}

inline const Format* find_format(std::string_view name) {
  static constexpr Format kFormats[] = {
      format<WholeBytes, Channels>("int8", 0),
      format<WholeBytes, Halves<false>>("int8_g32", 32),
      format<WholeBytes, Halves<false>>("int8_g64", 64),
      format<WholeBytes, Halves<false>>("int8_g128", 128),
      format<Nibbles<8>, Halves<false>>("int4_g32", 32),
      format<Nibbles<8>, Halves<false>>("int4_g64", 64),
      format<Nibbles<8>, Halves<false>>("int4_g128", 128),
      format<Nibbles<0>, Halves<true>>("int4a_g32", 32),
      format<Nibbles<0>, Halves<true>>("int4a_g64", 64),
      format<Nibbles<0>, Halves<true>>("int4a_g128", 128),
      format<NormalFloats, NormalHalves>("nf4", 64),
      format<WholeBytes, Halves<false>>("q8_0", 32),
      format<Nibbles<8>, Halves<false>>("q4_0", 32),
      format<Nibbles<0>, Halves<true>>("q4_1", 32),
      format<NibblesAndBit<16>, Halves<false>>("q5_0", 32),
      format<NibblesAndBit<0>, Halves<true>>("q5_1", 32),
      format<Nibbles<0>, Supers>("q4_k", 256),
      format<NibblesAndBit<0>, Supers>("q5_k", 256),
      format<NibblesAndTwoBits<32>, SupersByHalves>("q6_k", 256),
  };
  for (const Format& each : kFormats)
    if (each.name == name) return &each;
  return nullptr;
}

inline size_t tile_bytes(const Format& format, const Problem& p) {
  return p.blocks * (format.scale_bytes(p.block_groups) + p.block_groups * format.code_bytes);
}

inline void set_blocks(const Format& format, Problem& p) {
  const size_t block = format.block_weights > 0 ? format.block_weights : std::max<size_t>(round_up(p.k, kGroup), kGroup);
  p.block_groups = block / kGroup;
  p.blocks = (p.k + block - 1) / block;
}

// Tiles [begin, end) for a block of rows.
inline void multiply_range(const Format& format, const Problem& p, size_t row_block, const Activations& x, size_t begin, size_t end) {
  alignas(64) float sums[kRows * 2 * kTile];
  const size_t bytes = tile_bytes(format, p);
  float* out = p.out + row_block * kRows * p.n;
  for (size_t tile = begin; tile < end;) {
    const size_t tiles = x.rows > kFewRows && tile + 2 <= end ? 2 : 1;
    const Multiply multiply = x.rows <= kFewRows ? format.few[x.rows - 1] : tiles == 2 ? format.two_tiles : format.one_tile;
    multiply(p, p.tiles + tile * bytes, x, sums);
    const size_t first = tile * kTile, count = std::min<size_t>(tiles * kTile, p.n - first);
    for (int row = 0; row < x.rows; ++row)
      std::memcpy(out + row * p.n + first, sums + row * tiles * kTile, count * sizeof(float));
    tile += tiles;
  }
}

inline size_t scratch_bytes(const Problem& p) { return p.row_blocks() * activation_bytes(std::min<size_t>(p.m, kRows), p.groups()); }

// The products of one x with `n_weights` weights of a format: problems that differ in n, tiles and out alone. x is quantized once, and threads share
// the tiles of all as if they were one weight's. `parallel(chunks, run)` calls run(chunk) for each chunk, on `threads` threads; `scratch` holds scratch_bytes.
template <typename Parallel>
void multiply(const Format& format, const Problem* weights, size_t n_weights, uint8_t* scratch, int threads, const Parallel& parallel) {
  const Problem& p = weights[0];
  size_t tiles = 0;
  for (size_t w = 0; w < n_weights; ++w) tiles += weights[w].n_tiles();
  if (p.m == 0 || tiles == 0) return;
  const size_t groups = p.groups(), row_blocks = p.row_blocks();
  const size_t stride = activation_bytes(std::min<size_t>(p.m, kRows), groups);
  const auto activations = [&](size_t row_block) { return activations_at(scratch + row_block * stride, p.rows_of(row_block), groups); };
  const auto quantize = [&](size_t row) {
    const size_t row_block = row / kRows;
    quantize_row(p.x + row * p.k, p.k, groups, format.sums, format.zero, activations(row_block), (int)(row % kRows));
  };
  const auto multiply_tiles_of_all = [&](size_t row_block, size_t begin, size_t end) {
    for (size_t w = 0; w < n_weights && begin < end; ++w) {
      const size_t own = weights[w].n_tiles();
      if (begin < own) multiply_range(format, weights[w], row_block, activations(row_block), begin, std::min(end, own));
      begin -= std::min(begin, own), end -= std::min(end, own);
    }
  };
  if (p.m <= kFewRows) {
    for (size_t row = 0; row < p.m; ++row) quantize(row);  // sooner done than shared
    const std::vector<size_t> bounds = stretches(tiles, kChunkBytes / std::max<size_t>(tile_bytes(format, p), 1), threads);
    parallel((int64_t)bounds.size() - 1, [&](int64_t i) { multiply_tiles_of_all(0, bounds[i], bounds[i + 1]); });
    return;
  }
  constexpr size_t kRowsOfChunk = 4;
  parallel((int64_t)((p.m + kRowsOfChunk - 1) / kRowsOfChunk), [&](int64_t chunk) {
    for (size_t row = chunk * kRowsOfChunk; row < std::min((chunk + 1) * kRowsOfChunk, p.m); ++row) quantize(row);
  });
  const size_t tiles_of_chunk = round_up(std::max<size_t>(kChunkBytes / std::max<size_t>(tile_bytes(format, p), 1), 1), 2);
  const size_t chunks_of_block = (tiles + tiles_of_chunk - 1) / tiles_of_chunk;
  parallel((int64_t)(row_blocks * chunks_of_block), [&](int64_t chunk) {
    const size_t row_block = chunk / chunks_of_block, begin = chunk % chunks_of_block * tiles_of_chunk;
    multiply_tiles_of_all(row_block, begin, std::min(begin + tiles_of_chunk, tiles));
  });
}
