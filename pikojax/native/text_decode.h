// ids → text: each token's bytes one after another.
//
//   [Hello][,][ wor][ld] → "Hello, world"        the first token may read otherwise than the rest: WordPiece puts no space before it
//
// With byte fallback, tokens <0xNN> side by side are bytes of characters; if they make no UTF-8, each becomes U+FFFD.
// Leaves out: decoders that look at neighbours otherwise; Python runs those.
#pragma once
#include "text_vocab.h"

namespace pikojax_text {

class Decoder {
 public:
  // `first` may be empty: all tokens read alike wherever they stand.
  Decoder(Alphabet alphabet, bool byte_fallback, const Byte* blob, size_t n, const int32_t* ids, size_t n_tokens, const Byte* first, size_t n_first) {
    rest_ = read(alphabet, blob, n, ids, n_tokens, byte_fallback);
    if (n_first) first_ = read(alphabet, first, n_first, ids, n_tokens, false);
  }

  // Bytes that `write` needs at most, or -1 - i where ids[i] is not in the vocabulary.
  int64_t size(const int32_t* ids, size_t n) const {
    int64_t total = 16;
    for (size_t i = 0; i < n; ++i) {
      if (uint32_t(ids[i]) >= rest_.slots.size()) return -1 - int64_t(i);
      const uint32_t size = rest_.slots[ids[i]].size;
      total += size == kByte ? 3 : size;
    }
    if (n && !first_.slots.empty()) total += first_.slots[ids[0]].size;
    return total;
  }

  size_t write(const int32_t* ids, size_t n, Byte* out) const {
    Byte* to = out;
    size_t i = 0;
    if (n && !first_.slots.empty()) to = copy(first_, first_.slots[ids[i++]], to);
    while (i < n) {
      if (const Slot slot = rest_.slots[ids[i]]; slot.size != kByte) {
        to = copy(rest_, slot, to);
        ++i;
        continue;
      }
      Byte* from = to;
      for (; i < n && rest_.slots[ids[i]].size == kByte; ++i) *to++ = Byte(rest_.slots[ids[i]].begin);
      if (is_utf8(from, to)) continue;
      const size_t count = to - from;
      for (to = from; to < from + 3 * count; to += 3) std::memcpy(to, "\xEF\xBF\xBD", 3);
    }
    return size_t(to - out);
  }

 private:
  struct Slot {
    uint32_t begin = 0, size = 0;  // size kByte: a byte token, whose byte is `begin`
  };
  static constexpr uint32_t kByte = 0xFFFFFFFF;
  struct Texts {
    std::vector<Byte> bytes;
    std::vector<Slot> slots;  // by id
  };

  static Texts read(Alphabet alphabet, const Byte* blob, size_t n, const int32_t* ids, size_t n_tokens, bool byte_fallback) {
    const Alphabets alphabets;
    Texts texts;
    size_t i = 0;
    for_parts(blob, n, [&](const Byte* p, const Byte* end) {
      if (i == n_tokens || ids[i] < 0 || ids[i] >= (1 << 28)) throw std::runtime_error("ids that are not one for each token");
      const uint32_t id = uint32_t(ids[i++]);
      const size_t before = texts.bytes.size();
      if (!alphabets.read(alphabet, p, end, texts.bytes)) {
        texts.bytes.resize(before);
        texts.bytes.insert(texts.bytes.end(), p, end);
      }
      if (texts.bytes.size() >= kByte) throw std::runtime_error("tokens of over 4 GiB");
      if (texts.slots.size() <= id) texts.slots.resize(id + 1);
      const int byte = byte_fallback ? byte_of(p, end) : -1;
      texts.slots[id] = byte >= 0 ? Slot{uint32_t(byte), kByte} : Slot{uint32_t(before), uint32_t(texts.bytes.size() - before)};
    });
    if (i != n_tokens) throw std::runtime_error("ids that are not one for each token");
    texts.bytes.resize(texts.bytes.size() + 16);
    return texts;
  }

  static int byte_of(const Byte* p, const Byte* end) {
    const auto digit = [](Byte c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1; };
    if (end - p != 6 || std::memcmp(p, "<0x", 3) != 0 || p[5] != '>') return -1;
    const int high = p[3] == '+' ? 0 : digit(p[3]), low = digit(p[4]);  // Rust reads a sign before a number
    return high < 0 || low < 0 ? -1 : high * 16 + low;
  }

  static bool is_utf8(const Byte* p, const Byte* end) {
    for (Char c; p < end; p += c.size) {
      c = read_char(p, end);
      if (c.code == kInvalid) return false;
    }
    return true;
  }

  // Sixteen bytes at once where that is enough: `out` has room, see `size`.
  static Byte* copy(const Texts& texts, Slot slot, Byte* to) {
    const Byte* from = texts.bytes.data() + slot.begin;
    if (slot.size <= 16) std::memcpy(to, from, 16);
    else std::memcpy(to, from, slot.size);
    return to + slot.size;
  }

  Texts rest_, first_;
};

}  // namespace pikojax_text
