// WordPiece: the longest token that begins the word, then the longest continuation (##…), and so on; else the whole word is unknown.
// Unigram: the cut of a text into tokens with the greatest sum of scores.
//
//   "unaffable" → un ##aff ##able          best[end] = max over tokens [start, end) of  best[start] + score,  ties to the longest
//
// Unigram's sums are float64 from the beginning of the piece on, in Hugging Face's order, so that rounding decides ties as it does
// there. A long text is settled piecemeal: what all paths still open have in common is final, and its memory is used again.
// Leaves out: sampling of segmentations.
#pragma once
#include <limits>
#include <memory>

#include "text_trie.h"
#include "text_vocab.h"

namespace pikojax_text {

inline std::vector<Trie::Key> trie_keys(const Vocab& vocab) {
  std::vector<Trie::Key> keys;
  for (size_t i = 0; i < vocab.ids.size(); ++i) {
    if (vocab.is_key[i]) keys.push_back({vocab.text(i), vocab.size(i), vocab.ids[i]});
  }
  return keys;
}

class WordPiece {
 public:
  WordPiece(std::shared_ptr<const Vocab> vocab, const std::string& prefix, uint32_t unk, size_t max_chars)
      : vocab_(std::move(vocab)), trie_(trie_keys(*vocab_)), unk_(unk), max_chars_(max_chars), rest_(Trie::kRoot) {
    for (const char c : prefix) rest_ = rest_ ? trie_.step(rest_, Byte(c)) : 0;
  }

  size_t encode(const Byte* p, size_t n, uint32_t* out) const {
    if (n > max_chars_) {
      size_t chars = 0;
      for (size_t i = 0; i < n && chars <= max_chars_; ++i) chars += (p[i] & 0xC0) != 0x80;
      if (chars > max_chars_) return unknown(out);
    }
    size_t count = 0;
    for (size_t at = 0; at < n;) {
      size_t end = at;
      uint32_t id = kNone, node = at ? rest_ : Trie::kRoot;
      for (size_t i = at; i < n && node && (node = trie_.step(node, p[i]));) {
        ++i;
        if (trie_.id(node) != kNone) id = trie_.id(node), end = i;
      }
      if (end == at) return unknown(out);
      out[count++] = id;
      at = end;
    }
    return count;
  }

 private:
  size_t unknown(uint32_t* out) const {
    if (unk_ == kNone) throw std::runtime_error("a word that the vocabulary cannot spell, and no unknown token");
    return *out = unk_, 1;
  }

  std::shared_ptr<const Vocab> vocab_;
  Trie trie_;
  uint32_t unk_;
  size_t max_chars_;
  uint32_t rest_;  // where the trie stands after "##"
};

struct UnigramRules {
  bool by_bytes = false, byte_fallback = false;
  bool float32 = false;  // sums as SentencePiece's own
  uint32_t unk = kNone;
};

struct Path {  // scratch of one thread: the best way to each place of the open part
  struct Node {
    double score;
    uint32_t size, id;  // of the token that ends here; size 0: no token does
  };
  std::vector<Node> nodes;
  std::vector<Byte> marks;
  std::vector<std::pair<uint32_t, uint32_t>> tokens;  // size, id
};

class Unigram {
 public:
  // scores[i] belongs to token i of the vocabulary as it was handed over.
  Unigram(std::shared_ptr<const Vocab> vocab, const double* scores, UnigramRules rules)
      : vocab_(std::move(vocab)), trie_(trie_keys(*vocab_)), score_(vocab_->n_ids), rules_(rules) {
    double least = std::numeric_limits<double>::infinity();
    for (size_t i = 0; i < vocab_->ids.size(); ++i) {
      score_[vocab_->ids[i]] = scores[i];
      if ((!rules_.float32 || vocab_->is_key[i]) && scores[i] < least) least = scores[i];
    }
    unk_score_ = rules_.float32 ? double(float(least) - 10.0f) : least - 10.0;
  }

  size_t encode(const Byte* p, size_t n, uint32_t* out, Path& path) const {
    Writer writer{*this, p, out};
    size_t base = 0, reach = 0, patience = kOpen;
    path.nodes.assign(std::min(n, 2 * kOpen) + 1, Path::Node{0, 0, kNone});
    const auto node = [&](size_t at) -> Path::Node& {
      if (at - base >= path.nodes.size()) path.nodes.resize(std::max(at - base + 1, 2 * path.nodes.size()), Path::Node{0, 0, kNone});
      return path.nodes[at - base];
    };
    for (size_t at = 0; at < n;) {
      if (at - base >= patience) {
        const size_t settled = reach == at ? at : common(path, at - base, reach - base) + base;
        writer.settle(path, base, settled);
        std::copy(path.nodes.begin() + (settled - base), path.nodes.begin() + (std::max(reach, at) + 1 - base), path.nodes.begin());
        std::fill(path.nodes.begin() + (std::max(reach, at) + 1 - settled), path.nodes.end(), Path::Node{0, 0, kNone});
        base = settled;
        patience = std::max(kOpen, 2 * (at - base));
      }
      const double so_far = node(at).score;
      const size_t char_size = rules_.by_bytes ? 1 : read_char(p + at, p + n).size;
      bool single = false;
      uint32_t state = Trie::kRoot;
      const auto sum = [&](double score) { return rules_.float32 ? double(float(score) + float(so_far)) : score + so_far; };
      const auto offer = [&](size_t end, double score, uint32_t id) {
        Path::Node& to = node(end);
        if (to.size == 0 || score > to.score) to = {score, uint32_t(end - at), id};
        reach = std::max(reach, end);
      };
      for (size_t end = at; end < n && (state = trie_.step(state, p[end]));) {
        ++end;
        const uint32_t id = trie_.id(state);
        if (id == kNone) continue;
        offer(end, sum(score_[id]), id);
        single |= end - at == char_size;
      }
      if (!single) {
        const Path::Node& to = node(at + char_size);
        if (rules_.unk == kNone && (to.size == 0 || sum(unk_score_) > to.score)) {
          throw std::runtime_error("a character that the vocabulary lacks, and no unknown token");
        }
        offer(at + char_size, sum(unk_score_), rules_.unk);
      }
      at += char_size;
    }
    writer.settle(path, base, n);
    writer.flush();
    return writer.count;
  }

 private:
  static constexpr size_t kOpen = 4096;

  // Writes settled tokens; unknown ones side by side are one.
  struct Writer {
    const Unigram& model;
    const Byte* p;
    uint32_t* out;
    size_t count = 0, at = 0, unknown_from = 0;
    bool unknown = false;

    void settle(Path& path, size_t base, size_t end) {
      path.tokens.clear();
      for (size_t i = end; i > base; i -= path.nodes[i - base].size) path.tokens.push_back({path.nodes[i - base].size, path.nodes[i - base].id});
      for (size_t i = path.tokens.size(); i-- > 0;) {
        const auto [size, id] = path.tokens[i];
        if (id == model.rules_.unk) {
          if (!unknown) unknown_from = at;
          unknown = true;
        } else {
          flush();
          out[count++] = id;
        }
        at += size;
      }
    }
    void flush() {
      if (!unknown) return;
      unknown = false;
      const Byte *begin = p + unknown_from, *end = p + at;
      const uint32_t id = model.vocab_->find(begin, end - begin);
      if (id == kNone && model.rules_.byte_fallback &&
          std::all_of(begin, end, [&](Byte byte) { return model.vocab_->byte_token[byte] != kNone; })) {
        for (const Byte* q = begin; q < end; ++q) out[count++] = model.vocab_->byte_token[*q];
      } else {
        out[count++] = id != kNone ? id : model.rules_.unk;
      }
    }
  };

  // The last place that the best paths to all open ends (at … reach) have in common. 0 is such a place.
  static size_t common(Path& path, size_t at, size_t reach) {
    path.marks.assign(reach + 1, 0);
    size_t open = 0;
    for (size_t i = at; i <= reach; ++i) {
      if (path.nodes[i].size) path.marks[i] = 1, ++open;
    }
    for (size_t i = reach; i > 0; --i) {
      if (!path.marks[i]) continue;
      if (open == 1 && i <= at) return i;
      Byte& from = path.marks[i - path.nodes[i].size];
      open -= from;
      from = 1;
    }
    return 0;
  }

  std::shared_ptr<const Vocab> vocab_;
  Trie trie_;
  std::vector<double> score_;
  UnigramRules rules_;
  double unk_score_ = 0;
};

}  // namespace pikojax_text
