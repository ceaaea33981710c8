// How a tile of 16 outputs lies in memory, format by format ("rows16"; pikojax/kernels/rows16.py makes it).
// A tile is a row of blocks along K. A block holds its scales, then its groups of 32 weights, one after the other; a group is
//   [planes] then codes, in vectors of 64 bytes, in which byte 4n + c belongs to output n
// Eight vectors make a group: vector v holds the weights 4v … 4v + 3. Packed nibbles are four vectors: v in the low half of a byte,
// v + 4 in the high half. A plane of fifth bits is one vector, whose bit v belongs to vector v; one of fifth and sixth bits two.
// On processors with fewer lanes than 16 a `part` of each 64 bytes is read at a time.
#pragma once
#include "simd.h"

constexpr int kTile = 16;                // outputs
constexpr int kParts = kTile / kLanes;   // vectors that one vector of the layout takes here
constexpr int kPartBytes = 4 * kLanes;

// ---------------------------------------------------------------- codes from 0 to kMost, for weights code − kZero

template <int kZero_>
struct Nibbles {
  static constexpr int kZero = kZero_, kBytes = 256, kMost = 15;
  static void unpack(const uint8_t* at, Bytes (&codes)[8]) {
    for (int v = 0; v < 4; ++v) {
      const Bytes packed = load<Bytes>(at + 64 * v);
      codes[v] = packed & 15;
      codes[v + 4] = packed >> 4;
    }
  }
};

template <int kZero_>
struct NibblesAndBit {
  static constexpr int kZero = kZero_, kBytes = 64 + 256, kMost = 31;
  static void unpack(const uint8_t* at, Bytes (&codes)[8]) {
    const Bytes plane = load<Bytes>(at);
    Nibbles<kZero_>::unpack(at + 64, codes);
#pragma GCC unroll 8
    for (int v = 0; v < 8; ++v) codes[v] |= (v < 4 ? plane << (4 - v) : plane >> (v - 4)) & 16;
  }
};

template <int kZero_>
struct NibblesAndTwoBits {
  static constexpr int kZero = kZero_, kBytes = 128 + 256, kMost = 63;
  static void unpack(const uint8_t* at, Bytes (&codes)[8]) {
    const Bytes planes[2] = {load<Bytes>(at), load<Bytes>(at + 64)};
    Nibbles<kZero_>::unpack(at + 128, codes);
#pragma GCC unroll 8
    for (int v = 0; v < 8; ++v) {
      const int shift = 4 - 2 * (v % 4);
      codes[v] |= (shift > 0 ? planes[v / 4] << shift : planes[v / 4] >> -shift) & 48;
    }
  }
};

struct WholeBytes {
  static constexpr int kZero = 128, kBytes = 512, kMost = 255;
  static void unpack(const uint8_t* at, Bytes (&codes)[8]) {
    for (int v = 0; v < 8; ++v) codes[v] = load<Bytes>(at + 64 * v);
  }
};

// NF4's sixteen values times 127, rounded, plus 128.
struct NormalFloats {
  static constexpr int kZero = 128, kBytes = 256, kMost = 255;
  static void unpack(const uint8_t* at, Bytes (&codes)[8]) {
    static constexpr uint8_t kTable[16] = {1, 40, 61, 78, 92, 105, 116, 128, 138, 148, 159, 171, 184, 199, 220, 255};
    Nibbles<0>::unpack(at, codes);
    for (Bytes& each : codes) each = look_up(kTable, each);
  }
};

// ---------------------------------------------------------------- scales
// scale(at, part, group, half) and min(…) of a block that begins at `at`, for weights code · scale + min.

template <bool kMins>
struct Halves {  // float16 scales, then perhaps float16 minimums
  static constexpr bool kHasMins = kMins, kByHalves = false;
  static size_t bytes(size_t) { return kMins ? 64 : 32; }
  static Floats scale(const uint8_t* at, int part, size_t, size_t, int) { return load_halves(at + 2 * kLanes * part); }
  static Floats min(const uint8_t* at, int part, size_t, size_t) { return load_halves(at + 32 + 2 * kLanes * part); }
};

struct NormalHalves : Halves<false> {  // the codes are 127 times the values
  static Floats scale(const uint8_t* at, int part, size_t, size_t, int) {
    return load_halves(at + 2 * kLanes * part) * (1.0f / 127.0f);
  }
};

struct Channels {  // float32, one for all of K
  static constexpr bool kHasMins = false, kByHalves = false;
  static size_t bytes(size_t) { return 64; }
  static Floats scale(const uint8_t* at, int part, size_t, size_t, int) { return load<Floats>(at + kPartBytes * part); }
  static Floats min(const uint8_t*, int, size_t, size_t) { return Floats{}; }
};

struct Supers {  // float16 d and dmin for all, and for each group two bytes: code · (d · scale) − dmin · min
  static constexpr bool kHasMins = true, kByHalves = false;
  static size_t bytes(size_t groups) { return 64 + groups * 32; }
  static Floats scale(const uint8_t* at, int part, size_t group, size_t, int) {
    return load_halves(at + 2 * kLanes * part) * load_unsigned(at + 64 + 16 * group + kLanes * part);
  }
  static Floats min(const uint8_t* at, int part, size_t group, size_t groups) {
    const uint8_t* mins = at + 64 + 16 * groups;
    return -load_halves(at + 32 + 2 * kLanes * part) * load_unsigned(mins + 16 * group + kLanes * part);
  }
};

struct SupersByHalves {  // float16 d for all, and for each half of a group one signed byte
  static constexpr bool kHasMins = false, kByHalves = true;
  static size_t bytes(size_t groups) { return 32 + groups * 32; }
  static Floats scale(const uint8_t* at, int part, size_t group, size_t, int half) {
    return load_halves(at + 2 * kLanes * part) * load_signed(at + 32 + 16 * (2 * group + half) + kLanes * part);
  }
  static Floats min(const uint8_t*, int, size_t, size_t) { return Floats{}; }
};
