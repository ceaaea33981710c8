// What every part of the tokenizer stands on: reading UTF-8, a property of each code point, and two hash tables.
//
//   class of a code point = pages[page_of[code >> 8]][code & 255]      equal pages are stored once: 1.1 MB become some 30 kB
//
// Bytes that are no UTF-8 are read one by one as a character of no class. A key of up to 16 bytes is two words, zero padded, so
// that comparing is two compares; the length tells "a" from "a\0".
// Leaves out: removing keys.
#pragma once
#include <cstdint>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <vector>

namespace pikojax_text {

using Byte = unsigned char;
constexpr uint32_t kCodes = 0x110000, kInvalid = 0xFFFFFFFF, kNone = 0xFFFFFFFF;

struct Char {
  uint32_t code;  // kInvalid: a byte that begins no character
  uint32_t size;  // in bytes
};

// The character at p < end. Overlong forms, surrogates and numbers beyond Unicode are not characters.
inline Char read_char(const Byte* p, const Byte* end) {
  const uint32_t a = p[0];
  const size_t left = end - p;
  const auto more = [&](size_t i) { return (p[i] & 0xC0) == 0x80; };
  if (a < 0x80) return {a, 1};
  if (a >= 0xC2 && a < 0xE0 && left > 1 && more(1)) return {(a & 31) << 6 | (p[1] & 63u), 2};
  if (a >= 0xE0 && a < 0xF0 && left > 2 && more(1) && more(2)) {
    const uint32_t code = (a & 15) << 12 | (p[1] & 63u) << 6 | (p[2] & 63u);
    if (code >= 0x800 && (code < 0xD800 || code >= 0xE000)) return {code, 3};
  }
  if (a >= 0xF0 && a < 0xF5 && left > 3 && more(1) && more(2) && more(3)) {
    const uint32_t code = (a & 7) << 18 | (p[1] & 63u) << 12 | (p[2] & 63u) << 6 | (p[3] & 63u);
    if (code >= 0x10000 && code < kCodes) return {code, 4};
  }
  return {kInvalid, 1};
}

// One byte for each code point.
class CodeTable {
 public:
  explicit CodeTable(const Byte* of_code) {
    std::vector<std::pair<uint64_t, uint16_t>> known;  // hash → page; few pages differ
    for (uint32_t page = 0; page < kCodes >> 8; ++page) {
      const Byte* values = of_code + (size_t(page) << 8);
      uint64_t hash = 0;
      for (int i = 0; i < 256; i += 8) {
        uint64_t word;
        std::memcpy(&word, values + i, 8);
        hash = (hash ^ word) * 0x9E3779B97F4A7C15u;
        hash ^= hash >> 29;
      }
      size_t at = 0;
      while (at < known.size() && !(known[at].first == hash && std::memcmp(&pages_[known[at].second * 256], values, 256) == 0)) ++at;
      if (at == known.size()) {
        known.push_back({hash, uint16_t(pages_.size() / 256)});
        pages_.insert(pages_.end(), values, values + 256);
      }
      page_of_[page] = known[at].second;
    }
  }
  Byte operator[](uint32_t code) const { return code < kCodes ? pages_[page_of_[code >> 8] * 256u + (code & 255)] : 0; }

 private:
  uint16_t page_of_[kCodes >> 8];
  std::vector<Byte> pages_;
};

inline uint64_t load_word(const Byte* p) {
  uint64_t word;
  std::memcpy(&word, p, 8);
  return word;
}

inline uint64_t mix(uint64_t a, uint64_t b) {
  const uint64_t h = (a ^ 0x9E3779B97F4A7C15u) * 0xD6E8FEB86659FD93u ^ (b + 0x2545F4914F6CDD1Du) * 0xA24BAED4963EE407u;
  return (h ^ h >> 32) * 0x9FB21C651E98DF25u;
}

// Up to 16 bytes as two words.
struct ShortKey {
  uint64_t a = 0, b = 0;
};

// `slack`: there are 16 readable bytes at p, whatever n is.
inline ShortKey short_key(const Byte* p, size_t n, bool slack) {
  ShortKey key;
  if (slack) {
    key.a = load_word(p);
    if (n <= 8) {
      key.a = n == 8 ? key.a : key.a & ((uint64_t(1) << 8 * n) - 1);
    } else {
      key.b = load_word(p + 8);
      key.b = n == 16 ? key.b : key.b & ((uint64_t(1) << 8 * (n - 8)) - 1);
    }
  } else {
    std::memcpy(&key.a, p, n < 8 ? n : 8);
    if (n > 8) std::memcpy(&key.b, p + 8, n - 8);
  }
  return key;
}

inline uint64_t hash_short(const ShortKey& key, size_t n) {
  const uint64_t h = mix(key.a + n, key.b);
  return h ^ h >> 29;
}

inline uint64_t hash_bytes(const Byte* p, size_t n) {
  uint64_t hash = n;
  for (; n > 16; p += 16, n -= 16) hash = mix(hash ^ load_word(p), load_word(p + 8));
  const ShortKey rest = short_key(p, n, false);
  hash = mix(hash ^ rest.a, rest.b);
  return hash ^ hash >> 29;
}

// Bytes → id. The bytes live in the caller's memory for as long as the table.
class ByteMap {
 public:
  void reserve(size_t n) {
    size_t slots = 16;
    while (slots < 2 * n) slots *= 2;
    slots_.assign(slots, Slot());
  }
  // The last id given for a key stands, as in a dictionary.
  void set(const Byte* p, size_t n, uint32_t id) {
    if (n > UINT32_MAX) throw std::runtime_error("a token of over 4 GiB");
    Slot& slot = slots_[find(p, n)];
    slot = {p, uint32_t(n), id};
  }
  uint32_t get(const Byte* p, size_t n) const {
    if (slots_.empty()) return kNone;
    return slots_[find(p, n)].id;
  }

 private:
  struct Slot {
    const Byte* p = nullptr;
    uint32_t n = 0, id = kNone;
  };
  size_t find(const Byte* p, size_t n) const {
    const size_t mask = slots_.size() - 1;
    size_t at = hash_bytes(p, n) & mask;
    while (slots_[at].id != kNone && !(slots_[at].n == n && std::memcmp(slots_[at].p, p, n) == 0)) at = (at + 1) & mask;
    return at;
  }
  std::vector<Slot> slots_;
};

// A pair of ids → what it merges into, and when.
struct Merge {
  uint32_t rank = kNone, id = kNone;  // rank kNone: no merge
};

// Most pairs of neighbours do not merge; a bit for each of a few hash values says so without a look into the table itself.
class PairMap {
 public:
  void reserve(size_t n) {
    size_t slots = 16, bits = 1 << 9;
    while (slots < 2 * n) slots *= 2;
    while (bits < 8 * n) bits *= 2;
    slots_.assign(slots, Slot());
    bits_.assign(bits / 64, 0);
  }
  void set(uint32_t left, uint32_t right, Merge merge) {
    const uint64_t pair = uint64_t(left) << 32 | right, hash = hash_of(pair);
    bits_[hash >> 38 & (bits_.size() - 1)] |= uint64_t(1) << (hash >> 32 & 63);
    slots_[find(pair, hash)] = {pair, merge};
  }
  Merge get(uint32_t left, uint32_t right) const {
    const uint64_t pair = uint64_t(left) << 32 | right, hash = hash_of(pair);
    if (!(bits_[hash >> 38 & (bits_.size() - 1)] >> (hash >> 32 & 63) & 1)) return Merge();
    return slots_[find(pair, hash)].merge;
  }

 private:
  struct Slot {
    uint64_t pair = ~uint64_t(0);
    Merge merge;
  };
  static uint64_t hash_of(uint64_t pair) {
    pair *= 0x9E3779B97F4A7C15u;
    return (pair ^ pair >> 32) * 0xD6E8FEB86659FD93u;
  }
  size_t find(uint64_t pair, uint64_t hash) const {
    const size_t mask = slots_.size() - 1;
    size_t at = (hash ^ hash >> 32) & mask;
    while (slots_[at].pair != pair && slots_[at].pair != ~uint64_t(0)) at = (at + 1) & mask;
    return at;
  }
  std::vector<Slot> slots_ = std::vector<Slot>(16);
  std::vector<uint64_t> bits_ = std::vector<uint64_t>(8);
};

}  // namespace pikojax_text
