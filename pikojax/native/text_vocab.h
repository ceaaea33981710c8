// A vocabulary as Python hands it over, and the texts of its tokens as this code reads them.
//
//   blob   the tokens' UTF-8 with a byte 0xFF after each: no UTF-8 has that byte, so no lengths are needed
//   text   what a token stands for:  byte-level "Ġthe" → the bytes " the";   marked "▁the" → " the", ▁ written as a space
//
// A token that no text can become (a byte-level one with a character outside the alphabet of 256, a marked one with a real space)
// is no key. In a marked vocabulary spaces and ▁ of the text must be the same, which the caller sees to.
// Leaves out: added tokens, which are cut out of a text before it comes here.
#pragma once
#include <algorithm>
#include <string>

#include "text_tables.h"

namespace pikojax_text {

enum Alphabet : int32_t { kPlain = 0, kByteLevel = 1, kMarked = 2 };

// The byte that a character of the byte-level alphabet stands for, or kNone.
inline uint32_t byte_of_char(uint32_t code) {
  const auto shown = [](uint32_t c) { return (c >= 33 && c <= 126) || (c >= 161 && c <= 172) || (c >= 174 && c <= 255); };
  if (code < 256) return shown(code) ? code : kNone;
  uint32_t nth = code - 256;  // the bytes that are not shown as themselves, in order, are 256, 257, …
  for (uint32_t byte = 0; byte < 256; ++byte) {
    if (!shown(byte) && nth-- == 0) return byte;
  }
  return kNone;
}

class Alphabets {
 public:
  Alphabets() {
    for (uint32_t code = 0; code < kTable; ++code) byte_of_[code] = byte_of_char(code);
  }
  // The text of a token appended to out; false where no text can be that token.
  bool read(Alphabet alphabet, const Byte* p, const Byte* end, std::vector<Byte>& out) const {
    if (alphabet == kPlain) {
      out.insert(out.end(), p, end);
      return true;
    }
    for (Char c; p < end; p += c.size) {
      c = read_char(p, end);
      if (alphabet == kByteLevel) {
        if (c.code >= kTable || byte_of_[c.code] == kNone) return false;
        out.push_back(Byte(byte_of_[c.code]));
      } else if (c.code == ' ') {
        return false;
      } else if (c.code == 0x2581) {
        out.push_back(' ');
      } else {
        out.insert(out.end(), p, p + c.size);
      }
    }
    return true;
  }

 private:
  static constexpr uint32_t kTable = 256 + 68;
  uint32_t byte_of_[kTable];
};

// Calls each(begin, end) for the parts of a blob.
template <class Each>
void for_parts(const Byte* p, size_t n, Each&& each) {
  const Byte* end = p + n;
  while (p < end) {
    const Byte* stop = static_cast<const Byte*>(std::memchr(p, 0xFF, end - p));
    if (!stop) throw std::runtime_error("a list of tokens without an end");
    each(p, stop);
    p = stop + 1;
  }
}

struct Vocab {
  std::vector<Byte> bytes;       // all texts, then 16 zeros: a key may be read in whole words
  std::vector<uint64_t> begin;   // text i is bytes[begin[i], begin[i + 1])
  std::vector<uint32_t> ids;
  std::vector<bool> is_key;
  uint32_t byte_token[256];      // ids of <0x00> … <0xFF>, which byte fallback writes for bytes; kNone where missing
  ByteMap map;                   // text → id
  uint32_t n_ids = 0;            // largest id + 1
  Alphabet alphabet = kPlain;

  // usable[i] 0: no text becomes token i (control tokens of SentencePiece). Null: all may.
  Vocab(Alphabet alphabet_of, const Byte* blob, size_t n, const int32_t* ids_of, size_t n_tokens, const Byte* usable) : alphabet(alphabet_of) {
    const Alphabets alphabets;
    std::fill_n(byte_token, 256, kNone);
    bytes.reserve(n + 16);
    begin.push_back(0);
    for_parts(blob, n, [&](const Byte* p, const Byte* end) {
      if (ids.size() == n_tokens || ids_of[ids.size()] < 0) throw std::runtime_error("ids that are not one for each token");
      const size_t before = bytes.size();
      is_key.push_back((!usable || usable[ids.size()]) && alphabets.read(alphabet, p, end, bytes) && bytes.size() > before);
      if (!is_key.back()) bytes.resize(before);
      if (const int byte = byte_named(p, end); byte >= 0) byte_token[byte] = uint32_t(ids_of[ids.size()]);
      ids.push_back(uint32_t(ids_of[ids.size()]));
      n_ids = ids.back() + 1 > n_ids ? ids.back() + 1 : n_ids;
      begin.push_back(bytes.size());
    });
    if (ids.size() != n_tokens) throw std::runtime_error("ids that are not one for each token");
    if (n_ids > (1u << 28)) throw std::runtime_error("ids above 2^28");
    bytes.resize(bytes.size() + 16);
    map.reserve(ids.size());
    for (size_t i = 0; i < ids.size(); ++i) {
      if (is_key[i]) map.set(text(i), size(i), ids[i]);
    }
  }
  const Byte* text(size_t i) const { return bytes.data() + begin[i]; }
  size_t size(size_t i) const { return begin[i + 1] - begin[i]; }
  uint32_t find(const Byte* p, size_t n) const { return map.get(p, n); }
  // NN of <0xNN>, -1 for other tokens.
  static int byte_named(const Byte* p, const Byte* end) {
    const auto digit = [](Byte c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1; };
    if (end - p != 6 || std::memcmp(p, "<0x", 3) != 0 || p[5] != '>' || digit(p[3]) < 0 || digit(p[4]) < 0) return -1;
    return digit(p[3]) * 16 + digit(p[4]);
  }
};

}  // namespace pikojax_text
