// The read-bandwidth meter: how fast this machine's memory can be read, which bounds every decode step.
//   GB/s = bytes read / seconds of the median pass, over a buffer many times the last-level cache
// The median, not the best: on a machine shared with strangers single passes come out far too slow, and now and then too fast.
// Each thread writes its own part first, so that on a machine with several memories the part lies near its reader.
// Leaves out: writes, latency, and pinning threads to cores.
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <system_error>
#include <thread>
#include <vector>

#include "export.h"
#include "sum_words.h"

namespace {

// Calls run(part) for every part, each in a thread of its own; where no more threads can be had, in this one.
template <typename Run>
void in_threads(int parts, const Run& run) {
  std::vector<std::thread> threads;
  threads.reserve(parts);
  for (int part = 1; part < parts; ++part) {
    try {
      threads.emplace_back(run, part);
    } catch (const std::system_error&) {
      run(part);
    }
  }
  run(0);
  for (std::thread& thread : threads) thread.join();
}

}  // namespace

// Returns the GB/s (1e9 bytes) of the median of `repeats` passes, or 0 if the memory cannot be had. Word i of the buffer holds i,
// and `checksum` is the sum of what all passes read: none skipped a part, and no read was optimised away.
PIKOJAX_EXPORT double pikojax_read_bandwidth(size_t bytes, int threads, int repeats, uint32_t* checksum) {
  const size_t count = bytes / sizeof(uint32_t);
  void* memory = nullptr;
  if (count == 0 || threads < 1 || repeats < 1 || posix_memalign(&memory, 4096, count * sizeof(uint32_t)) != 0) return 0.0;
  uint32_t* words = static_cast<uint32_t*>(memory);
  const auto start_of = [&](int part) { return count * part / threads; };
  in_threads(threads, [&](int part) {
    for (size_t i = start_of(part); i < start_of(part + 1); ++i) words[i] = static_cast<uint32_t>(i);
  });

  std::vector<double> passes_s;
  std::vector<uint32_t> sums(threads);
  *checksum = 0;
  for (int repeat = 0; repeat < repeats; ++repeat) {
    const auto begin = std::chrono::steady_clock::now();
    in_threads(threads, [&](int part) { sums[part] = sum_words(words + start_of(part), start_of(part + 1) - start_of(part)); });
    passes_s.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    for (const uint32_t sum : sums) *checksum += sum;
  }
  std::free(memory);
  const auto median = passes_s.begin() + repeats / 2;
  std::nth_element(passes_s.begin(), median, passes_s.end());
  return count * sizeof(uint32_t) / *median / 1e9;
}
