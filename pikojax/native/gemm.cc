// The float32 product as a JAX operation, on XLA's own threads. `left_transposed`: A lies as [K, M]; `right_transposed`: B lies as
// [N, K]. These are the three orders that a layer and its derivatives need, without a transposed copy of anything.
#include "gemm.h"

#include "chunks.h"
#include "export.h"

namespace ffi = xla::ffi;

static ffi::Error gemm_handler(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> left, ffi::Buffer<ffi::F32> right,
                               ffi::ResultBuffer<ffi::F32> out, bool left_transposed, bool right_transposed) {
  const auto a = left.dimensions(), b = right.dimensions(), c = out->dimensions();
  if (a.size() != 2 || b.size() != 2 || c.size() != 2) return ffi::Error::InvalidArgument("gemm: wanted matrices");
  const int64_t M = c[0], N = c[1], K = a[left_transposed ? 0 : 1];
  if (a[left_transposed ? 1 : 0] != M || b[right_transposed ? 1 : 0] != K || b[right_transposed ? 0 : 1] != N) {
    return ffi::Error::InvalidArgument("gemm: the sides of the matrices do not fit");
  }
  const Operand lanes_m = {left.typed_data(), left_transposed ? 1 : K, left_transposed ? M : 1};
  const Operand lanes_n = {right.typed_data(), right_transposed ? K : 1, right_transposed ? 1 : N};
  try {
    gemm(lanes_m, lanes_n, out->typed_data(), M, N, K, pool.num_threads(),
         [&](int64_t tasks, const auto& run) { for_chunks(pool, tasks, run); });
  } catch (const std::bad_alloc&) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, "gemm: no memory for its panels");
  }
  return ffi::Error::Success();
}

PIKOJAX_EXPORT XLA_FFI_Error* pikojax_gemm(XLA_FFI_CallFrame* call_frame);
XLA_FFI_DEFINE_HANDLER_SYMBOL(pikojax_gemm, gemm_handler,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Attr<bool>("left_transposed")
                                  .Attr<bool>("right_transposed"));
