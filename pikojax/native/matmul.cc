// The quantized product as an XLA operation: x float32 [M, K], tiles uint8 [stack…, tiles, bytes], layer int32 → out float32 [M, N], scratch.
// With a stack the handler reads layer `layer` where it lies; XLA's own slice would copy it. Every size is checked here: what does
// not fit together is an error of the operation, never a read beyond a buffer. A layer beyond the stack means the last one,
// a negative one the first (kernels/matmul.py has counted those from the end before).
#include "matmul_rows16.h"

#include <algorithm>
#include <string>

#include "chunks.h"
#include "export.h"

namespace ffi = xla::ffi;

static ffi::Error matmul(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> x, ffi::Buffer<ffi::U8> tiles,
                         ffi::Buffer<ffi::S32> layer, ffi::ResultBuffer<ffi::F32> out, ffi::ResultBuffer<ffi::U8> scratch,
                         std::string_view format_name, int64_t k, int64_t n) {
  const Format* format = find_format(format_name);
  if (format == nullptr) return ffi::Error::InvalidArgument("the native product has no format " + std::string(format_name));
  const auto x_shape = x.dimensions(), tiles_shape = tiles.dimensions(), out_shape = out->dimensions();
  const bool ranks = x_shape.size() == 2 && out_shape.size() == 2 && (tiles_shape.size() == 2 || tiles_shape.size() == 3);
  if (!ranks || layer.element_count() != 1 || k < 0 || n < 0)
    return ffi::Error::InvalidArgument("the native product got operands of wrong rank");
  Problem p = {};
  p.m = x_shape[0], p.k = k, p.n = n;
  set_blocks(*format, p);
  const size_t n_stack = tiles_shape.size() - 2, bytes = tile_bytes(*format, p);
  const bool sizes = x_shape[1] == k && out_shape[0] == x_shape[0] && out_shape[1] == n;
  if (!sizes || tiles_shape[n_stack] != (int64_t)p.n_tiles() || tiles_shape[n_stack + 1] != (int64_t)bytes)
    return ffi::Error::InvalidArgument("the native product got operands whose sizes do not fit the weight's shape; prepare it anew");
  if (p.m == 0 || p.n == 0) return ffi::Error::Success();
  int64_t which = 0;
  if (n_stack == 1) {
    if (tiles_shape[0] == 0) return ffi::Error::InvalidArgument("the native product got a stack without layers");
    which = std::clamp<int64_t>(*layer.typed_data(), 0, tiles_shape[0] - 1);
  }
  p.x = x.typed_data(), p.out = out->typed_data();
  p.tiles = tiles.typed_data() + which * p.n_tiles() * bytes;
  if (scratch->element_count() < scratch_bytes(p)) return ffi::Error::InvalidArgument("the native product got too little scratch memory");
  multiply(*format, p, scratch->typed_data(), (int)pool.num_threads(), [&](int64_t chunks, const auto& run) { for_chunks(pool, chunks, run, p.m <= kFewRows); });
  return ffi::Error::Success();
}

PIKOJAX_EXPORT XLA_FFI_Error* pikojax_matmul(XLA_FFI_CallFrame* call_frame);
XLA_FFI_DEFINE_HANDLER_SYMBOL(pikojax_matmul, matmul,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::U8>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::U8>>()
                                  .Attr<std::string_view>("format")
                                  .Attr<int64_t>("k")
                                  .Attr<int64_t>("n"));
