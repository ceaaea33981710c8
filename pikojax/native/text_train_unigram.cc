// The Unigram model, the training: expectation maximization over all segmentations, then pruning, until the vocabulary is small.
//   P(word) = Σ over segmentations Π p(piece);   expected[piece] = Σ over words: weight · α(begin) · p(piece) · β(end) / P(word)
// Which pieces lie where in which word is found once (the arcs); what is pruned only leaves the lists. Probabilities are multiplied,
// not added as logarithms: 400 binary digits of room are kept by lifting α and β by 2^400 where they get small.
// Expected counts are summed in fixed point (2^-24), where the order of additions does not matter: the result is the same on any
// number of threads, and the same as that of the Python version, to the last bit. (Hence also no fused multiply-add here.)
// Leaves out: sampling, and words of more than 2^31 code points in all.
#include <algorithm>
#include <cmath>
#include <memory>

#include "text_train_lattice.h"

#if defined(__clang__)
#pragma clang fp contract(off)
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#endif

namespace {

constexpr double kOne = 16777216.0;  // 1 in fixed point
constexpr double kSmall = 0x1p-400, kLift = 0x1p400;
constexpr int kLongest = 16;  // code points of a piece; an arc is (piece << 5 | length)

double digamma(double x) {
  double result = 0;
  for (; x < 7; ++x) result -= 1 / x;
  x -= 0.5;
  const double x2 = 1 / (x * x), x4 = x2 * x2;
  return result + std::log(x) + x2 / 24 - 7 * x4 / 960 + 31 * x4 * x2 / 8064 - 127 * x4 * x4 / 30720;
}

struct Piece {
  uint32_t at, length;  // its code points stand in the words' array
  double score;
};

class Trainer {
 public:
  std::vector<Piece> pieces;
  Texts words;

  explicit Trainer(int threads) : threads_(threads) {}

  void seed(uint32_t longest, size_t most) {
    std::vector<Seed> seeds = repeated_substrings(words, longest);
    const uint32_t* chars = words.chars.data();
    const auto better = [chars](const Seed& a, const Seed& b) {
      if (a.score != b.score) return a.score > b.score;
      return std::lexicographical_compare(chars + a.at, chars + a.at + a.length, chars + b.at, chars + b.at + b.length);
    };
    if (seeds.size() > most) {
      std::nth_element(seeds.begin(), seeds.begin() + most, seeds.end(), better);
      seeds.resize(most);
    }
    std::sort(seeds.begin(), seeds.end(), better);
    std::vector<uint64_t> counts(0x110000);
    std::vector<uint32_t> places(0x110000);
    for (size_t i = 0; i < words.size(); ++i)
      for (uint32_t at = words.starts[i]; at < words.starts[i + 1]; ++at) {
        counts[words.chars[at]] += words.weights[i];
        places[words.chars[at]] = at;
      }
    uint64_t sum = 0;
    for (const Seed& one : seeds) sum += one.score;
    for (const uint64_t count : counts) sum += count;
    const double log_sum = std::log(static_cast<double>(sum));
    for (uint32_t code = 0; code < counts.size(); ++code)
      if (counts[code]) pieces.push_back({places[code], 1, std::log(static_cast<double>(counts[code])) - log_sum});
    for (const Seed& one : seeds) pieces.push_back({one.at, one.length, std::log(static_cast<double>(one.score)) - log_sum});
    find_arcs();
  }

  // One E step and one M step. Pieces that are expected less than half a time get no probability; single code points keep some.
  void step() {
    const std::vector<int64_t> expected = expected_counts();
    int64_t sum = 0;
    std::vector<double> counts(pieces.size());
    for (size_t i = 0; i < pieces.size(); ++i) {
      int64_t count = expected[i];
      if (count < kOne / 2) count = pieces[i].length == 1 ? static_cast<int64_t>(kOne / 2) : 0;
      sum += count;
      counts[i] = count / kOne;
    }
    const double log_sum = digamma(sum / kOne);
    for (size_t i = 0; i < pieces.size(); ++i) pieces[i].score = counts[i] > 0 ? digamma(counts[i]) - log_sum : -INFINITY;
    keep([this](size_t i) { return pieces[i].score > -INFINITY; });
  }

  // Drops the pieces whose absence costs the likelihood least, down to `wanted`.
  void prune(size_t wanted) {
    std::vector<std::vector<uint32_t>> instead(pieces.size());
    std::vector<char> kept(pieces.size());
    std::vector<uint64_t> frequency(pieces.size());
    segmentations(frequency, instead, kept);
    uint64_t total = 0;
    for (const uint64_t count : frequency) total += count;
    const double log_total = std::log(static_cast<double>(total));
    std::vector<std::pair<double, uint32_t>> candidates;  // (−loss, piece)
    size_t n_kept = 0;
    for (uint32_t i = 0; i < pieces.size(); ++i) {
      n_kept += kept[i];
      if (kept[i] || instead[i].empty() || frequency[i] == 0) continue;
      const double log_sum = std::log(static_cast<double>(total + frequency[i] * (instead[i].size() - 1)));
      double without = 0;
      for (const uint32_t id : instead[i]) without += std::log(static_cast<double>(frequency[id] + frequency[i])) - log_sum;
      const double with = std::log(static_cast<double>(frequency[i])) - log_total;
      candidates.emplace_back(-(static_cast<double>(frequency[i]) * (with - without)), i);
    }
    std::sort(candidates.begin(), candidates.end());
    for (const auto& candidate : candidates) {
      if (n_kept >= wanted) break;
      kept[candidate.second] = 1;
      ++n_kept;
    }
    keep([&kept](size_t i) { return kept[i] != 0; });
  }

 private:
  int threads_;
  Texts piece_texts_;  // the pieces at the last look, as words: what each would be segmented into without itself
  Arcs word_arcs_, piece_arcs_;
  std::vector<uint32_t> rows_;  // of each piece, its place in piece_texts_

  void find_arcs() {
    Trie trie;
    for (uint32_t i = 0; i < pieces.size(); ++i) {
      trie.insert(words.chars.data() + pieces[i].at, pieces[i].length, i);
      piece_texts_.add(words.chars.data() + pieces[i].at, pieces[i].length, 0);
      rows_.push_back(i);
    }
    word_arcs_ = trie.arcs(words, threads_);
    piece_arcs_ = trie.arcs(piece_texts_, threads_);
  }

  template <typename Keep>
  void keep(const Keep& wanted) {
    std::vector<uint32_t> new_ids(pieces.size(), kNone);
    uint32_t n = 0;
    for (size_t i = 0; i < pieces.size(); ++i) {
      if (!wanted(i)) continue;
      new_ids[i] = n;
      rows_[n] = rows_[i];
      pieces[n++] = pieces[i];
    }
    if (n == pieces.size()) return;
    pieces.resize(n);
    rows_.resize(n);
    word_arcs_.rename(new_ids);
    piece_arcs_.rename(new_ids);
  }

  std::vector<int64_t> expected_counts() const {
    std::vector<double> p(pieces.size());
    for (size_t i = 0; i < p.size(); ++i) p[i] = std::exp(pieces[i].score);
    std::vector<std::vector<int64_t>> sums(threads_);
    over_threads(threads_, [&](int part) {
      sums[part].resize(pieces.size());
      std::vector<double> alpha, beta;
      std::vector<int> lifts;
      for (size_t i = words.size() * part / threads_; i < words.size() * (part + 1) / threads_; ++i) {
        const size_t n = words.starts[i + 1] - words.starts[i];
        if (alpha.size() < n + kLongest + 1) alpha.resize(n + kLongest + 1), beta.resize(n + kLongest + 1), lifts.resize(n + 1);
        const double weight = static_cast<double>(words.weights[i]);
        expect(words.starts[i], n, weight, p.data(), alpha.data(), beta.data(), lifts.data(), sums[part].data());
      }
    });
    for (int part = 1; part < threads_; ++part)
      for (size_t i = 0; i < pieces.size(); ++i) sums[0][i] += sums[part][i];
    return std::move(sums[0]);
  }

  void expect(size_t start, size_t n, double weight, const double* p, double* alpha, double* beta, int* lifts, int64_t* sums) const {
    std::fill(alpha, alpha + n + kLongest + 1, 0.0);
    alpha[0] = 1;
    int lifted = 0;
    for (size_t i = 0; i <= n; ++i) {
      if (alpha[i] < kSmall) {
        for (int k = 0; k <= kLongest; ++k) alpha[i + k] *= kLift;
        ++lifted;
      }
      lifts[i] = lifted;
      if (i == n) break;
      const uint32_t *arc = word_arcs_.at(start + i), *end = word_arcs_.at(start + i + 1);
      for (; arc < end; ++arc) alpha[i + (*arc & 31)] += alpha[i] * p[*arc >> 5];
    }
    std::fill(beta, beta + n + kLongest + 1, 0.0);
    beta[n] = 1;
    int fallen = 0;
    const double share = weight / alpha[n] * kOne;
    for (size_t i = n; i-- > 0;) {
      const int exponent = lifts[n] - lifts[i] - fallen;
      const uint32_t *arc = word_arcs_.at(start + i), *end = word_arcs_.at(start + i + 1);
      double all = 0;
      for (; arc < end; ++arc) {
        const double rest = p[*arc >> 5] * beta[i + (*arc & 31)];
        all += rest;
        double count = alpha[i] * rest * share;
        if (exponent) count = std::ldexp(count, 400 * exponent);
        sums[*arc >> 5] += static_cast<int64_t>(count + 0.5);
      }
      beta[i] = all;
      if (all < kSmall) {
        for (int k = 0; k <= kLongest; ++k) beta[i + k] *= kLift;
        ++fallen;
      }
    }
  }

  // frequency: how often the best segmentations of the words use a piece. instead: what a piece falls into where it is missing.
  // kept: single code points. A piece that is no segmentation of itself stays without an `instead`, and goes.
  void segmentations(std::vector<uint64_t>& frequency, std::vector<std::vector<uint32_t>>& instead, std::vector<char>& kept) const {
    std::vector<std::vector<uint64_t>> sums(threads_);
    over_threads(threads_, [&](int part) {
      sums[part].resize(pieces.size());
      std::vector<double> best;
      std::vector<uint32_t> back;
      for (size_t i = words.size() * part / threads_; i < words.size() * (part + 1) / threads_; ++i) {
        const size_t n = words.starts[i + 1] - words.starts[i];
        viterbi(word_arcs_, words.starts[i], n, kNone, best, back);
        for (size_t at = n; at > 0; at -= back[at] & 31) sums[part][back[at] >> 5] += words.weights[i];
      }
      for (size_t i = pieces.size() * part / threads_; i < pieces.size() * (part + 1) / threads_; ++i) {
        const size_t n = pieces[i].length;
        kept[i] = n == 1;
        if (n == 1) continue;
        const size_t start = piece_texts_.starts[rows_[i]];
        if (viterbi(piece_arcs_, start, n, static_cast<uint32_t>(i), best, back) > pieces[i].score) continue;
        for (size_t at = n; at > 0; at -= back[at] & 31) instead[i].push_back(back[at] >> 5);
        std::reverse(instead[i].begin(), instead[i].end());
      }
    });
    for (int part = 0; part < threads_; ++part)
      for (size_t i = 0; i < pieces.size(); ++i) frequency[i] += sums[part][i];
  }

  double viterbi(const Arcs& arcs, size_t start, size_t n, uint32_t without, std::vector<double>& best, std::vector<uint32_t>& back) const {
    best.assign(n + 1, -INFINITY);
    back.resize(n + 1);
    best[0] = 0;
    for (size_t i = 0; i < n; ++i) {
      const uint32_t *arc = arcs.at(start + i), *end = arcs.at(start + i + 1);
      for (; arc < end; ++arc) {
        const double score = best[i] + pieces[*arc >> 5].score;
        if (*arc >> 5 != without && score > best[i + (*arc & 31)]) best[i + (*arc & 31)] = score, back[i + (*arc & 31)] = *arc;
      }
    }
    return best[n];
  }
};

}  // namespace

// Cuts the words into the stretches that pieces may not cross, adds up equal ones and finds the seed pieces.
// A stretch ends where the script changes (0: goes with any; no table: nowhere) and at code points that are not wanted.
PIKOJAX_EXPORT Trainer* pikojax_unigram_new(const Counter* counter, const uint8_t* scripts, const uint8_t* wanted, uint32_t longest,
                                            uint64_t seeds, int threads) {
  return pikojax_text::told<Trainer*>(nullptr, [&]() -> Trainer* {
    auto trainer = std::make_unique<Trainer>(threads);
    {
      SpanCounts stretches;
      for (const SpanCounts::Entry& entry : counter->words.entries) {
        const char* begin = counter->words.bytes(entry);
        const uint8_t *text = reinterpret_cast<const uint8_t*>(begin), *end = text + entry.length;
        uint8_t script = 0;
        while (text < end) {
          const char* at = reinterpret_cast<const char*>(text);
          const uint32_t code = next_code_point(text, end);
          const uint8_t own = scripts ? scripts[code] : 0;
          if (at > begin && (!wanted[code] || (own && script && own != script))) {
            stretches.add(begin, at - begin, entry.count);
            begin = at;
            script = 0;
          }
          if (own) script = own;
          if (!wanted[code]) begin = reinterpret_cast<const char*>(text), script = 0;
        }
        if (begin < reinterpret_cast<const char*>(end)) stretches.add(begin, reinterpret_cast<const char*>(end) - begin, entry.count);
      }
      std::vector<uint32_t> codes;
      for (const SpanCounts::Entry& entry : stretches.entries) {
        codes.clear();
        const uint8_t *text = reinterpret_cast<const uint8_t*>(stretches.bytes(entry)), *end = text + entry.length;
        while (text < end) codes.push_back(next_code_point(text, end));
        trainer->words.add(codes.data(), codes.size(), entry.count);
      }
    }
    trainer->seed(longest, seeds);
    return trainer.release();
  });
}

PIKOJAX_EXPORT void pikojax_unigram_free(Trainer* trainer) { delete trainer; }
PIKOJAX_EXPORT void pikojax_unigram_step(Trainer* trainer) {
  pikojax_text::told(false, [&] {
    trainer->step();
    return true;
  });
}
PIKOJAX_EXPORT void pikojax_unigram_prune(Trainer* trainer, uint64_t wanted) {
  pikojax_text::told(false, [&] {
    trainer->prune(wanted);
    return true;
  });
}

PIKOJAX_EXPORT uint64_t pikojax_unigram_size(const Trainer* trainer, uint64_t* code_points) {
  *code_points = 0;
  for (const Piece& piece : trainer->pieces) *code_points += piece.length;
  return trainer->pieces.size();
}

PIKOJAX_EXPORT void pikojax_unigram_read(const Trainer* trainer, uint32_t* code_points, uint64_t* ends, double* scores) {
  uint64_t end = 0;
  for (size_t i = 0; i < trainer->pieces.size(); ++i) {
    const Piece& piece = trainer->pieces[i];
    std::copy_n(trainer->words.chars.data() + piece.at, piece.length, code_points + end);
    ends[i] = end += piece.length;
    scores[i] = piece.score;
  }
}
