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

// Calls run(chunk) once for each chunk in [0, chunks) and returns when all are done.
template <typename Run>
void for_chunks(xla::ffi::ThreadPool& pool, int64_t chunks, const Run& run) {
  struct Shared {
    std::atomic<int64_t> next{0};
    int64_t done = 0;
    std::mutex mutex;
    std::condition_variable all_done;
  };
  auto shared = std::make_shared<Shared>();  // a task that starts late still finds it, and that there is nothing left to claim
  const auto work = [shared, chunks, &run] {
    for (int64_t chunk; (chunk = shared->next.fetch_add(1)) < chunks;) {
      run(chunk);
      const std::lock_guard<std::mutex> lock(shared->mutex);
      if (++shared->done == chunks) shared->all_done.notify_all();
    }
  };
  const int64_t helpers = (pool.num_threads() < chunks ? pool.num_threads() : chunks) - 1;
  for (int64_t helper = 0; helper < helpers; ++helper) pool.Schedule([work] { work(); });
  work();
  std::unique_lock<std::mutex> lock(shared->mutex);
  shared->all_done.wait(lock, [&] { return shared->done == chunks; });
}
