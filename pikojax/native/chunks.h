// Shares work among XLA's own threads, from inside a handler.
// Chunks are claimed, not assigned: the calling thread works through them too, so it finishes even if every other thread of the
// pool is busy, perhaps in a handler that waits just as this one does. It waits only for chunks that a thread has begun.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>

#include "xla/ffi/api/ffi.h"

// A thread that sleeps takes tens of microseconds to wake, which is as long as a small product: so the wait begins with a look or two.
constexpr int kSpins = 2000;

inline void pause_briefly() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Calls run(chunk) once for each chunk in [0, chunks) and returns when all are done.
template <typename Run>
void for_chunks(xla::ffi::ThreadPool& pool, int64_t chunks, const Run& run) {
  struct Shared {
    std::atomic<int64_t> next{0}, done{0};
    std::mutex mutex;
    std::condition_variable all_done;
  };
  auto shared = std::make_shared<Shared>();  // a task that starts late still finds it, and that there is nothing left to claim
  const auto work = [shared, chunks, &run] {
    for (int64_t chunk; (chunk = shared->next.fetch_add(1)) < chunks;) {
      run(chunk);
      if (shared->done.fetch_add(1) + 1 < chunks) continue;
      const std::lock_guard<std::mutex> lock(shared->mutex);
      shared->all_done.notify_all();
    }
  };
  const int64_t helpers = (pool.num_threads() < chunks ? pool.num_threads() : chunks) - 1;
  for (int64_t helper = 0; helper < helpers; ++helper) pool.Schedule([work] { work(); });
  work();
  for (int spin = 0; spin < kSpins && shared->done.load() < chunks; ++spin) pause_briefly();
  if (shared->done.load() == chunks) return;
  std::unique_lock<std::mutex> lock(shared->mutex);
  shared->all_done.wait(lock, [&] { return shared->done.load() == chunks; });
}
