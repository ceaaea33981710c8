// Byte-pair encoding: symbols of a piece merge, the pair of the lowest rank first and of equals the leftmost.
//
//   "hugs": h u g s —(u,g)→ h ug s —(h,ug)→ hug s        each merge a look-up  (left id, right id) → (rank, id)
//
// Short pieces keep the ranks of their pairs in an array and look for the least, long ones in a heap. Very long ones go through a
// small window. It rests on this: merges on two sides of a place that no merge crosses know nothing of each other, so a row of
// tokens is the encoding of its text exactly if each two neighbours are the encoding of theirs. A window's tokens are kept up to
// a place p some tokens before its end, and the next window begins at p. If that begins with the very token that followed p in the
// old window, all neighbours have been tested and p is right. If not, another p, and in the end a window twice as wide.
//
// The same fact says how a vocabulary without a list of merges (a tiktoken rank file: the lowest rank of the concatenation wins,
// whatever its halves) becomes one: the two symbols that become a token are the last two left when its own text is encoded.
// Leaves out: dropout.
#pragma once
#include <algorithm>
#include <array>
#include <functional>
#include <memory>

#include "text_vocab.h"

namespace pikojax_text {

struct BpeRules {
  bool by_bytes = false;       // symbols are bytes, else characters
  bool whole_first = false;    // ignore_merges: a piece that is a token is that token, mergeable or not
  bool byte_fallback = false, fuse_unk = false;
  uint32_t unk = kNone;
  std::string prefix, suffix;  // continuing_subword_prefix, end_of_word_suffix
};

struct Symbols {  // scratch of one thread
  std::vector<uint32_t> id, size, rank, made, previous, next;
  std::vector<uint64_t> heap;
  size_t count = 0;  // of `id` and `size`
  std::vector<uint32_t> kept_id, kept_size;
  std::vector<Byte> spelled;
  const Byte* window = nullptr;  // the text whose symbols these are, while one piece is cut into windows
  size_t window_size = 0;
  bool first = false, last = false;

  void link(size_t n, size_t ranks) {
    if (next.size() < n) previous.resize(n), next.resize(n);
    if (rank.size() < ranks) rank.resize(ranks), made.resize(ranks);
    for (size_t i = 0; i < n; ++i) previous[i] = uint32_t(i) - 1, next[i] = i + 1 < n ? uint32_t(i) + 1 : kNone;
  }
  // What the links still lead to, one after another. Returns how many.
  size_t compact() {
    count = 0;
    for (uint32_t i = 0; i != kNone; i = next[i]) id[count] = id[i], size[count++] = size[i];
    return count;
  }
};

// joins[a][b]: whether b may follow a within a token; the index 128 is any other character.
using Joins = std::array<std::array<bool, 129>, 129>;

class Bpe {
 public:
  Bpe(std::shared_ptr<const Vocab> vocab, BpeRules rules) : vocab_(std::move(vocab)), rules_(std::move(rules)) {
    const auto& bytes = vocab_->byte_token;
    if (rules_.byte_fallback && std::count(bytes, bytes + 256, kNone)) throw std::runtime_error("byte fallback without all 256 bytes");
    for (int place = 0; place < 4; ++place) {  // 1: not the first symbol of its piece, 2: the last
      for (uint32_t c = 0; c < 256; ++c) {
        std::vector<Byte> spelled;
        const Byte byte = Byte(c);
        single_[place][c] = rules_.by_bytes || c < 128 ? spelled_id(&byte, 1, !(place & 1), place & 2, spelled) : kNone;
      }
    }
  }

  // Merges from a blob of left, right, left, right, …; the earlier the lower the rank.
  void set_merges(const Byte* blob, size_t n) {
    const Alphabets alphabets;
    std::vector<Byte> left, right, made;
    uint32_t rank = 0, left_id = kNone;
    bool is_right = false;
    pairs_.reserve(std::count(blob, blob + n, Byte(0xFF)) / 2);
    for_parts(blob, n, [&](const Byte* p, const Byte* end) {
      auto& text = is_right ? right : left;
      text.clear();
      const uint32_t id = alphabets.read(vocab_->alphabet, p, end, text) ? vocab_->find(text.data(), text.size()) : kNone;
      if (is_right) {
        made = left;
        if (right.size() >= rules_.prefix.size()) made.insert(made.end(), right.begin() + rules_.prefix.size(), right.end());
        const uint32_t made_id = vocab_->find(made.data(), made.size());
        if (left_id != kNone && id != kNone && made_id != kNone) pairs_.set(left_id, id, {rank, made_id});
        bytes_merge_ |= vocab_->byte_named(p, end) >= 0;
        ++rank;
      }
      left_id = id;
      is_right = !is_right;
    });
    finish();
  }

  // No merges: rank[i] is when the text of token i comes about (any two halves), kNone: never by merging.
  void set_ranks(const int32_t* rank) {
    std::vector<uint32_t> by_size;
    for (size_t i = 0; i < vocab_->ids.size(); ++i) {
      if (vocab_->is_key[i] && rank[i] >= 0) by_size.push_back(uint32_t(i));
    }
    std::stable_sort(by_size.begin(), by_size.end(), [&](uint32_t a, uint32_t b) { return vocab_->size(a) < vocab_->size(b); });
    pairs_.reserve(by_size.size());
    Symbols s;
    for (const uint32_t i : by_size) {
      if (begin_symbols(vocab_->text(i), vocab_->size(i), true, true, s) < 2) continue;
      if (merge(s) == 2) pairs_.set(s.id[0], s.id[1], {uint32_t(rank[i]), vocab_->ids[i]});
    }
    finish();
  }

  // Writes the ids of one piece at out and returns how many: never more than its bytes.
  size_t encode(const Byte* p, size_t n, uint32_t* out, Symbols& s) const {
    if (const uint32_t id = whole_.get(p, n); id != kNone) return *out = id, 1;
    if (n > kWindow) return encode_long(p, n, out, s);
    const size_t count = begin_symbols(p, n, true, true, s) ? merge(s) : 0;
    std::copy_n(s.id.begin(), count, out);
    return count;
  }

  // Where a text may be cut because no merge crosses there: between characters that stand side by side in no token.
  // What of it is known: for each two ASCII characters, and whether always before a space that follows none.
  const Joins* joins() const { return cuts_text_ ? &joins_ : nullptr; }

 private:
  static constexpr size_t kWindow = 96, kHeapFrom = 400;

  uint32_t spelled_id(const Byte* p, size_t n, bool first, bool last, std::vector<Byte>& spelled) const {
    spelled.clear();
    if (!first) spelled.insert(spelled.end(), rules_.prefix.begin(), rules_.prefix.end());
    spelled.insert(spelled.end(), p, p + n);
    if (last) spelled.insert(spelled.end(), rules_.suffix.begin(), rules_.suffix.end());
    return vocab_->find(spelled.data(), spelled.size());
  }

  // Pieces that are one token, and whether words can be cut at spaces.
  void finish() {
    Symbols s;
    whole_.reserve(vocab_->ids.size());
    set_joins();
    for (size_t i = 0; i < vocab_->ids.size(); ++i) {
      if (!vocab_->is_key[i]) continue;
      const Byte* text = vocab_->text(i);
      size_t n = vocab_->size(i);
      if (!rules_.whole_first) {
        const size_t tail = rules_.suffix.size();
        if (tail && (n <= tail || std::memcmp(text + n - tail, rules_.suffix.data(), tail) != 0)) continue;
        n -= tail;
        if (!begin_symbols(text, n, true, true, s) || merge(s) != 1 || s.id[0] != vocab_->ids[i]) continue;
      }
      whole_.set(text, n, vocab_->ids[i]);
    }
  }

  void set_joins() {
    const auto kind = [](Byte byte) { return byte < 128 ? byte : 128; };
    for (size_t i = 0; i < vocab_->ids.size(); ++i) {
      const Byte* text = vocab_->text(i);
      for (size_t at = 1; vocab_->is_key[i] && at < vocab_->size(i); ++at) joins_[kind(text[at - 1])][kind(text[at])] = true;
    }
    bool before_space = false;
    for (int c = 0; c <= 128; ++c) before_space |= c != ' ' && joins_[c][' '];
    cuts_text_ = !rules_.by_bytes && rules_.prefix.empty() && rules_.suffix.empty() && single_[0][' '] != kNone && !bytes_merge_ && !before_space;
    if (rules_.byte_fallback) {
      joins_[128].fill(true);
      for (auto& row : joins_) row[128] = true;
    } else {  // unknown characters may fuse or vanish, and then others become neighbours: only a space is sure to part
      for (auto& row : joins_) row.fill(true);
    }
    for (int c = 0; c <= 128; ++c) joins_[c][' '] = c == ' ';
  }

  // The symbols of a stretch before any merge, as Hugging Face's `merge_word` makes them. Returns how many.
  size_t begin_symbols(const Byte* p, size_t n, bool first, bool last, Symbols& s) const {
    if (s.id.size() < n + 1) s.id.resize(n + 1), s.size.resize(n + 1);
    size_t count = 0;
    uint32_t unknown = 0, lost = 0;  // bytes of an unknown symbol not yet written; bytes that became nothing
    const auto add = [&](uint32_t id, uint32_t size) {
      s.id[count] = id;
      s.size[count++] = size + lost;
      lost = 0;
    };
    for (size_t at = 0; at < n;) {
      const uint32_t size = rules_.by_bytes ? 1 : read_char(p + at, p + n).size;
      const int place = (first && at == 0 ? 0 : 1) | (last && at + size == n ? 2 : 0);
      const uint32_t id = size == 1 ? single_[place][p[at]] : spelled_id(p + at, size, !(place & 1), place & 2, s.spelled);
      if (id != kNone) {
        if (unknown) add(rules_.unk, unknown), unknown = 0;
        add(id, size);
      } else if (rules_.byte_fallback) {
        for (uint32_t i = 0; i < size; ++i) add(vocab_->byte_token[p[at + i]], 1);
      } else if (rules_.unk != kNone) {
        if (unknown && !rules_.fuse_unk) add(rules_.unk, unknown), unknown = 0;
        unknown += size;
      } else if (count && !lost) {
        s.size[count - 1] += size;
      } else {
        lost += size;
      }
      at += size;
    }
    if (unknown) add(rules_.unk, unknown);
    return s.count = count;
  }

  // Merges all that merge. Returns how many symbols are left.
  size_t merge(Symbols& s) const { return s.count < kHeapFrom ? merge_short(s, s.count) : merge_heap(s, s.count); }

  // Ranks stand in blocks, which compilers search with whole vector registers; what has merged into its left has none.
  size_t merge_short(Symbols& s, size_t n) const {
    constexpr size_t kBlock = 16;
    const size_t blocks = (n + kBlock - 1) / kBlock;
    s.link(n, blocks * kBlock);
    uint32_t* rank = s.rank.data();
    for (size_t i = 0; i < n; ++i) look(s, uint32_t(i));
    std::fill(rank + n, rank + blocks * kBlock, kNone);
    for (;;) {
      uint32_t least = kNone;
      for (size_t i = 0; i < blocks * kBlock; ++i) least = rank[i] < least ? rank[i] : least;
      if (least == kNone) break;
      size_t at = 0;
      for (bool here = false;; at += kBlock) {
        for (size_t i = 0; i < kBlock; ++i) here |= rank[at + i] == least;
        if (here) break;
      }
      while (rank[at] != least) ++at;
      join(s, uint32_t(at));
      look(s, uint32_t(at));
      if (at > 0) look(s, s.previous[at]);
    }
    return s.compact();
  }

  void look(Symbols& s, uint32_t i) const {
    const uint32_t right = s.next[i];
    const Merge found = right == kNone ? Merge() : pairs_.get(s.id[i], s.id[right]);
    s.rank[i] = found.rank, s.made[i] = found.id;
  }

  static void join(Symbols& s, uint32_t at) {
    const uint32_t right = s.next[at], after = s.next[right];
    s.id[at] = s.made[at];
    s.size[at] += s.size[right];
    s.rank[right] = kNone;
    s.next[at] = after;
    if (after != kNone) s.previous[after] = at;
  }

  size_t merge_heap(Symbols& s, size_t n) const {
    const auto later = std::greater<uint64_t>();
    const auto entry = [&](uint32_t i) { return uint64_t(s.rank[i]) << 32 | i; };
    s.link(n, n);
    s.heap.clear();
    for (size_t i = 0; i < n; ++i) {
      look(s, uint32_t(i));
      if (s.rank[i] != kNone) s.heap.push_back(entry(uint32_t(i)));
    }
    std::make_heap(s.heap.begin(), s.heap.end(), later);
    const auto push = [&](uint32_t i) {
      look(s, i);
      if (s.rank[i] == kNone) return;
      s.heap.push_back(entry(i));
      std::push_heap(s.heap.begin(), s.heap.end(), later);
    };
    while (!s.heap.empty()) {
      const uint64_t first = s.heap.front();
      std::pop_heap(s.heap.begin(), s.heap.end(), later);
      s.heap.pop_back();
      const uint32_t at = uint32_t(first);
      if (s.rank[at] != uint32_t(first >> 32)) continue;  // has merged or has another neighbour since
      join(s, at);
      push(at);
      if (at > 0) push(s.previous[at]);
    }
    return s.compact();
  }

  // Tokens of the window [at, at + width) of a piece, cut between characters; `width` becomes what was taken.
  size_t window(const Byte* p, size_t n, size_t at, size_t& width, Symbols& s) const {
    width = std::min(width, n - at);
    if (!rules_.by_bytes) {
      while (at + width < n && (p[at + width] & 0xC0) == 0x80) ++width;
    }
    const bool first = at == 0, last = at + width == n;
    const bool again = s.window && s.window_size == width && s.first == first && s.last == last && std::memcmp(s.window, p + at, width) == 0;
    s.window = p + at, s.window_size = width, s.first = first, s.last = last;
    if (again) return s.count;  // long runs of one character: the symbols stand there from the last time
    return begin_symbols(p + at, width, first, last, s) ? merge(s) : 0;
  }

  size_t encode_long(const Byte* p, size_t n, uint32_t* out, Symbols& s) const {
    size_t at = 0, wanted = kWindow, width = wanted, written = 0;
    s.window = nullptr;
    size_t count = window(p, n, at, width, s);
    while (at + width < n) {
      s.kept_id.assign(s.id.begin(), s.id.begin() + count);
      s.kept_size.assign(s.size.begin(), s.size.begin() + count);
      bool found = false;
      for (size_t quarters = 3; quarters > 0 && !found; --quarters) {
        const size_t keep = count * quarters / 4;
        if (keep == 0 || keep == count) continue;
        size_t taken = 0;
        for (size_t i = 0; i < keep; ++i) taken += s.kept_size[i];
        size_t next_width = wanted;
        const size_t next_count = window(p, n, at + taken, next_width, s);
        if (!next_count || s.id[0] != s.kept_id[keep] || s.size[0] != s.kept_size[keep]) continue;
        found = true;
        std::copy_n(s.kept_id.begin(), keep, out + written);
        written += keep, at += taken, count = next_count, width = next_width;
      }
      if (found) {
        if (count > 16) wanted = std::max(wanted / 2, kWindow);
      } else {
        width = wanted = 2 * std::max(wanted, width);
        count = window(p, n, at, width, s);
      }
    }
    std::copy_n(s.id.begin(), count, out + written);
    return written + count;
  }

  std::shared_ptr<const Vocab> vocab_;
  BpeRules rules_;
  PairMap pairs_;
  ByteMap whole_;  // text of a piece → the one id that it becomes
  uint32_t single_[4][256];
  Joins joins_{};
  bool cuts_text_ = false, bytes_merge_ = false;
};

}  // namespace pikojax_text
