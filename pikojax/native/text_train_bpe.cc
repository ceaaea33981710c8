// Byte-pair encoding, the training: merge the most frequent pair of neighbours, again and again.
//   count[a, b] = Σ over words: weight · times that a, b stand side by side;   the greatest merges first, then the smallest (a, b)
// A heap holds the pairs with the count they had when they were queued. Counts fall as neighbours are merged away: an entry whose
// count is no longer true is put back with the true one. Each entry knows the words in which the pair came up, so a merge visits
// those words alone. The rules for ties, and for a token that two merges make, are those of Hugging Face's trainer.
// Leaves out: sampling, and counts beyond 63 bits.
#include <algorithm>
#include <memory>
#include <string>
#include <unordered_map>

#include "text_train.h"

namespace {

struct Pair {
  int64_t count = 0;
  uint32_t came_up = 0;    // in how many words, during the merge at hand
  uint32_t last_word = 0;  // index + 1
};

struct Queued {
  uint64_t count;
  uint32_t* words;  // after a first number: how many merges there were when it was queued
  uint32_t n_words, pair;
};

struct Merge {
  uint32_t left, right, made;
};

// Lists of words that live until the training ends, laid into big blocks.
class Lists {
 public:
  uint32_t* take(size_t n) {
    if (n > kBlock / 8) return blocks_.emplace_back(new uint32_t[n]).get();
    if (n > left_) open_ = blocks_.emplace_back(new uint32_t[kBlock]).get(), left_ = kBlock;
    left_ -= n;
    open_ += n;
    return open_ - n;
  }

 private:
  static constexpr size_t kBlock = 1 << 20;
  std::vector<std::unique_ptr<uint32_t[]>> blocks_;
  uint32_t* open_ = nullptr;
  size_t left_ = 0;
};

class Trainer {
 public:
  std::vector<std::string> tokens;
  std::vector<Merge> merges;

  Trainer(const std::string& prefix, uint64_t longest) : prefix_(prefix), longest_(longest) {}

  void add_token(std::string token) {
    ids_.emplace(token, static_cast<uint32_t>(tokens.size()));
    tokens.push_back(std::move(token));
    lengths_.push_back(1);
  }

  // ids[symbol * 4 + (not first) + 2 * (last)], negative for a symbol that is left out of its word.
  void add_words(const SpanCounts& words, bool by_bytes, const int32_t* ids) {
    std::vector<uint32_t> word;
    for (const SpanCounts::Entry& entry : words.entries) {
      word.clear();
      const uint8_t* text = reinterpret_cast<const uint8_t*>(words.bytes(entry));
      const uint8_t* end = text + entry.length;
      for (bool first = true; text < end; first = false) {
        const uint32_t symbol = by_bytes ? *text++ : next_code_point(text, end);
        const int32_t id = ids[symbol * 4 + !first + 2 * (text == end)];
        if (id >= 0) word.push_back(id);
      }
      if (word.size() < 2) continue;
      starts_.push_back(symbols_.size());
      sizes_.push_back(static_cast<uint32_t>(word.size()));
      weights_.push_back(entry.count);
      symbols_.insert(symbols_.end(), word.begin(), word.end());
    }
  }

  void count_pairs() {
    for (size_t i = 0; i < sizes_.size(); ++i) {
      const uint32_t* word = &symbols_[starts_[i]];
      for (uint32_t k = 0; k + 1 < sizes_[i]; ++k) change(word[k], word[k + 1], static_cast<int64_t>(weights_[i]), i);
    }
    queue_came_up();
  }

  // Merges the best pair. False where none is left that is frequent enough.
  bool merge_best(uint64_t min_frequency) {
    while (!heap_.empty()) {
      const auto less = [this](const Queued& a, const Queued& b) { return before(b, a); };
      std::pop_heap(heap_.begin(), heap_.end(), less);
      Queued best = heap_.back();
      const uint64_t count = static_cast<uint64_t>(pairs_[best.pair].count);
      if (best.count != count) {
        heap_.back().count = count;
        std::push_heap(heap_.begin(), heap_.end(), less);
        continue;
      }
      heap_.pop_back();
      if (count < 1 || min_frequency > count) return false;
      merge(best);
      return true;
    }
    return false;
  }

 private:
  std::string prefix_;
  uint64_t longest_;
  std::unordered_map<std::string, uint32_t> ids_;
  std::vector<uint64_t> lengths_;  // of each token, in symbols
  std::vector<uint32_t> symbols_, sizes_;
  std::vector<uint64_t> starts_, weights_;
  KeyTable table_;
  std::vector<Pair> pairs_;
  std::vector<Queued> heap_;
  Lists lists_;
  std::vector<std::pair<uint32_t, uint32_t>> came_up_;  // (pair, word) of the merge at hand

  bool before(const Queued& a, const Queued& b) const {
    if (a.count != b.count) return a.count > b.count;
    return a.pair != b.pair ? table_.keys[a.pair] < table_.keys[b.pair] : a.words[0] < b.words[0];
  }

  void change(uint32_t left, uint32_t right, int64_t weight, size_t word) {
    const uint32_t index = table_.insert(static_cast<uint64_t>(left) << 32 | right);
    if (index == pairs_.size()) pairs_.emplace_back();
    Pair& pair = pairs_[index];
    pair.count += weight;
    if (weight < 0 || pair.last_word == word + 1) return;
    pair.last_word = static_cast<uint32_t>(word + 1);
    ++pair.came_up;
    came_up_.emplace_back(index, static_cast<uint32_t>(word));
  }

  void queue_came_up() {
    const size_t old_size = heap_.size();
    for (const auto& [index, word] : came_up_) {
      Pair& pair = pairs_[index];
      if (pair.came_up) {  // its first: queue it, with room for all its words
        heap_.push_back({static_cast<uint64_t>(pair.count), lists_.take(pair.came_up + 1), 0, index});
        heap_.back().words[0] = static_cast<uint32_t>(merges.size());
        pair.came_up = 0;
        pair.last_word = static_cast<uint32_t>(heap_.size() - 1);  // for now: where it stands
      }
      Queued& queued = heap_[pair.last_word];
      queued.words[++queued.n_words] = word;
    }
    size_t kept = old_size;
    for (size_t i = old_size; i < heap_.size(); ++i) {
      pairs_[heap_[i].pair].last_word = 0;
      if (pairs_[heap_[i].pair].count > 0) heap_[kept++] = heap_[i];
    }
    heap_.resize(kept);
    const auto less = [this](const Queued& a, const Queued& b) { return before(b, a); };
    if (old_size == 0) return std::make_heap(heap_.begin(), heap_.end(), less), came_up_.clear();
    for (size_t i = old_size; i < kept; ++i) std::push_heap(heap_.begin(), heap_.begin() + i + 1, less);
    came_up_.clear();
  }

  uint32_t token_of(uint32_t left, uint32_t right) {
    const std::string& tail = tokens[right];
    const bool continues = !prefix_.empty() && tail.compare(0, prefix_.size(), prefix_) == 0;
    std::string token = tokens[left] + (continues ? tail.substr(prefix_.size()) : tail);
    const auto found = ids_.find(token);
    if (found != ids_.end()) return found->second;
    add_token(std::move(token));
    return static_cast<uint32_t>(tokens.size() - 1);
  }

  void merge(const Queued& best) {
    const uint64_t key = table_.keys[best.pair];
    const uint32_t left = static_cast<uint32_t>(key >> 32), right = static_cast<uint32_t>(key);
    const uint32_t made = token_of(left, right);
    const uint64_t length = lengths_[left] + lengths_[right];
    lengths_[made] = length;
    merges.push_back({left, right, made});
    for (uint32_t i = 1; i <= best.n_words; ++i) {
      const uint32_t at = best.words[i];
      uint32_t* word = &symbols_[starts_[at]];
      const int64_t weight = static_cast<int64_t>(weights_[at]);
      uint32_t size = sizes_[at], to = 0;
      for (uint32_t from = 0; from < size; ++to) {
        if (word[from] != left || from + 1 >= size || word[from + 1] != right) {
          word[to] = word[from++];
          continue;
        }
        if (to > 0) {
          change(word[to - 1], left, -weight, at);
          if (length + lengths_[word[to - 1]] < longest_) change(word[to - 1], made, weight, at);
        }
        if (from + 2 < size) {
          change(right, word[from + 2], -weight, at);
          if (length + lengths_[word[from + 2]] < longest_) change(made, word[from + 2], weight, at);
        }
        word[to] = made;
        from += 2;
      }
      sizes_[at] = to;
    }
    queue_came_up();
  }
};

}  // namespace

// `tokens`: the initial vocabulary, one after another, ends in `token_ends`. `progress` hears of the size now and then; nonzero stops.
PIKOJAX_EXPORT Trainer* pikojax_bpe_train(const Counter* counter, int by_bytes, const int32_t* ids, const char* tokens,
                                          const uint64_t* token_ends, uint64_t n_tokens, const char* prefix, uint64_t vocab_size,
                                          uint64_t min_frequency, uint64_t longest, int (*progress)(uint64_t)) {
  return pikojax_text::told<Trainer*>(nullptr, [&]() -> Trainer* {
    auto trainer = std::make_unique<Trainer>(prefix, longest);
    for (uint64_t i = 0, begin = 0; i < n_tokens; begin = token_ends[i++]) trainer->add_token({tokens + begin, tokens + token_ends[i]});
    trainer->add_words(counter->words, by_bytes, ids);
    trainer->count_pairs();
    while (trainer->tokens.size() < vocab_size && trainer->merge_best(min_frequency)) {
      if (trainer->merges.size() % 256 == 0 && progress(trainer->tokens.size())) break;
    }
    return trainer.release();
  });
}

PIKOJAX_EXPORT void pikojax_bpe_free(Trainer* trainer) { delete trainer; }

PIKOJAX_EXPORT void pikojax_bpe_size(const Trainer* trainer, uint64_t* n_merges, uint64_t* n_tokens, uint64_t* bytes) {
  *n_merges = trainer->merges.size();
  *n_tokens = trainer->tokens.size();
  *bytes = 0;
  for (const std::string& token : trainer->tokens) *bytes += token.size();
}

PIKOJAX_EXPORT void pikojax_bpe_read(const Trainer* trainer, uint32_t* merges, char* tokens, uint64_t* token_ends) {
  if (!trainer->merges.empty()) std::memcpy(merges, trainer->merges.data(), trainer->merges.size() * sizeof(Merge));
  uint64_t end = 0;
  for (size_t i = 0; i < trainer->tokens.size(); ++i) {
    const std::string& token = trainer->tokens[i];
    std::memcpy(tokens + end, token.data(), token.size());
    token_ends[i] = end += token.size();
  }
}
