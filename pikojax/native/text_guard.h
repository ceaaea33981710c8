// No exception may leave the native code: Python's process would end. What fails becomes one line of text and a result that says so.
//
//   guarded(error, nullptr, [&] { return new Encoder(…); })       error: kErrorSize bytes;   told(…): the line waits for train_error
//
// Leaves out: which line is meant for whom; Python makes errors of them.
#pragma once
#include <cstddef>
#include <cstdio>
#include <exception>
#include <new>
#include <stdexcept>

namespace pikojax_text {

constexpr size_t kErrorSize = 200;
constexpr const char* kNoMemory = "not enough memory";

template <class Result, class Work>
Result guarded(char* error, Result failed, const Work& work) {
  const char* what = kNoMemory;
  try {
    return work();
  } catch (const std::bad_alloc&) {
  } catch (const std::length_error&) {
  } catch (const std::exception& caught) {
    std::snprintf(error, kErrorSize, "%s", caught.what());
    return failed;
  } catch (...) {
    what = "an unknown error";
  }
  std::snprintf(error, kErrorSize, "%s", what);
  return failed;
}

inline thread_local char train_error[kErrorSize] = "";  // of this thread's last call that failed

template <class Result, class Work>
Result told(Result failed, const Work& work) {
  return guarded(train_error, failed, work);
}

}  // namespace pikojax_text
