// Shares work among XLA's own threads, from inside a handler.
// Chunks are claimed, not assigned: the calling thread works through them too, so it finishes even if every other thread of the
// pool is busy, perhaps in a handler that waits just as this one does. It waits only for chunks that a thread has begun.
//
// A thread that sleeps takes tens of microseconds to wake, as long as a small product takes. So in a run of small products (`linger`) a
// thread that is done looks out for the next one for a moment before it goes back to the pool. It does so at one place for all libraries:
// attention follows a product, and a product attention.
#pragma once
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>

#include "xla/ffi/api/ffi.h"

constexpr int kSpins = 2000;                    // looks, before the caller sleeps until its chunks are done
constexpr std::chrono::microseconds kLinger{150};  // longer than what lies between two products of a decode step

inline void pause_briefly() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

struct Chunks {
  void (*call)(const void* run, int64_t chunk);
  const void* run;  // there as long as chunks are left to claim
  int64_t chunks;
  std::atomic<int64_t> next{0}, done{0};
  std::mutex mutex;
  std::condition_variable all_done;

  void work() {
    for (int64_t chunk; (chunk = next.fetch_add(1)) < chunks;) {
      call(run, chunk);
      if (done.fetch_add(1) + 1 < chunks) continue;
      const std::lock_guard<std::mutex> lock(mutex);
      all_done.notify_all();
    }
  }

  void wait() {
    for (int spin = 0; spin < kSpins && done.load() < chunks; ++spin) pause_briefly();
    if (done.load() == chunks) return;
    std::unique_lock<std::mutex> lock(mutex);
    all_done.wait(lock, [this] { return done.load() == chunks; });
  }
};

// Where lingering threads look.
struct Lookout {
  std::atomic<uint64_t> calls{0};
  std::atomic<int> lingering{0};
  std::mutex mutex;
  std::shared_ptr<Chunks> latest;

  void announce(const std::shared_ptr<Chunks>& chunks) {
    const std::lock_guard<std::mutex> lock(mutex);
    latest = chunks;
    calls.fetch_add(1);
  }

  std::shared_ptr<Chunks> look(uint64_t* seen) {
    const std::lock_guard<std::mutex> lock(mutex);
    *seen = calls.load();
    return latest;
  }

  void linger() {
    uint64_t seen = calls.load();
    lingering.fetch_add(1);
    for (auto until = std::chrono::steady_clock::now() + kLinger; std::chrono::steady_clock::now() < until;) {
      for (int look = 0; look < 16 && calls.load() == seen; ++look) pause_briefly();
      if (calls.load() == seen) continue;
      look(&seen)->work();
      until = std::chrono::steady_clock::now() + kLinger;
    }
    lingering.fetch_sub(1);
  }
};

// One for all libraries of the process, which otherwise hide what is theirs.
inline __attribute__((visibility("default"))) Lookout& lookout() {
  static Lookout one;
  return one;
}

// Calls run(chunk) once for each chunk in [0, chunks) and returns when all are done.
template <typename Run>
void for_chunks(xla::ffi::ThreadPool& pool, int64_t chunks, const Run& run, bool linger = false) {
  if (chunks == 1) return run(0);
  const auto shared = std::make_shared<Chunks>();  // a task that starts late still finds it, and that there is nothing left to claim
  shared->call = [](const void* run, int64_t chunk) { (*static_cast<const Run*>(run))(chunk); };
  shared->run = &run;
  shared->chunks = chunks;
  int64_t helpers = (pool.num_threads() < chunks ? pool.num_threads() : chunks) - 1;
  if (linger) {
    lookout().announce(shared);
    helpers -= lookout().lingering.load();
  }
  for (int64_t helper = 0; helper < helpers; ++helper) {
    pool.Schedule([shared, linger] {
      shared->work();
      if (linger) lookout().linger();
    });
  }
  shared->work();
  shared->wait();
}
