// The native product on odd shapes, alone: every buffer is exactly as large as it has to be, so that a sanitizer sees each step beyond.
//   matmul_check → "ok", or the first shape whose result is not finite, or differs on three threads
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "matmul_rows16.h"

struct Threads {  // claims chunks as XLA's pool does
  int count;
  template <typename Run>
  void operator()(int64_t chunks, const Run& run) const {
    std::atomic<int64_t> next{0};
    const auto work = [&] {
      for (int64_t chunk; (chunk = next.fetch_add(1)) < chunks;) run(chunk);
    };
    std::vector<std::thread> others;
    for (int i = 1; i < count; ++i) others.emplace_back(work);
    work();
    for (std::thread& other : others) other.join();
  }
};

template <typename Number>
std::unique_ptr<Number[]> exactly(size_t count) {  // from the heap, where a sanitizer puts guards on both sides
  return std::unique_ptr<Number[]>(new Number[count]);
}

int main() {
  const char* names[] = {"int8", "int8_g64", "int4_g32", "int4_g128", "int4a_g64", "nf4", "q8_0", "q4_0",
                         "q4_1", "q5_0",     "q5_1",     "q4_k",      "q5_k",      "q6_k"};
  const size_t ms[] = {0, 1, 3, 9, 67}, ks[] = {1, 31, 33, 300}, ns[] = {0, 1, 16, 19, 50};
  std::mt19937 random(7);
  for (const char* name : names)
    for (const size_t m : ms)
      for (const size_t k : ks)
        for (const size_t n : ns) {
          const Format& format = *find_format(name);
          Problem p = {};
          p.m = m, p.k = k, p.n = n;
          set_blocks(format, p);
          const size_t bytes = tile_bytes(format, p) * p.n_tiles();
          auto x = exactly<float>(m * k), out = exactly<float>(m * n), again = exactly<float>(m * n);
          auto tiles = exactly<uint8_t>(bytes), scratch = exactly<uint8_t>(scratch_bytes(p));
          for (size_t i = 0; i < m * k; ++i) x[i] = (float)(random() % 2001) / 1000 - 1;
          for (size_t i = 0; i < bytes; ++i) tiles[i] = random() & 0x2f;  // any bytes are weights; these have finite scales
          p.x = x.get(), p.tiles = tiles.get(), p.out = out.get();
          multiply(format, &p, 1, scratch.get(), 1, Threads{1});
          for (size_t i = 0; i < m * n; ++i)
            if (!std::isfinite(out[i])) return std::printf("%s %zu %zu %zu: not finite\n", name, m, k, n), 1;
          auto beside = exactly<float>(m * n);
          const size_t narrow = n / 3;  // as the middle one of several, the others of other sizes, and alone on other threads
          auto first = exactly<float>(m * narrow), alone = exactly<float>(m * narrow);
          Problem three[3] = {p, p, p};
          three[0].n = narrow, three[0].out = first.get(), three[1].out = again.get(), three[2].out = beside.get();
          multiply(format, three, 3, scratch.get(), 3, Threads{3});
          three[0].out = alone.get();
          multiply(format, three, 1, scratch.get(), 1, Threads{1});
          if (m * narrow > 0 && std::memcmp(first.get(), alone.get(), m * narrow * sizeof(float)) != 0)
            return std::printf("%s %zu %zu %zu: another result as the first of three\n", name, m, k, n), 1;
          if (m * n > 0 && std::memcmp(out.get(), beside.get(), m * n * sizeof(float)) != 0)
            return std::printf("%s %zu %zu %zu: another result beside another weight\n", name, m, k, n), 1;
          if (m * n > 0 && std::memcmp(out.get(), again.get(), m * n * sizeof(float)) != 0)
            return std::printf("%s %zu %zu %zu: another result on three threads\n", name, m, k, n), 1;
        }
  std::puts("ok");
}
