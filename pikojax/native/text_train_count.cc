// Counts the words of a text: what a pre-tokenizer makes of it, without ever making the list of them.
//   bytes → [start, end) of the next word → hash → count += 1
// Two kinds of pre-tokenizer. A *scanner* is a hand-written state machine for a known pattern; words are stretches of the text.
// A *table* says what becomes of each code point (kept, dropped, replaced, a gap, a word of its own), which covers BERT's and
// SentencePiece's normalizing and splitting in one pass. A stretch with a code point whose fate hangs on its neighbours (one
// that composes, say) is counted as it stands, for the caller to normalize: each distinct stretch once, not each occurrence.
// Leaves out: patterns and normalizers that are neither; the caller counts those in Python.
#include <algorithm>
#include <string>

#include "text_scan.h"
#include "text_train.h"

namespace {

using pikojax_text::CodeTable;

enum Action : uint32_t { kKeep, kGap, kDrop, kAlone, kReplace, kByCaller };  // the top 3 bits of a table's entry
constexpr uint32_t kPayload = (1u << 29) - 1;

struct Splitter {
  const CodeTable* classes;  // scanners: the bits that text_scan.h asks for
  const uint32_t* actions;   // tables: what becomes of each code point
  const uint32_t* pool;      // of kReplace: at the payload stands how many code points, then they
  const char* lead;          // what every word of a table begins with ("▁"), perhaps nothing
  uint32_t lead_length;
  uint32_t empty_words;  // two gaps in a row enclose a word that is `lead` alone
  uint32_t scanner;      // 0: the table, 1: scan_gpt2, 2: scan_words, 3: scan_words as in o200k
  uint32_t digits, contractions, slash, whole_tail;  // ScanRules
};

void count_scanned(Counter& counter, const Splitter& splitter, const uint8_t* text, const uint8_t* end) {
  const pikojax_text::Cursor cursor{text, end, *splitter.classes};
  const pikojax_text::ScanRules rules{splitter.digits, splitter.contractions != 0, splitter.slash != 0, splitter.whole_tail != 0};
  const auto count = [&counter](const uint8_t* word, size_t length) { counter.words.add(reinterpret_cast<const char*>(word), length, 1); };
  if (splitter.scanner == 1) return pikojax_text::scan_gpt2(cursor, count);
  if (splitter.scanner == 2) return pikojax_text::scan_words<false>(cursor, rules, count);
  pikojax_text::scan_words<true>(cursor, rules, count);
}

class TableWords {
 public:
  TableWords(Counter& counter, const Splitter& splitter) : counter_(counter), splitter_(splitter), word_(counter.word) { begin(); }

  void stretch(const uint8_t* text, const uint8_t* end) {  // without a gap of one byte inside
    for (const uint8_t* at = text; at < end;) {
      if (*at < 0x80) {
        ++at;
      } else if (splitter_.actions[next_code_point(at, end)] >> 29 == kByCaller) {
        counter_.by_caller.add(reinterpret_cast<const char*>(text), end - text, 1);
        return;
      }
    }
    while (text < end) put(next_code_point(text, end));
    finish();
  }

  void empty() { counter_.words.add(splitter_.lead, splitter_.lead_length, 1); }

 private:
  Counter& counter_;
  const Splitter& splitter_;
  std::string& word_;

  void begin() { word_.assign(splitter_.lead, splitter_.lead_length); }

  void finish() {
    if (word_.size() > splitter_.lead_length) counter_.words.add(word_.data(), word_.size(), 1);
    begin();
  }

  void append(uint32_t code) {
    char bytes[4];
    word_.append(bytes, put_code_point(code, bytes));
  }

  void put(uint32_t code, bool replaced = false) {
    const uint32_t action = splitter_.actions[code];
    switch (action >> 29) {
      case kGap:
        return finish();
      case kDrop:
        return;
      case kAlone:
        finish();
        append(code);
        return finish();
      case kReplace:
        if (!replaced) {
          const uint32_t* codes = splitter_.pool + (action & kPayload);
          for (uint32_t i = 1; i <= codes[0]; ++i) put(codes[i], true);
          return;
        }
        [[fallthrough]];
      default:
        append(code);
    }
  }
};

void count_by_table(Counter& counter, const Splitter& splitter, const uint8_t* text, const uint8_t* end) {
  TableWords words(counter, splitter);
  bool first = true;
  while (true) {
    const uint8_t* at = text;
    while (at < end && (*at >= 0x80 || splitter.actions[*at] >> 29 != kGap)) ++at;
    if (at > text) {
      words.stretch(text, at);
    } else if (splitter.empty_words && !first) {
      words.empty();
    }
    first = false;
    if (at == end) return;
    text = at + 1;
  }
}

void count_text(Counter& counter, const Splitter& splitter, const uint8_t* text, const uint8_t* end) {
  if (text == end) return;
  splitter.scanner ? count_scanned(counter, splitter, text, end) : count_by_table(counter, splitter, text, end);
}

}  // namespace

// Why this thread's last call failed, "" if it did not; asking forgets it.
PIKOJAX_EXPORT void pikojax_train_error(char* error) {
  std::memcpy(error, pikojax_text::train_error, pikojax_text::kErrorSize);
  pikojax_text::train_error[0] = 0;
}

PIKOJAX_EXPORT CodeTable* pikojax_code_table_new(const uint8_t* of_code) {
  return pikojax_text::told<CodeTable*>(nullptr, [&]() -> CodeTable* {
    return new CodeTable(of_code);
  });
}

PIKOJAX_EXPORT Counter* pikojax_counter_new() {
  return pikojax_text::told<Counter*>(nullptr, [&]() -> Counter* {
    return new Counter;
  });
}
PIKOJAX_EXPORT void pikojax_counter_free(Counter* counter) { delete counter; }

// Text i is bytes [offsets[i], offsets[i + 1]) of `data`. by_line: each line of it, with its end, is a text of its own.
PIKOJAX_EXPORT void pikojax_count(Counter* counter, const Splitter* splitter, const uint8_t* data, const uint64_t* offsets,
                                  uint64_t texts, int by_line) {
  pikojax_text::told(false, [&] {
    for (uint64_t i = 0; i < texts; ++i) {
      const uint8_t *text = data + offsets[i], *end = data + offsets[i + 1];
      while (by_line && text < end) {
        const void* found = std::memchr(text, '\n', end - text);
        const uint8_t* line_end = found ? static_cast<const uint8_t*>(found) + 1 : end;
        count_text(*counter, *splitter, text, line_end);
        text = line_end;
      }
      if (!by_line) count_text(*counter, *splitter, text, end);
    }
    return true;
  });
}

// Adds words with counts: those of another counter, or those that the caller brings.
PIKOJAX_EXPORT void pikojax_counter_merge(Counter* counter, const Counter* other) {
  pikojax_text::told(false, [&] {
    counter->words.add_all(other->words);
    counter->by_caller.add_all(other->by_caller);
    return true;
  });
}
PIKOJAX_EXPORT void pikojax_counter_add(Counter* counter, const char* data, const uint64_t* offsets, const uint64_t* counts,
                                        uint64_t words) {
  pikojax_text::told(false, [&] {
    for (uint64_t i = 0; i < words; ++i) counter->words.add(data + offsets[i], offsets[i + 1] - offsets[i], counts[i]);
    return true;
  });
}

// How many words and bytes there are (of those for the caller, if so asked), and then they themselves.
PIKOJAX_EXPORT void pikojax_counter_size(const Counter* counter, int by_caller, uint64_t* words, uint64_t* bytes) {
  const SpanCounts& spans = by_caller ? counter->by_caller : counter->words;
  *words = spans.entries.size();
  *bytes = spans.pool.size();
}
PIKOJAX_EXPORT void pikojax_counter_read(const Counter* counter, int by_caller, char* data, uint64_t* offsets, uint64_t* counts) {
  const SpanCounts& spans = by_caller ? counter->by_caller : counter->words;
  if (!spans.pool.empty()) std::memcpy(data, spans.pool.data(), spans.pool.size());  // an empty pool has no address
  offsets[0] = 0;
  for (size_t i = 0; i < spans.entries.size(); ++i) {
    offsets[i + 1] = spans.entries[i].at + spans.entries[i].length;
    counts[i] = spans.entries[i].count;
  }
}

// How often each symbol (a byte, or a code point) stands in each kind of place: counts[symbol * 4 + (not first) + 2 * (last)].
PIKOJAX_EXPORT void pikojax_symbol_counts(const Counter* counter, int by_bytes, uint64_t* counts) {
  for (const SpanCounts::Entry& entry : counter->words.entries) {
    const uint8_t* text = reinterpret_cast<const uint8_t*>(counter->words.bytes(entry));
    const uint8_t* end = text + entry.length;
    for (bool first = true; text < end; first = false) {
      const uint32_t symbol = by_bytes ? *text++ : next_code_point(text, end);
      counts[symbol * 4 + !first + 2 * (text == end)] += entry.count;
    }
  }
}
