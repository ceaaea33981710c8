// What the tokenizer trainers share: counts of byte spans, a hash table of 64-bit keys, and threads over a range.
//   SpanCounts: "the" → 1234. The bytes lie one after another in one pool; a table of 8-byte slots points at the entries.
// Nothing here depends on the order of insertion but the order of the entries itself, and no result does.
// Leaves out: deletion.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <string>
#include <thread>
#include <vector>

#include "export.h"
#include "text_guard.h"

inline uint64_t mix(uint64_t a, uint64_t b) {
  const unsigned __int128 product = static_cast<unsigned __int128>(a ^ 0x9e3779b97f4a7c15u) * (b ^ 0xd1b54a32d192ed03u);
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

inline uint64_t hash_span(const char* span, size_t length) {
  uint64_t hash = length;
  for (; length >= 8; span += 8, length -= 8) {
    uint64_t word;
    std::memcpy(&word, span, 8);
    hash = mix(hash, word);
  }
  uint64_t rest = 0;
  std::memcpy(&rest, span, length);
  return mix(hash, rest);
}

class SpanCounts {
 public:
  struct Entry {
    uint64_t at, count;
    uint32_t length, hash;
  };
  std::vector<Entry> entries;
  std::vector<char> pool;

  SpanCounts() : slots_(1 << 12) {}

  const char* bytes(const Entry& entry) const { return pool.data() + entry.at; }

  void add(const char* span, size_t length, uint64_t count) {
    const uint64_t hash = hash_span(span, length);
    const uint32_t low = static_cast<uint32_t>(hash);
    size_t slot = hash >> 20 & (slots_.size() - 1);
    for (; slots_[slot].entry; slot = (slot + 1) & (slots_.size() - 1)) {
      if (slots_[slot].hash != low) continue;
      Entry& entry = entries[slots_[slot].entry - 1];
      if (entry.length == length && std::memcmp(bytes(entry), span, length) == 0) {
        entry.count += count;
        return;
      }
    }
    if (length > UINT32_MAX || entries.size() + 1 >= UINT32_MAX) throw std::runtime_error("more than 2^32 different words, or as many bytes in one");
    entries.push_back({pool.size(), count, static_cast<uint32_t>(length), low});
    pool.insert(pool.end(), span, span + length);
    slots_[slot] = {low, static_cast<uint32_t>(entries.size())};
    if (entries.size() * 2 > slots_.size()) grow();
  }

  void add_all(const SpanCounts& other) {
    for (const Entry& entry : other.entries) add(other.bytes(entry), entry.length, entry.count);
  }

 private:
  struct Slot {
    uint32_t hash = 0, entry = 0;  // entry: index + 1, 0 where the slot is free
  };
  std::vector<Slot> slots_;

  void grow() {
    std::vector<Slot>(slots_.size() * 2).swap(slots_);
    for (size_t i = 0; i < entries.size(); ++i) {
      size_t slot = hash_span(bytes(entries[i]), entries[i].length) >> 20 & (slots_.size() - 1);
      while (slots_[slot].entry) slot = (slot + 1) & (slots_.size() - 1);
      slots_[slot] = {entries[i].hash, static_cast<uint32_t>(i + 1)};
    }
  }
};

struct Counter {
  SpanCounts words;
  SpanCounts by_caller;  // stretches that the caller turns into words
  std::string word;      // the one being put together
};

// 64-bit keys → 0, 1, 2 … in the order in which they came.
class KeyTable {
 public:
  std::vector<uint64_t> keys;

  KeyTable() : slots_(1 << 12) {}

  static constexpr uint32_t kNone = UINT32_MAX;

  uint32_t find(uint64_t key) const {
    for (size_t slot = place(key);; slot = (slot + 1) & (slots_.size() - 1)) {
      if (!slots_[slot]) return kNone;
      if (keys[slots_[slot] - 1] == key) return slots_[slot] - 1;
    }
  }

  uint32_t insert(uint64_t key) {
    size_t slot = place(key);
    for (; slots_[slot]; slot = (slot + 1) & (slots_.size() - 1))
      if (keys[slots_[slot] - 1] == key) return slots_[slot] - 1;
    if (keys.size() + 1 >= UINT32_MAX) throw std::runtime_error("more than 2^32 different pairs");
    keys.push_back(key);
    slots_[slot] = static_cast<uint32_t>(keys.size());
    if (keys.size() * 2 > slots_.size()) grow();
    return static_cast<uint32_t>(keys.size() - 1);
  }

 private:
  std::vector<uint32_t> slots_;  // index + 1, 0 where free

  size_t place(uint64_t key) const { return mix(key, 0) >> 16 & (slots_.size() - 1); }

  void grow() {
    std::vector<uint32_t>(slots_.size() * 2).swap(slots_);
    for (size_t i = 0; i < keys.size(); ++i) {
      size_t slot = place(keys[i]);
      while (slots_[slot]) slot = (slot + 1) & (slots_.size() - 1);
      slots_[slot] = static_cast<uint32_t>(i + 1);
    }
  }
};

// Calls run(part) for every part, each in a thread of its own; where no more threads can be had, in this one. What a part throws
// is thrown here, when all are done.
template <typename Run>
void over_threads(int parts, const Run& run) {
  std::vector<std::exception_ptr> thrown(parts);
  const auto kept = [&](int part) {
    try {
      run(part);
    } catch (...) {
      thrown[part] = std::current_exception();
    }
  };
  std::vector<std::thread> threads;
  threads.reserve(parts);
  for (int part = 1; part < parts; ++part) {
    try {
      threads.emplace_back(kept, part);
    } catch (...) {
      kept(part);
    }
  }
  kept(0);
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& each : thrown)
    if (each) std::rethrow_exception(each);
}

// One code point of UTF-8. A byte that begins none is taken alone, as U+FFFD; `text` moves past what was read.
inline uint32_t next_code_point(const uint8_t*& text, const uint8_t* end) {
  const uint8_t lead = *text++;
  if (lead < 0x80) return lead;
  const int more = lead >= 0xf0 && lead < 0xf5 ? 3 : lead >= 0xe0 ? 2 : lead >= 0xc2 ? 1 : 0;
  if (more == 0 || lead >= 0xf5 || end - text < more) return 0xfffd;
  uint32_t code = lead & (0x3f >> more);
  for (int i = 0; i < more; ++i) {
    if ((text[i] & 0xc0) != 0x80) return 0xfffd;
    code = code << 6 | (text[i] & 0x3f);
  }
  if (code > 0x10ffff) return 0xfffd;
  text += more;
  return code;
}

inline size_t put_code_point(uint32_t code, char* out) {
  if (code < 0x80) return out[0] = static_cast<char>(code), 1;
  const int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
  for (int i = more; i > 0; --i, code >>= 6) out[i] = static_cast<char>(0x80 | (code & 0x3f));
  out[0] = static_cast<char>((0xff00 >> (more + 1) & 0xff) | code);
  return more + 1;
}
