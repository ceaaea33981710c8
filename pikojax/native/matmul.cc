// Quantized products as one XLA operation: x float32 [M, K], layer int32, and for each weight tiles uint8 [stack…, tiles, bytes] → scratch, and
// for each weight out float32 [M, N]. Weights that one x meets, as a query's, key's and value's, are one operation: x is rounded once, and threads
// part and meet once. With stacks the handler reads layer `layer` where it lies; XLA's own slice would copy it. Every size is checked here:
// what does not fit together is an error of the operation, never a read beyond a buffer. A layer beyond the stack means the last one,
// a negative one the first (kernels/matmul.py has counted those from the end before).
#include "matmul_rows16.h"

#include <algorithm>
#include <string>
#include <vector>

#include "chunks.h"
#include "export.h"

namespace ffi = xla::ffi;

static ffi::Error matmul(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> x, ffi::Buffer<ffi::S32> layer, ffi::RemainingArgs all_tiles, ffi::ResultBuffer<ffi::U8> scratch,
                         ffi::RemainingRets outs, std::string_view format_name, int64_t k) {
  const Format* format = find_format(format_name);
  if (format == nullptr) return ffi::Error::InvalidArgument("the native product has no format " + std::string(format_name));
  const auto x_shape = x.dimensions();
  if (x_shape.size() != 2 || x_shape[1] != k || layer.element_count() != 1 || all_tiles.size() == 0 || all_tiles.size() != outs.size())
    return ffi::Error::InvalidArgument("the native product got operands of wrong rank or number");
  std::vector<Problem> weights(all_tiles.size());
  for (size_t w = 0; w < weights.size(); ++w) {
    const auto tiles = all_tiles.get<ffi::Buffer<ffi::U8>>(w);
    auto out = outs.get<ffi::Buffer<ffi::F32>>(w);
    if (!tiles.has_value() || !out.has_value()) return ffi::Error::InvalidArgument("the native product got tiles or results of another type");
    const auto tiles_shape = tiles->dimensions(), out_shape = (*out)->dimensions();
    if (out_shape.size() != 2 || (tiles_shape.size() != 2 && tiles_shape.size() != 3)) return ffi::Error::InvalidArgument("the native product got operands of wrong rank");
    Problem& p = weights[w];
    p.m = x_shape[0], p.k = k, p.n = out_shape[1];
    set_blocks(*format, p);
    const size_t n_stack = tiles_shape.size() - 2, bytes = tile_bytes(*format, p);
    if (out_shape[0] != x_shape[0] || tiles_shape[n_stack] != (int64_t)p.n_tiles() || tiles_shape[n_stack + 1] != (int64_t)bytes)
      return ffi::Error::InvalidArgument("the native product got operands whose sizes do not fit the weight's shape; prepare it anew");
    int64_t which = 0;
    if (n_stack == 1 && p.m > 0 && p.n > 0) {
      if (tiles_shape[0] == 0) return ffi::Error::InvalidArgument("the native product got a stack without layers");
      which = std::clamp<int64_t>(*layer.typed_data(), 0, tiles_shape[0] - 1);
    }
    p.x = x.typed_data(), p.out = (*out)->typed_data();
    p.tiles = tiles->typed_data() + which * p.n_tiles() * bytes;
  }
  const size_t m = weights[0].m;
  if (m > 0 && scratch->element_count() < scratch_bytes(weights[0])) return ffi::Error::InvalidArgument("the native product got too little scratch memory");
  multiply(*format, weights.data(), weights.size(), scratch->typed_data(), (int)pool.num_threads(),
           [&](int64_t chunks, const auto& run) { for_chunks(pool, chunks, run, m <= kFewRows); });
  return ffi::Error::Success();
}

PIKOJAX_EXPORT XLA_FFI_Error* pikojax_matmul(XLA_FFI_CallFrame* call_frame);
XLA_FFI_DEFINE_HANDLER_SYMBOL(pikojax_matmul, matmul,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .RemainingArgs()
                                  .Ret<ffi::Buffer<ffi::U8>>()
                                  .RemainingRets()
                                  .Attr<std::string_view>("format")
                                  .Attr<int64_t>("k"));
