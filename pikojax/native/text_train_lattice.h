// Where which pieces lie: words as one array of code points, the substrings that come more than once, and the arcs of the lattices.
//   arc = piece << 5 | length;   arcs.at(place) … arcs.at(place + 1): the pieces that begin at that place, the shortest first
// Substrings are found level by level: places that share their first n − 1 code points are grouped anew by the n-th, so only what
// comes twice grows on. No suffix array, and it works on distinct words with their weights instead of the whole text.
// Leaves out: pieces longer than 31 code points.
#pragma once
#include <algorithm>

#include "text_train.h"

namespace {

constexpr uint32_t kNone = KeyTable::kNone;

// Many words as one array of code points.
struct Texts {
  std::vector<uint32_t> chars, starts{0};
  std::vector<uint64_t> weights;

  size_t size() const { return weights.size(); }
  void add(const uint32_t* begin, size_t length, uint64_t weight) {
    if (chars.size() + length >= UINT32_MAX) throw std::runtime_error("words of more than 2^32 characters in all");
    chars.insert(chars.end(), begin, begin + length);
    starts.push_back(static_cast<uint32_t>(chars.size()));
    weights.push_back(weight);
  }
};

// For each place of the texts the pieces that begin there, the shortest first.
struct Arcs {
  std::vector<uint32_t> arcs, firsts;  // firsts: of each place, and one more at the end

  const uint32_t* at(size_t place) const { return arcs.data() + firsts[place]; }

  void rename(const std::vector<uint32_t>& new_ids) {
    uint32_t to = 0;
    for (size_t place = 0, from = 0; place + 1 < firsts.size(); ++place) {
      const uint32_t until = firsts[place + 1];
      firsts[place] = to;
      for (; from < until; ++from) {
        const uint32_t id = new_ids[arcs[from] >> 5];
        if (id != kNone) arcs[to++] = id << 5 | (arcs[from] & 31);
      }
    }
    firsts.back() = to;
    arcs.resize(to);
  }
};

class Trie {
 public:
  void insert(const uint32_t* chars, uint32_t length, uint32_t piece) {
    if (piece >> 27) throw std::runtime_error("more than 2^27 pieces");
    uint64_t node = 0;
    for (uint32_t i = 0; i < length; ++i) {
      node = table_.insert(node << 21 | chars[i]) + 1;
      if (node > pieces_.size()) pieces_.push_back(kNone);
    }
    pieces_[node - 1] = piece;
  }

  Arcs arcs(const Texts& texts, int threads) const {
    std::vector<Arcs> parts(threads);
    over_threads(threads, [&](int part) {
      Arcs& found = parts[part];
      for (size_t i = texts.size() * part / threads; i < texts.size() * (part + 1) / threads; ++i)
        for (uint32_t begin = texts.starts[i]; begin < texts.starts[i + 1]; ++begin) {
          found.firsts.push_back(static_cast<uint32_t>(found.arcs.size()));
          uint64_t node = 0;
          for (uint32_t at = begin; at < texts.starts[i + 1]; ++at) {
            const uint32_t next = table_.find(node << 21 | texts.chars[at]);
            if (next == kNone) break;
            node = next + 1;
            if (pieces_[next] != kNone) found.arcs.push_back(pieces_[next] << 5 | (at + 1 - begin));
          }
        }
    });
    size_t n_arcs = 0;
    for (const Arcs& part : parts) n_arcs += part.arcs.size();
    if (n_arcs >= UINT32_MAX) throw std::runtime_error("words with more than 2^32 pieces in all");
    Arcs all = std::move(parts[0]);
    all.arcs.reserve(n_arcs);
    all.firsts.reserve(texts.chars.size() + 1);
    for (int part = 1; part < threads; ++part) {
      const uint32_t before = static_cast<uint32_t>(all.arcs.size());
      for (const uint32_t first : parts[part].firsts) all.firsts.push_back(before + first);
      all.arcs.insert(all.arcs.end(), parts[part].arcs.begin(), parts[part].arcs.end());
      parts[part] = {};
    }
    all.firsts.push_back(static_cast<uint32_t>(all.arcs.size()));
    return all;
  }

 private:
  KeyTable table_;                // (node, code point) → node
  std::vector<uint32_t> pieces_;  // that end in a node
};

// Every substring of 2 to `longest` code points that comes twice and that no single code point always follows.
struct Seed {
  uint64_t score;  // how often it comes · its length
  uint32_t at, length;
};

std::vector<Seed> repeated_substrings(const Texts& texts, uint32_t longest) {
  struct Group {
    uint64_t weight;
    uint32_t at, parent;
    bool grows;  // one code point always follows: the longer substring stands for this one
  };
  std::vector<Seed> seeds;
  std::vector<uint32_t> places, groups_of;
  std::vector<Group> groups;
  for (uint32_t length = 1; length <= longest; ++length) {
    KeyTable table;
    std::vector<Group> longer;
    size_t to = 0, word = 0;
    if (length == 1) places.resize(texts.chars.size()), groups_of.resize(texts.chars.size());
    const size_t n = places.size();
    for (size_t i = 0; i < n; ++i) {
      const uint32_t place = length == 1 ? static_cast<uint32_t>(i) : places[i];
      const uint32_t parent = groups_of[i];
      while (texts.starts[word + 1] <= place) ++word;
      if (place + length > texts.starts[word + 1] || (length > 1 && groups[parent].weight < 2)) continue;
      const uint32_t group = table.insert(static_cast<uint64_t>(parent) << 21 | texts.chars[place + length - 1]);
      if (group == longer.size()) longer.push_back({0, place, parent, false});
      longer[group].weight += texts.weights[word];
      places[to] = place;  // never before what is still to be read
      groups_of[to++] = group;
    }
    places.resize(to);
    groups_of.resize(to);
    if (length > 1) {
      for (const Group& group : longer) groups[group.parent].grows |= group.weight == groups[group.parent].weight;
      for (const Group& group : groups)
        if (length > 2 && group.weight >= 2 && !group.grows) seeds.push_back({group.weight * (length - 1), group.at, length - 1});
    }
    groups.swap(longer);
  }
  for (const Group& group : groups)
    if (longest > 1 && group.weight >= 2) seeds.push_back({group.weight * longest, group.at, longest});
  return seeds;
}

}  // namespace
