// Pre-tokenizers as state machines: each finds what its regular expression would, in one pass and without backtracking.
//
//   gpt2    's|'t|'re|'ve|'m|'ll|'d| ?L+| ?N+| ?[^\s L N]+|\s+(?!\S)|\s+
//   cl100k  (?i:'s|…)|[^\r\n L N]?L+|N{1,3}| ?[^\s L N]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+      qwen2: N   llama3: the same
//   o200k   words cut where lower case turns to upper, contractions at their end:  [^\r\n L N]?U*W+(?i:'s|…)?|[^\r\n L N]?U+W*(…)?|…
//
// `\s+(?!\S)` before a word leaves that word its last space: "a   b" → "a", "  ", " b".
// Every scanner calls emit(begin, size) for each piece in order. A piece depends on nothing before it.
// Leaves out: other expressions; their pieces come in from outside (see `Cuts` in text_encode.cc).
#pragma once
#include "text_tables.h"

namespace pikojax_text {

// bits of a scanner's CodeTable
enum : Byte { kLetter = 1, kNumber = 2, kSpace = 4, kUpperish = 8, kLowerish = 16 };  // upperish: Lu Lt Lm Lo M; lowerish: Ll Lm Lo M

struct ScanRules {
  uint32_t digits = 3;              // the most in one piece; 0: any number
  bool contractions = true;         // 's 't 're 've 'm 'll 'd
  bool slash = false;               // o200k: a run of marks takes slashes after it as it takes line breaks
  bool whole_tail = false;          // white space up to the text's end is one piece, line breaks or not
};

struct Cursor {
  const Byte* p;
  const Byte* end;
  const CodeTable& table;

  bool more() const { return p < end; }
  Byte flags_at(const Byte* q, uint32_t& size) const {
    if (*q < 0x80) {
      size = 1;
      return table[*q];
    }
    const Char c = read_char(q, end);
    size = c.size;
    return table[c.code];
  }
  // Past all characters with one of the bits `want`.
  const Byte* run(const Byte* q, Byte want) const {
    for (uint32_t size; q < end && flags_at(q, size) & want;) q += size;
    return q;
  }
  const Byte* run_of_marks(const Byte* q) const {
    for (uint32_t size; q < end && !(flags_at(q, size) & (kLetter | kNumber | kSpace));) q += size;
    return q;
  }
};

// Bytes of 's 't 're 've 'm 'll 'd at q, 0 for none. With any_case also the long s, which folds to s.
inline uint32_t contraction(const Byte* q, const Byte* end, bool any_case) {
  if (end - q < 2 || *q != '\'') return 0;
  const auto low = [&](Byte c) { return any_case && c >= 'A' && c <= 'Z' ? Byte(c | 32) : c; };
  const Byte a = low(q[1]);
  if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
  if (end - q < 3) return 0;
  const Byte b = low(q[2]);
  if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')) return 3;
  return any_case && q[1] == 0xC5 && q[2] == 0xBF ? 3 : 0;
}

// The white space at p: all of it, or all but its last character when something else follows that may want it.
inline const Byte* space_piece(const Cursor& c, const Byte* p) {
  const Byte* last = p;
  const Byte* q = p;
  for (uint32_t size; q < c.end && c.flags_at(q, size) & kSpace;) last = q, q += size;
  return q == c.end || last == p ? q : last;
}

template <class Emit>
void scan_gpt2(Cursor c, Emit&& emit) {
  while (c.more()) {
    const Byte* p = c.p;
    uint32_t size, next_size;
    const Byte* q = p + contraction(p, c.end, false);
    if (q == p) {
      Byte flags = c.flags_at(p, size);
      if (*p == ' ' && p + 1 < c.end) {
        const Byte next = c.flags_at(p + 1, next_size);
        if (!(next & kSpace)) flags = next, size = 1 + next_size;
      }
      if (flags & kLetter) q = c.run(p + size, kLetter);
      else if (flags & kNumber) q = c.run(p + size, kNumber);
      else if (flags & kSpace) q = space_piece(c, p);
      else q = c.run_of_marks(p + size);
    }
    emit(p, size_t(q - p));
    c.p = q;
  }
}

// From a number on, at most rules.digits characters.
inline const Byte* number_piece(const Cursor& c, const Byte* p, uint32_t digits) {
  const Byte* q = p;
  uint32_t size;
  for (uint32_t n = 0; q < c.end && (digits == 0 || n < digits) && c.flags_at(q, size) & kNumber; ++n) q += size;
  return q;
}

// ` ?[^\s L N]+[\r\n]*` from its first mark on.
inline const Byte* marks_piece(const Cursor& c, const Byte* q, const ScanRules& rules) {
  q = c.run_of_marks(q);
  while (q < c.end && (*q == '\r' || *q == '\n' || (rules.slash && *q == '/'))) ++q;
  return q;
}

// `\s*[\r\n]+|\s+(?!\S)|\s+`: white space up to its last line break, else all or all but one.
inline const Byte* space_or_lines(const Cursor& c, const Byte* p, const ScanRules& rules) {
  const Byte *q = p, *last = p, *after_break = nullptr;
  for (uint32_t size; q < c.end && c.flags_at(q, size) & kSpace; q += size) {
    last = q;
    if (*q == '\r' || *q == '\n') after_break = q + 1;
  }
  if (q == c.end && rules.whole_tail) return q;
  if (after_break) return after_break;
  return q == c.end || last == p ? q : last;
}

// The end of a word with the mark or space before it, or null. For cl100k: `[^\r\n L N]?L+`.
inline const Byte* word_cl100k(const Cursor& c, const Byte* p, Byte flags, uint32_t size) {
  if (flags & kLetter) return c.run(p + size, kLetter);
  if (flags & kNumber || *p == '\r' || *p == '\n') return nullptr;
  const Byte* q = c.run(p + size, kLetter);
  return q == p + size ? nullptr : q;
}

// U*W+ at s or null. U* gives back what W+ needs: "ABc" is all of it, "A中B" only "A中", "AB" nothing.
inline const Byte* lower_word(const Cursor& c, const Byte* s) {
  const Byte *q = s, *after_both = nullptr;
  uint32_t size;
  for (Byte flags; q < c.end && (flags = c.flags_at(q, size)) & kUpperish;) {
    q += size;
    if (flags & kLowerish) after_both = q;
  }
  const Byte* low = c.run(q, kLowerish);
  return low > q ? low : after_both;
}

inline const Byte* word_o200k(const Cursor& c, const Byte* p, Byte flags, uint32_t size, const ScanRules& rules) {
  const bool prefix = !(flags & (kLetter | kNumber)) && *p != '\r' && *p != '\n';
  const Byte* q = prefix ? lower_word(c, p + size) : nullptr;
  if (!q) q = lower_word(c, p);
  for (int with_prefix = prefix; !q && with_prefix >= 0; --with_prefix) {  // U+W*, where no W follows: it would have been found above
    const Byte* s = with_prefix ? p + size : p;
    const Byte* e = c.run(s, kUpperish);
    if (e > s) q = e;
  }
  return q && rules.contractions ? q + contraction(q, c.end, true) : q;
}

template <bool kO200k, class Emit>
void scan_words(Cursor c, const ScanRules& rules, Emit&& emit) {
  while (c.more()) {
    const Byte* p = c.p;
    uint32_t size, next_size;
    const Byte* q = nullptr;
    if (!kO200k && rules.contractions && *p == '\'') {
      const uint32_t n = contraction(p, c.end, true);
      if (n) q = p + n;
    }
    if (!q) {
      const Byte flags = c.flags_at(p, size);
      q = kO200k ? word_o200k(c, p, flags, size, rules) : word_cl100k(c, p, flags, size);
      if (q) {
      } else if (flags & kNumber) {
        q = number_piece(c, p, rules.digits);
      } else if (!(flags & kSpace) || (*p == ' ' && p + 1 < c.end && !(c.flags_at(p + 1, next_size) & (kLetter | kNumber | kSpace)))) {
        q = marks_piece(c, flags & kSpace ? p + 1 : p, rules);
      } else {
        q = space_or_lines(c, p, rules);
      }
    }
    emit(p, size_t(q - p));
    c.p = q;
  }
}

// Pre-tokenizers that look at one character at a time (BERT's, Whitespace, Punctuation, Digits, and sequences of these) come as
// a class for each code point: 0 is dropped, 1 stands alone, others hold together with their like.
template <class Emit>
void scan_classes(Cursor c, Emit&& emit) {
  const Byte* p = c.p;
  while (p < c.end) {
    uint32_t size;
    const Byte kind = c.flags_at(p, size);
    const Byte* q = p + size;
    if (kind > 1) {
      while (q < c.end && c.flags_at(q, size) == kind) q += size;
    }
    if (kind) emit(p, size_t(q - p));
    p = q;
  }
}

// SentencePiece's words, the mark ▁ written as a space: each space begins a piece.
template <class Emit>
void scan_marks(const Byte* p, const Byte* end, Emit&& emit) {
  while (p < end) {
    const void* found = p + 1 < end ? std::memchr(p + 1, ' ', end - p - 1) : nullptr;
    const Byte* q = found ? static_cast<const Byte*>(found) : end;
    emit(p, size_t(q - p));
    p = q;
  }
}

// Pieces that no merge could join: cut wherever two characters stand side by side in no token (see Bpe::joins).
template <class Joins, class Emit>
void scan_joins(const Byte* p, const Byte* end, const Joins& joins, Emit&& emit) {
  const auto kind = [](Byte byte) { return byte < 128 ? byte : 128; };
  while (p < end) {
    const Byte* q = p + 1;
    while (q < end && joins[kind(q[-1])][kind(*q)]) ++q;
    emit(p, size_t(q - p));
    p = q;
  }
}

}  // namespace pikojax_text
