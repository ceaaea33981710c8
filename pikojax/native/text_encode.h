// A text → ids: the scanner cuts it into pieces, the model turns each piece into ids, and what a piece became is remembered.
//
//   " the" → scanner → cache: seen before? copy its ids.  Else model → ids, kept for the next " the"
//
// The memory lives as long as one call and is small enough for a processor's own cache: words repeat within a text.
// Leaves out: normalization (text_map.h), added tokens, post-processing.
#pragma once
#include "text_bpe.h"
#include "text_scan.h"
#include "text_words.h"

namespace pikojax_text {

enum Scanner : int32_t { kWhole, kGpt2, kCl100k, kO200k, kClasses, kEachMark, kJoins };

struct Scratch {
  Symbols symbols;
  Path path;
};

struct Encoder {
  std::shared_ptr<const Vocab> vocab;
  std::unique_ptr<Bpe> bpe;  // one of the three
  std::unique_ptr<WordPiece> word_piece;
  std::unique_ptr<Unigram> unigram;
  Scanner scanner = kWhole;
  ScanRules rules;
  std::unique_ptr<CodeTable> flags;    // of the expressions' scanners
  std::unique_ptr<CodeTable> classes;  // a cut by classes, before the scanner or instead of it

  size_t encode_piece(const Byte* p, size_t n, uint32_t* out, Scratch& scratch) const {
    if (bpe) return bpe->encode(p, n, out, scratch.symbols);
    if (word_piece) return word_piece->encode(p, n, out);
    return unigram->encode(p, n, out, scratch.path);
  }
};

class Worker {
 public:
  // `n_bytes` of all that this worker may meet: a short text needs no large cache.
  Worker(const Encoder& encoder, size_t n_bytes) : encoder_(encoder) {
    size_t slots = 16;
    while (slots < n_bytes / 8 && slots < kMostSlots) slots *= 2;
    slots_.resize(slots);
  }

  // Ids of text [p, end) at out, which has room for one a byte.
  size_t encode(const Byte* p, const Byte* end, uint32_t* out) {
    readable_ = end;
    out_ = out;
    if (encoder_.classes) {
      scan_classes(Cursor{p, end, *encoder_.classes}, [&](const Byte* q, size_t n) {
        if (encoder_.scanner == kClasses) piece(q, n);
        else scan(q, q + n);
      });
    } else {
      scan(p, end);
    }
    return size_t(out_ - out);
  }

 private:
  struct Slot {
    ShortKey key;
    uint32_t what = 0;  // the id, or where in `kept_` the ids are
    uint16_t count = 0;
    uint16_t size = 0;  // of the piece; 0: empty slot
  };
  static constexpr size_t kMostSlots = 1 << 15, kMostKept = 1 << 18;

  void scan(const Byte* p, const Byte* end) {
    const auto emit = [this](const Byte* q, size_t n) { piece(q, n); };
    switch (encoder_.scanner) {
      case kGpt2: return scan_gpt2(Cursor{p, end, *encoder_.flags}, emit);
      case kCl100k: return scan_words<false>(Cursor{p, end, *encoder_.flags}, encoder_.rules, emit);
      case kO200k: return scan_words<true>(Cursor{p, end, *encoder_.flags}, encoder_.rules, emit);
      case kEachMark: return scan_marks(p, end, emit);
      case kJoins: return scan_joins(p, end, *encoder_.bpe->joins(), emit);
      default:
        if (p < end) emit(p, size_t(end - p));
    }
  }

  void piece(const Byte* p, size_t n) {
    if (n > 16) {
      out_ += encoder_.encode_piece(p, n, out_, scratch_);
      return;
    }
    const ShortKey key = short_key(p, n, readable_ - p >= 16);
    Slot& slot = slots_[hash_short(key, n) & (slots_.size() - 1)];
    if (slot.key.a == key.a && slot.key.b == key.b && slot.size == n) {
      if (slot.count == 1) {
        *out_++ = slot.what;
      } else {
        const uint32_t* from = kept_.data() + slot.what;
        for (uint32_t i = 0; i < slot.count; ++i) *out_++ = from[i];
      }
      return;
    }
    const size_t count = encoder_.encode_piece(p, n, out_, scratch_);
    if (count != 1 && kept_.size() + count > kMostKept) {
      kept_.clear();
      std::fill(slots_.begin(), slots_.end(), Slot());
    }
    slot = {key, count == 1 ? *out_ : uint32_t(kept_.size()), uint16_t(count), uint16_t(n)};
    if (count != 1) kept_.insert(kept_.end(), out_, out_ + count);
    out_ += count;
  }

  const Encoder& encoder_;
  Scratch scratch_;
  std::vector<Slot> slots_;
  std::vector<uint32_t> kept_;
  const Byte* readable_ = nullptr;
  uint32_t* out_ = nullptr;
};

// Where [p, p + n) may be cut so that its parts encode as the whole does: the first such place from `from` on, n where there is none.
inline size_t safe_cut(const Encoder& encoder, const Byte* p, size_t n, size_t from) {
  const Byte *end = p + n, *q = p + from;
  while (q < end && (*q & 0xC0) == 0x80) ++q;
  if (encoder.scanner == kEachMark || encoder.scanner == kJoins) {
    while (q < end && !(*q == ' ' && q > p && q[-1] != ' ')) ++q;
    return size_t(q - p);
  }
  const bool by_class = encoder.scanner == kClasses;
  if (!(by_class ? encoder.classes : encoder.flags)) return n;
  const CodeTable& table = by_class ? *encoder.classes : *encoder.flags;
  // A line break before a letter ends a piece, whatever stands before it; but gpt2's \s+(?!\S) leaves the last of several alone.
  const bool lines = !by_class && encoder.scanner != kGpt2;
  int before = -1;  // class of the character before q
  bool after_line = false;
  for (Char c; q < end; q += c.size) {
    c = read_char(q, end);
    const int now = table[c.code];
    if (by_class ? before >= 0 && (before != now || now < 2)
                 : before >= 0 && ((before & (kLetter | kNumber) && now & kSpace) || (after_line && now & kLetter))) {
      return size_t(q - p);
    }
    before = now;
    after_line = lines && *q == '\n';
  }
  return n;
}

}  // namespace pikojax_text
