// XLA's way to the float32 product of few rows (rows.h).
#include "rows.h"

#include "chunks.h"
#include "export.h"

namespace ffi = xla::ffi;

static ffi::Error rows_handler(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> left, ffi::Buffer<ffi::F32> right, ffi::ResultBuffer<ffi::F32> out, bool transposed) {
  const auto a = left.dimensions(), b = right.dimensions(), c = out->dimensions();
  if (a.size() != 2 || b.size() != 2 || c.size() != 2) return ffi::Error::InvalidArgument("rows: wanted matrices");
  const int64_t M = c[0], N = c[1], K = a[1];
  if (a[0] != M || b[transposed ? 1 : 0] != K || b[transposed ? 0 : 1] != N) return ffi::Error::InvalidArgument("rows: the sides of the matrices do not fit");
  few_rows(left.typed_data(), right.typed_data(), transposed, out->typed_data(), M, N, K, pool.num_threads(),
           [&](int64_t tasks, const auto& what) { for_chunks(pool, tasks, what, true); });
  return ffi::Error::Success();
}

PIKOJAX_EXPORT XLA_FFI_Error* pikojax_rows(XLA_FFI_CallFrame* call_frame);
XLA_FFI_DEFINE_HANDLER_SYMBOL(pikojax_rows, rows_handler,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Attr<bool>("transposed"));
