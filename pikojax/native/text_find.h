// Added tokens in a text: at each place the longest that begins there; the search goes on behind it.
//
//   {"<s>", "<start>"} in "a<start>"  →  (1, 8, id of "<start>")
//
// Leaves out: what a token asks of its surroundings (spaces to swallow, word boundaries); Python looks at the few that are found.
#pragma once
#include "text_trie.h"
#include "text_vocab.h"

namespace pikojax_text {

class Finder {
 public:
  Finder(const Byte* blob, size_t n, const int32_t* ids, size_t n_tokens) : bytes_(blob, blob + n), trie_(keys(bytes_, ids, n_tokens)) {
    for_parts(bytes_.data(), n, [&](const Byte* p, const Byte*) { begins_[*p] = *p != 0xFF; });
  }

  // Writes begin, end, id for each found from `from` on, at most `room` of them. Returns how many.
  size_t find(const Byte* text, size_t n, size_t from, int64_t* found, size_t room) const {
    size_t count = 0;
    for (size_t at = from; at < n && count < room;) {
      if (!begins_[text[at]]) {
        ++at;
        continue;
      }
      size_t end = at;
      uint32_t id = kNone, node = Trie::kRoot;
      for (size_t i = at; i < n && (node = trie_.step(node, text[i]));) {
        ++i;
        if (trie_.id(node) != kNone) id = trie_.id(node), end = i;
      }
      if (id == kNone) {
        ++at;
        continue;
      }
      found[3 * count] = int64_t(at), found[3 * count + 1] = int64_t(end), found[3 * count + 2] = int64_t(id);
      ++count;
      at = end;
    }
    return count;
  }

 private:
  static std::vector<Trie::Key> keys(const std::vector<Byte>& blob, const int32_t* ids, size_t n_tokens) {
    std::vector<Trie::Key> keys;
    for_parts(blob.data(), blob.size(), [&](const Byte* p, const Byte* end) {
      if (keys.size() == n_tokens || p == end) throw std::runtime_error("ids that are not one for each token");
      keys.push_back({p, size_t(end - p), uint32_t(ids[keys.size()])});
    });
    return keys;
  }

  std::vector<Byte> bytes_;
  Trie trie_;
  bool begins_[256] = {};
};

}  // namespace pikojax_text
