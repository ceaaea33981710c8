// Normalization that looks at one character at a time: "É" → "é", "ﬁ" → "fi", a control character → nothing, "中" → " 中 ".
//
//   out = map[c0] map[c1] …       pages of 256 characters, filled by Python's own normalizer when a text first needs one
//
// What a normalizer does with accents, jamo or flags depends on their neighbours. Such characters are marked complex: the stretch
// from the ASCII character before one (that stays) up to the next ASCII character is reported, and Python hands in what it becomes.
// Leaves out: what changes a text across ASCII characters (those steps Python runs itself).
#pragma once
#include <atomic>
#include <memory>

#include "text_tables.h"

namespace pikojax_text {

class CharMap {
 public:
  CharMap() = default;
  CharMap(const CharMap&) = delete;
  ~CharMap() {
    for (auto& page : pages_) delete page.load(std::memory_order_relaxed);
  }

  enum : int8_t { kSame = -1, kComplex = -2 };

  // size[i]: bytes that character page*256 + i becomes, which follow one another in `texts`; or kSame, kComplex.
  // Others may be reading: a page that is there stays, as long as the map lives.
  void set_page(uint32_t page, const int8_t* size, const Byte* texts) {
    if (page >= kPages) throw std::runtime_error("a page beyond Unicode");
    auto made = std::make_unique<Page>();
    uint32_t at = 0;
    for (int i = 0; i < 256; ++i) {
      made->size[i] = size[i];
      made->begin[i] = at;
      at += size[i] > 0 ? size[i] : 0;
    }
    made->texts.assign(texts, texts + at);
    Page* none = nullptr;
    if (pages_[page].compare_exchange_strong(none, made.get(), std::memory_order_acq_rel)) made.release();
  }

  struct Found {
    size_t out_size = 0;              // of all that is not complex
    std::vector<uint32_t> missing;    // pages to be filled; out_size means nothing while there are any
    std::vector<int64_t> spans;       // begin, end, begin, end, … of complex stretches
  };

  Found look(const Byte* text, size_t n) const {
    Found found;
    std::vector<bool> asked(kPages);
    const Byte *p = text, *end = text + n, *begin = text;  // begin: from here on nothing is complex and nothing is ASCII but its first
    size_t size_at_begin = 0;
    while (p < end) {
      const Char c = read_char(p, end);
      const Page* page = page_of(c.code);
      if (!page && c.code < kCodes && !asked[c.code >> 8]) {
        asked[c.code >> 8] = true;
        found.missing.push_back(c.code >> 8);
      }
      const int8_t size = page ? page->size[c.code & 255] : int8_t(kSame);
      if (c.size == 1 && size != 0) begin = p, size_at_begin = found.out_size;  // one that goes away leaves its neighbours side by side
      p += c.size;
      if (size != kComplex) {
        found.out_size += size == kSame ? c.size : size;
        continue;
      }
      while (p < end && *p >= 0x80) ++p;
      if (p < end && p[-1] == '\r' && *p == '\n') ++p;
      if (!found.spans.empty() && found.spans.back() >= begin - text) {
        found.spans.back() = p - text;
      } else {
        found.spans.insert(found.spans.end(), {begin - text, p - text});
      }
      found.out_size = size_at_begin;
      begin = p;
      size_at_begin = found.out_size;
    }
    return found;
  }

  // spans as `look` found them; span i becomes texts[text_end[i - 1], text_end[i]). Returns the bytes written.
  size_t apply(const Byte* text, size_t n, const int64_t* spans, const int64_t* text_end, size_t n_spans, const Byte* texts, Byte* out) const {
    Byte* to = out;
    size_t at = 0;
    for (size_t i = 0; i <= n_spans; ++i) {
      to = apply_plain(text + at, text + (i < n_spans ? size_t(spans[2 * i]) : n), to);
      if (i == n_spans) break;
      const size_t from = i ? size_t(text_end[i - 1]) : 0;
      std::memcpy(to, texts + from, size_t(text_end[i]) - from);
      to += size_t(text_end[i]) - from;
      at = size_t(spans[2 * i + 1]);
    }
    return size_t(to - out);
  }

 private:
  static constexpr uint32_t kPages = kCodes >> 8;
  struct Page {
    int8_t size[256];
    uint32_t begin[256];
    std::vector<Byte> texts;
  };

  Byte* apply_plain(const Byte* p, const Byte* end, Byte* to) const {
    while (p < end) {
      const Char c = read_char(p, end);
      const Page* page = page_of(c.code);
      const int8_t size = page ? page->size[c.code & 255] : int8_t(kSame);
      if (size < 0) {
        for (uint32_t i = 0; i < c.size; ++i) *to++ = p[i];
      } else {
        const Byte* from = page->texts.data() + page->begin[c.code & 255];
        for (int i = 0; i < size; ++i) *to++ = from[i];
      }
      p += c.size;
    }
    return to;
  }

  const Page* page_of(uint32_t code) const { return code < kCodes ? pages_[code >> 8].load(std::memory_order_acquire) : nullptr; }

  std::atomic<Page*> pages_[kPages] = {};
};

}  // namespace pikojax_text
