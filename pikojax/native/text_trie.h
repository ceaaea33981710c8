// Which tokens begin here? A trie in two arrays: the child of `node` by `byte` is at  base[node] + byte  if  check  there says node.
//
//   for (node = root; (node = trie.step(node, *p)) != 0; ++p) if (trie.id(node) != kNone) …      one step a byte
//
// Leaves out: adding after the build.
#pragma once
#include <algorithm>

#include "text_tables.h"

namespace pikojax_text {

class Trie {
 public:
  struct Key {
    const Byte* p;
    size_t n;
    uint32_t id;
  };
  static constexpr uint32_t kRoot = 1;

  // Of equal keys the last stands.
  explicit Trie(std::vector<Key> keys) {
    const auto before = [](const Key& a, const Key& b) {
      const int order = std::memcmp(a.p, b.p, std::min(a.n, b.n));
      return order ? order < 0 : a.n < b.n;
    };
    std::stable_sort(keys.begin(), keys.end(), before);
    units_.resize(1024);
    units_[kRoot].check = 0;
    units_[kRoot].used = true;
    struct Part {  // the keys that share the path to `node`
      uint32_t node;
      size_t begin, end, depth;
    };
    std::vector<Part> parts{{kRoot, 0, keys.size(), 0}};
    std::vector<std::pair<Byte, size_t>> children;  // byte → where its keys begin
    while (!parts.empty()) {
      Part part = parts.back();
      parts.pop_back();
      for (; part.begin < part.end && keys[part.begin].n == part.depth; ++part.begin) units_[part.node].id = keys[part.begin].id;
      children.clear();
      for (size_t i = part.begin; i < part.end; ++i) {
        const Byte byte = keys[i].p[part.depth];
        if (children.empty() || children.back().first != byte) children.push_back({byte, i});
      }
      if (children.empty()) continue;
      const uint32_t base = place(children);
      units_[part.node].base = base;
      for (size_t i = children.size(); i-- > 0;) {
        const uint32_t node = base + children[i].first;
        units_[node].used = true;
        units_[node].check = part.node;
        parts.push_back({node, children[i].second, i + 1 < children.size() ? children[i + 1].second : part.end, part.depth + 1});
      }
    }
  }

  uint32_t step(uint32_t node, Byte byte) const {
    const uint32_t next = units_[node].base + byte;
    return units_[next].check == node ? next : 0;
  }
  uint32_t id(uint32_t node) const { return units_[node].id; }

 private:
  struct Unit {
    uint32_t base = 0, check = 0, id = kNone;
    bool used = false;
  };

  // The lowest base, about, where all children find a free place.
  uint32_t place(const std::vector<std::pair<Byte, size_t>>& children) {
    size_t seen = 0, taken = 0;
    for (size_t at = std::max<size_t>(free_from_, children[0].first + 2u);; ++at) {
      if (at + 512 > units_.size()) units_.resize(units_.size() * 2);
      if (units_.size() > (size_t(1) << 31)) throw std::runtime_error("too many tokens for a trie");
      ++seen;
      taken += units_[at].used;
      if (units_[at].used) continue;
      const size_t base = at - children[0].first;
      if (std::any_of(children.begin(), children.end(), [&](const auto& child) { return units_[base + child.first].used; })) continue;
      if (seen > 32 && taken * 16 > seen * 15) free_from_ = at;  // what lies before is as good as full
      return uint32_t(base);
    }
  }

  std::vector<Unit> units_;
  size_t free_from_ = 2;
};

}  // namespace pikojax_text
