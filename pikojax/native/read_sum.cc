// Sums uint32 words (modulo 2^32) inside a jitted function, on XLA's own threads: the most bandwidth that a kernel called from
// JAX can see, next to what the machine has (bandwidth.cc). Also the smallest complete example of a native kernel.
// Leaves out: other types, axes, gradients.
#include "chunks.h"
#include "export.h"
#include "sum_words.h"

namespace ffi = xla::ffi;

static ffi::Error read_sum(ffi::ThreadPool pool, ffi::Buffer<ffi::U32> words, ffi::ResultBufferR0<ffi::U32> sum) {
  constexpr int64_t kChunkWords = 1 << 18;  // 1 MiB: long enough to hide the claim, short enough to even out the threads
  const int64_t count = words.element_count();
  std::atomic<uint32_t> total{0};
  for_chunks(pool, (count + kChunkWords - 1) / kChunkWords, [&](int64_t chunk) {
    const int64_t start = chunk * kChunkWords;
    total += sum_words(words.typed_data() + start, count - start < kChunkWords ? count - start : kChunkWords);
  });
  *sum->typed_data() = total;
  return ffi::Error::Success();
}

PIKOJAX_EXPORT XLA_FFI_Error* pikojax_read_sum(XLA_FFI_CallFrame* call_frame);
XLA_FFI_DEFINE_HANDLER_SYMBOL(pikojax_read_sum, read_sum,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::U32>>()
                                  .Ret<ffi::BufferR0<ffi::U32>>());
