// Attention over a cache, and writing into it, for XLA: checks what it is handed, finds the layer in the stack, and lets attention.h
// and kv_write.h work on XLA's threads. Leaves out: the arithmetic.
#include "attention.h"

#include <string>

#include "chunks.h"
#include "export.h"
#include "kv_write.h"

namespace ffi = xla::ffi;

namespace {

using attention::Kind;
using attention::Problem;
using attention::Store;

ffi::Error wrong(const std::string& what) { return ffi::Error::InvalidArgument("decode attention: " + what); }

// data [L, P, G, S, row], scales [L, P, G, S, n] or of no elements.
ffi::Error open_store(ffi::AnyBuffer data, ffi::AnyBuffer scales, int64_t layer, int64_t C, Store& store) {
  const auto dims = data.dimensions(), by = scales.dimensions();
  if (dims.size() != 5) return wrong("a cache of five axes is wanted");
  const int64_t slots = dims[1] * dims[2] * dims[3], n = scales.element_count() == 0 ? 0 : by[by.size() - 1];
  switch (data.element_type()) {
    case ffi::F32: store.kind = Kind::float32, store.row_bytes = C * 4; break;
    case ffi::BF16: store.kind = Kind::bfloat16, store.row_bytes = C * 2; break;
    case ffi::S8: store.kind = Kind::int8, store.row_bytes = C; break;
    case ffi::U8: store.kind = Kind::int4, store.row_bytes = (C + 31) / 32 * 16; break;
    default: return wrong("the cache is float32, bfloat16, int8 or packed int4");
  }
  const bool floats = store.kind == Kind::float32 || store.kind == Kind::bfloat16;
  const int64_t value_bytes = store.kind == Kind::float32 ? 4 : store.kind == Kind::bfloat16 ? 2 : 1;
  const int64_t groups = (C + attention::kGroup - 1) / attention::kGroup;
  if (dims[4] * value_bytes != store.row_bytes) return wrong("the cache's rows are not as wide as the queries");
  if (static_cast<int64_t>(scales.element_count()) != dims[0] * slots * n) return wrong("scales and data differ in shape");
  if (floats ? n != 0 : n != groups && !(n == 1 && store.kind == Kind::int8)) return wrong("so many scales a row belong to no format");
  store.half_scales = scales.element_type() == ffi::F16;
  if (!store.half_scales && scales.element_type() != ffi::F32) return wrong("scales are float16 or float32");
  store.n_scales = static_cast<int>(n);
  store.data = static_cast<const uint8_t*>(data.untyped_data()) + layer * slots * store.row_bytes;
  store.scales = static_cast<const uint8_t*>(scales.untyped_data()) + layer * slots * n * (store.half_scales ? 2 : 4);
  return ffi::Error::Success();
}

ffi::Error decode_attention(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> q, ffi::AnyBuffer k, ffi::AnyBuffer k_scales, ffi::AnyBuffer v,
                            ffi::AnyBuffer v_scales, ffi::Buffer<ffi::S32> lengths, ffi::BufferR0<ffi::S32> layer,
                            ffi::Buffer<ffi::S32> table, ffi::ResultBuffer<ffi::F32> out, int64_t window, float scale, float softcap, bool rotated) {
  const auto q_dims = q.dimensions(), k_dims = k.dimensions(), v_dims = v.dimensions(), table_dims = table.dimensions();
  if (q_dims.size() != 4 || k_dims.size() != 5 || v_dims.size() != 5 || table_dims.size() != 2) return wrong("a wrong number of axes");
  for (int axis = 0; axis < 4; ++axis) {
    if (k_dims[axis] != v_dims[axis]) return wrong("keys and values differ in shape");
  }
  Problem p = {};
  p.B = q_dims[0], p.T = q_dims[1], p.H = q_dims[2], p.C = q_dims[3], p.G = k_dims[2], p.all = p.T;
  if (q.element_count() == 0 || k.element_count() == 0) {
    std::fill_n(out->typed_data(), out->element_count(), 0.0f);
    return ffi::Error::Success();
  }
  if (p.H % p.G != 0 || static_cast<int64_t>(lengths.element_count()) != p.B) return wrong("heads or lengths do not fit");
  p.block = k_dims[3], p.pool = k_dims[1], p.n_blocks = table_dims[1];
  if (p.n_blocks > 0 ? table_dims[0] != p.B : k_dims[1] != p.B) return wrong("the batch of cache or block table is not the queries'");
  p.S = p.n_blocks > 0 ? p.n_blocks * p.block : p.block;
  p.window = window, p.scale = scale, p.softcap = softcap, p.rotated = rotated;
  p.q = q.typed_data(), p.lengths = lengths.typed_data(), p.out = out->typed_data();
  p.table = p.n_blocks > 0 ? table.typed_data() : nullptr;
  // Never beyond the stack; negative layers, which count from the end, decode_attention.py has turned into others.
  const int64_t which = std::clamp<int64_t>(*layer.typed_data(), 0, k_dims[0] - 1);
  if (ffi::Error error = open_store(k, k_scales, which, p.C, p.k); error.failure()) return error;
  if (ffi::Error error = open_store(v, v_scales, which, p.C, p.v); error.failure()) return error;
  try {
    attention::attend(p, static_cast<int>(pool.num_threads()), [&](int64_t n, const auto& run) { for_chunks(pool, n, run, p.T <= attention::kMostTokens); });
  } catch (const std::bad_alloc&) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, "decode attention: no memory for its partial results");
  }
  return ffi::Error::Success();
}

// `data` and `scales` are the buffers of `out_data` and `out_scales`: what is not written stays.
ffi::Error kv_write(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> x, ffi::AnyBuffer data, ffi::AnyBuffer scales, ffi::Buffer<ffi::S32> lengths,
                    ffi::BufferR0<ffi::S32> layer, ffi::Buffer<ffi::S32> table, ffi::Result<ffi::AnyBuffer> out_data,
                    ffi::Result<ffi::AnyBuffer> out_scales, bool rotated) {
  const auto x_dims = x.dimensions(), dims = data.dimensions(), table_dims = table.dimensions();
  if (x_dims.size() != 4 || dims.size() != 5 || table_dims.size() != 2) return wrong("a wrong number of axes");
  if (out_data->untyped_data() != data.untyped_data() || (scales.element_count() > 0 && out_scales->untyped_data() != scales.untyped_data())) {
    return wrong("the cache has to be written in place");
  }
  if (x.element_count() == 0 || data.element_count() == 0) return ffi::Error::Success();
  attention::Write w = {};
  w.B = x_dims[0], w.T = x_dims[1], w.G = x_dims[2], w.C = x_dims[3];
  w.block = dims[3], w.pool = dims[1], w.n_blocks = table_dims[1];
  if (dims[2] != w.G || static_cast<int64_t>(lengths.element_count()) != w.B) return wrong("heads or lengths do not fit");
  if (w.n_blocks > 0 ? table_dims[0] != w.B : dims[1] != w.B) return wrong("the batch of cache or block table is not that of what is new");
  w.S = w.n_blocks > 0 ? w.n_blocks * w.block : w.block;
  w.x = x.typed_data(), w.lengths = lengths.typed_data(), w.table = w.n_blocks > 0 ? table.typed_data() : nullptr, w.rotated = rotated;
  const int64_t which = std::clamp<int64_t>(*layer.typed_data(), 0, dims[0] - 1);
  if (ffi::Error error = open_store(data, scales, which, w.C, w.store); error.failure()) return error;
  attention::write(w, [&](int64_t n, const auto& run) { for_chunks(pool, n, run); });
  return ffi::Error::Success();
}

ffi::Error kv_zeros(ffi::Result<ffi::AnyBuffer> out) {
  attention::zero_lazily(static_cast<uint8_t*>(out->untyped_data()), out->size_bytes());
  return ffi::Error::Success();
}

}  // namespace

PIKOJAX_EXPORT XLA_FFI_Error* pikojax_kv_zeros(XLA_FFI_CallFrame* call_frame);
XLA_FFI_DEFINE_HANDLER_SYMBOL(pikojax_kv_zeros, kv_zeros, ffi::Ffi::Bind().Ret<ffi::AnyBuffer>());

PIKOJAX_EXPORT XLA_FFI_Error* pikojax_kv_write(XLA_FFI_CallFrame* call_frame);
XLA_FFI_DEFINE_HANDLER_SYMBOL(pikojax_kv_write, kv_write,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Arg<ffi::BufferR0<ffi::S32>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<bool>("rotated"));

PIKOJAX_EXPORT XLA_FFI_Error* pikojax_decode_attention(XLA_FFI_CallFrame* call_frame);
XLA_FFI_DEFINE_HANDLER_SYMBOL(pikojax_decode_attention, decode_attention,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Arg<ffi::BufferR0<ffi::S32>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Attr<int64_t>("window")
                                  .Attr<float>("scale")
                                  .Attr<float>("softcap")
                                  .Attr<bool>("rotated"));
