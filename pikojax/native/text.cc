// The C interface of the tokenizers' native code, for ctypes: make an encoder, encode texts with it on some threads, decode.
//
//   encoder = pikojax_text_encoder(&setup, error);   pikojax_text_encode(encoder, …)   pikojax_text_encoder_free(encoder)
//
// Everything that fails writes one line into `error` (kErrorSize bytes) and returns null or -1; no exception leaves this file.
// Encoders and decoders do not change once made, so threads may share them. A map changes only in set_page.
// Leaves out: Python objects. Arrays belong to the caller.
#include <atomic>
#include <mutex>
#include <thread>

#include "export.h"
#include "text_decode.h"
#include "text_encode.h"
#include "text_find.h"
#include "text_guard.h"
#include "text_map.h"

using namespace pikojax_text;

// The same fields in the same order as `Setup` in pikojax/text/native.py.
struct Setup {
  const Byte* tokens;      // each followed by 0xFF
  int64_t tokens_size;
  const int32_t* ids;      // one a token
  int64_t n_tokens;
  const Byte* merges;      // BPE: left, right, left, right, …, each followed by 0xFF; or null
  int64_t merges_size;
  const int32_t* ranks;    // BPE without merges: one a token, -1 for never; or null
  const double* scores;    // Unigram: one a token; or null
  const Byte* usable;      // one a token: whether text can become it; or null
  const Byte* flags;       // one a code point, for the expressions' scanners; or null
  const Byte* classes;     // one a code point, for scan_classes; or null
  const char* prefix;      // BPE, WordPiece: continuing_subword_prefix, as the texts of tokens are written; never null
  const char* suffix;      // BPE: end_of_word_suffix
  int32_t model;           // 0 BPE, 1 WordPiece, 2 Unigram
  int32_t alphabet, scanner;
  int32_t unk;             // -1: none
  int32_t max_chars;       // WordPiece
  int32_t whole_first, byte_fallback, fuse_unk, float32;
  int32_t digits, contractions, slash, whole_tail;  // ScanRules
};

PIKOJAX_EXPORT Encoder* pikojax_text_encoder(const Setup* setup, char* error) {
  return guarded<Encoder*>(error, nullptr, [&]() -> Encoder* {
    const Setup& s = *setup;
    auto encoder = std::make_unique<Encoder>();
    const bool by_bytes = s.alphabet == kByteLevel;
    const uint32_t unk = s.unk < 0 ? kNone : uint32_t(s.unk);
    encoder->vocab = std::make_shared<const Vocab>(Alphabet(s.alphabet), s.tokens, s.tokens_size, s.ids, s.n_tokens, s.usable);
    if (s.model == 0) {
      encoder->bpe = std::make_unique<Bpe>(
          encoder->vocab, BpeRules{by_bytes, s.whole_first != 0, s.byte_fallback != 0, s.fuse_unk != 0, unk, s.prefix, s.suffix});
      if (s.ranks) encoder->bpe->set_ranks(s.ranks);
      else encoder->bpe->set_merges(s.merges, s.merges_size);
    } else if (s.model == 1) {
      encoder->word_piece = std::make_unique<WordPiece>(encoder->vocab, s.prefix, unk, size_t(s.max_chars));
    } else {
      encoder->unigram = std::make_unique<Unigram>(encoder->vocab, s.scores, UnigramRules{by_bytes, s.byte_fallback != 0, s.float32 != 0, unk});
    }
    encoder->scanner = Scanner(s.scanner);
    if (encoder->scanner == kWhole && s.alphabet == kMarked && encoder->bpe && encoder->bpe->joins()) encoder->scanner = kJoins;
    encoder->rules = {uint32_t(s.digits), s.contractions != 0, s.slash != 0, s.whole_tail != 0};
    if (s.flags) encoder->flags = std::make_unique<CodeTable>(s.flags);
    if (s.classes) encoder->classes = std::make_unique<CodeTable>(s.classes);
    return encoder.release();
  });
}

PIKOJAX_EXPORT void pikojax_text_encoder_free(Encoder* encoder) { delete encoder; }

// Part i is text [begin[i], begin[i + 1]); its ids go to out[begin[i]] on, count[i] of them.
PIKOJAX_EXPORT int32_t pikojax_text_encode(const Encoder* encoder, const Byte* text, const int64_t* begin, int64_t n_parts, int32_t threads,
                                   uint32_t* out, int64_t* count, char* error) {
  std::atomic<int64_t> next{0};
  std::atomic<bool> failed{false};
  std::mutex mutex;
  const auto work = [&] {
    char own_error[kErrorSize] = "";
    const bool good = guarded(own_error, false, [&] {
      Worker worker(*encoder, size_t(begin[n_parts] - begin[0]));
      for (int64_t i; !failed && (i = next.fetch_add(1)) < n_parts;) {
        count[i] = int64_t(worker.encode(text + begin[i], text + begin[i + 1], out + begin[i]));
      }
      return true;
    });
    if (good) return;
    const std::lock_guard<std::mutex> lock(mutex);
    if (!failed.exchange(true)) std::memcpy(error, own_error, kErrorSize);
  };
  std::vector<std::thread> helpers;
  const int64_t n_helpers = std::min<int64_t>(threads, n_parts) - 1;
  try {
    for (int64_t i = 0; i < n_helpers; ++i) helpers.emplace_back(work);
  } catch (...) {  // no more threads to be had: this one does the work
  }
  work();
  for (auto& helper : helpers) helper.join();
  return failed ? -1 : 0;
}

// Places to cut a text into about `n_parts` alike: writes their number - 1 at most to `cuts` and returns how many.
PIKOJAX_EXPORT int64_t pikojax_text_safe_cuts(const Encoder* encoder, const Byte* text, int64_t n, int64_t n_parts, int64_t* cuts) {
  int64_t found = 0;
  for (int64_t i = 1; i < n_parts; ++i) {
    const int64_t from = n / n_parts * i;
    if (found && from <= cuts[found - 1]) continue;
    const int64_t cut = int64_t(safe_cut(*encoder, text, size_t(n), size_t(from)));
    if (cut >= n) break;
    cuts[found++] = cut;
  }
  return found;
}

PIKOJAX_EXPORT Decoder* pikojax_text_decoder(int32_t alphabet, int32_t byte_fallback, const Byte* tokens, int64_t size, const int32_t* ids, int64_t n_tokens,
                                     const Byte* first, int64_t first_size, char* error) {
  return guarded<Decoder*>(error, nullptr, [&] {
    return new Decoder(Alphabet(alphabet), byte_fallback != 0, tokens, size_t(size), ids, size_t(n_tokens), first, size_t(first_size));
  });
}

PIKOJAX_EXPORT void pikojax_text_decoder_free(Decoder* decoder) { delete decoder; }

PIKOJAX_EXPORT int64_t pikojax_text_decode_size(const Decoder* decoder, const int32_t* ids, int64_t n) { return decoder->size(ids, size_t(n)); }

PIKOJAX_EXPORT int64_t pikojax_text_decode(const Decoder* decoder, const int32_t* ids, int64_t n, Byte* out) {
  return int64_t(decoder->write(ids, size_t(n), out));
}


PIKOJAX_EXPORT CharMap* pikojax_text_map(char* error) {
  return guarded<CharMap*>(error, nullptr, [] { return new CharMap; });
}

PIKOJAX_EXPORT void pikojax_text_map_free(CharMap* map) { delete map; }

PIKOJAX_EXPORT int32_t pikojax_text_map_page(CharMap* map, int32_t page, const int8_t* size, const Byte* texts, char* error) {
  return guarded(error, -1, [&] { return map->set_page(uint32_t(page), size, texts), 0; });
}

// The size of the mapped text without its complex spans, or -1. found[0]: numbers of missing pages then written to `numbers`;
// found[1]: spans. If there are more spans than fit, their number comes back all the same: call again with more room.
PIKOJAX_EXPORT int64_t pikojax_text_map_look(const CharMap* map, const Byte* text, int64_t n, int64_t* found, int64_t* numbers, int64_t room, char* error) {
  return guarded<int64_t>(error, -1, [&] {
    const CharMap::Found result = map->look(text, size_t(n));
    found[0] = int64_t(result.missing.size());
    found[1] = int64_t(result.spans.size());
    const bool pages = !result.missing.empty();
    const size_t wanted = pages ? result.missing.size() : result.spans.size();
    for (size_t i = 0; i < wanted && i < size_t(room); ++i) numbers[i] = pages ? int64_t(result.missing[i]) : result.spans[i];
    return int64_t(result.out_size);
  });
}

PIKOJAX_EXPORT int64_t pikojax_text_map_apply(const CharMap* map, const Byte* text, int64_t n, const int64_t* spans, const int64_t* text_end, int64_t n_spans,
                                      const Byte* texts, Byte* out) {
  return int64_t(map->apply(text, size_t(n), spans, text_end, size_t(n_spans), texts, out));
}

PIKOJAX_EXPORT Finder* pikojax_text_finder(const Byte* tokens, int64_t size, const int32_t* ids, int64_t n_tokens, char* error) {
  return guarded<Finder*>(error, nullptr, [&] { return new Finder(tokens, size_t(size), ids, size_t(n_tokens)); });
}

PIKOJAX_EXPORT void pikojax_text_finder_free(Finder* finder) { delete finder; }

PIKOJAX_EXPORT int64_t pikojax_text_find(const Finder* finder, const Byte* text, int64_t n, int64_t from, int64_t* found, int64_t room) {
  return int64_t(finder->find(text, size_t(n), size_t(from), found, size_t(room)));
}
