// XLA's way to norms and softmax whose bits hang on the row alone (norm.h).
#include "norm.h"

#include "chunks.h"
#include "export.h"

namespace ffi = xla::ffi;

constexpr int64_t kRowsOfChunk = 64;  // a thread's; fewer are sooner done than shared

// what(from, to, width) for each row.
template <typename What>
static ffi::Error for_rows(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> x, ffi::ResultBuffer<ffi::F32> out, const What& what) {
  const auto shape = x.dimensions(), of_out = out->dimensions();
  if (shape.size() != 2 || of_out.size() != 2 || of_out[0] != shape[0] || of_out[1] != shape[1]) return ffi::Error::InvalidArgument("norm: wanted two matrices of one shape");
  const int64_t rows = shape[0], width = shape[1];
  if (rows == 0 || width == 0) return ffi::Error::Success();
  const float* from = x.typed_data();
  float* to = out->typed_data();
  for_chunks(pool, parts(rows, kRowsOfChunk), [&](int64_t chunk) {
    const int64_t end = std::min(rows, (chunk + 1) * kRowsOfChunk);
    for (int64_t row = chunk * kRowsOfChunk; row < end; ++row) what(from + row * width, to + row * width, width);
  });
  return ffi::Error::Success();
}

static ffi::Error norm_handler(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> x, ffi::ResultBuffer<ffi::F32> out, float eps, bool centered) {
  return for_rows(pool, x, out, [&](const float* from, float* to, int64_t width) { normalize_row(from, to, width, eps, centered); });
}

static ffi::Error softmax_handler(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> x, ffi::ResultBuffer<ffi::F32> out) { return for_rows(pool, x, out, softmax_row); }

PIKOJAX_EXPORT XLA_FFI_Error* pikojax_norm(XLA_FFI_CallFrame* call_frame);
XLA_FFI_DEFINE_HANDLER_SYMBOL(pikojax_norm, norm_handler,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Attr<float>("eps")
                                  .Attr<bool>("centered"));

PIKOJAX_EXPORT XLA_FFI_Error* pikojax_softmax(XLA_FFI_CallFrame* call_frame);
XLA_FFI_DEFINE_HANDLER_SYMBOL(pikojax_softmax, softmax_handler,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<ffi::Buffer<ffi::F32>>().Ret<ffi::Buffer<ffi::F32>>());
