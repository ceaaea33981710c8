// Fused causal attention as XLA operations on float32: forward (o and log-sum-exp) and backward (dq, dk, dv).
// Arrays are [..., tokens, heads, width], keys and values perhaps [..., heads, tokens, width]; all axes before are one batch.
// Leaves out: other types, dropout of the weights, biases on the scores.
#include "chunks.h"
#include "export.h"
#include "flash_backward.h"

namespace ffi = xla::ffi;
using Array = ffi::Buffer<ffi::F32>;
using Result = ffi::Result<Array>;
using Whole = ffi::Buffer<ffi::S32>;

namespace {

// Takes sizes and strides from the arrays. An error: they do not fit together.
ffi::Error describe(const Array& q, const Array& k, const Array& v, const Whole& offset, const Whole& segments, float scale,
                    int64_t window, bool head_major, Attention& x) {
  const auto q_dims = q.dimensions(), k_dims = k.dimensions(), v_dims = v.dimensions();
  const bool alike = std::equal(k_dims.begin(), k_dims.end(), v_dims.begin(), v_dims.end());
  if (q_dims.size() < 4 || k_dims.size() < 4 || !alike) {
    return ffi::Error::InvalidArgument("fused attention wants q, k and v of rank 4 or more, k and v alike");
  }
  const auto from_end = [](const auto& dims, int i) { return dims[dims.size() - i]; };
  x.q = q.typed_data(), x.k = k.typed_data(), x.v = v.typed_data(), x.offset = offset.typed_data();
  x.segments = segments.element_count() ? segments.typed_data() : nullptr;
  x.queries = from_end(q_dims, 3), x.heads = from_end(q_dims, 2), x.width = from_end(q_dims, 1);
  x.keys = from_end(k_dims, head_major ? 2 : 3), x.groups = from_end(k_dims, head_major ? 3 : 2);
  x.batch = offset.element_count();
  x.k_batch = x.keys * x.groups * x.width;
  x.k_key = head_major ? x.width : x.groups * x.width, x.k_group = head_major ? x.keys * x.width : x.width;
  x.window = window, x.scale = scale;
  const int64_t q_count = x.batch * x.queries * x.heads * x.width;
  const bool whole_groups = x.groups > 0 && x.heads % x.groups == 0;
  if (!whole_groups || from_end(k_dims, 1) != x.width || window < 1 || static_cast<int64_t>(q.element_count()) != q_count ||
      static_cast<int64_t>(k.element_count()) != x.batch * x.k_batch ||
      (x.segments && static_cast<int64_t>(segments.element_count()) != x.batch * x.keys)) {
    return ffi::Error::InvalidArgument("fused attention got arrays that do not fit together");
  }
  for (int64_t b = 0; x.segments && b < x.batch; ++b) {
    const bool as_keys = x.offset[b] == 0 && x.queries == x.keys;
    if (!as_keys) return ffi::Error::InvalidArgument("with segments, queries stand where the keys do");
  }
  return ffi::Error::Success();
}

template <typename Run>
ffi::Error run_items(ffi::ThreadPool& pool, int64_t count, const Run& run) {
  std::atomic<bool> done{true};
  for_chunks(pool, count, [&](int64_t item) {
    if (!run(item)) done = false;
  });
  if (done) return ffi::Error::Success();
  return ffi::Error(ffi::ErrorCode::kResourceExhausted, "fused attention found no memory for its blocks");
}

ffi::Error forward(ffi::ThreadPool pool, Array q, Array k, Array v, Whole offset, Whole segments, Result o, Result lse,
                   float scale, int64_t window, bool head_major) {
  Attention x;
  const ffi::Error wrong = describe(q, k, v, offset, segments, scale, window, head_major, x);
  if (wrong.failure() || x.queries == 0) return wrong;
  const ForwardItems items(x);
  return run_items(pool, items.count, [&](int64_t item) {
    return forward_item(x, items, item, o->typed_data(), lse->typed_data());
  });
}

ffi::Error backward(ffi::ThreadPool pool, Array q, Array k, Array v, Whole offset, Whole segments, Array o, Array lse, Array d_o,
                    Result dq, Result dk, Result dv, float scale, int64_t window, bool head_major) {
  Attention x;
  const ffi::Error wrong = describe(q, k, v, offset, segments, scale, window, head_major, x);
  if (wrong.failure()) return wrong;
  const Gradients grads{o.typed_data(),   lse.typed_data(), d_o.typed_data(),
                        dq->typed_data(), dk->typed_data(), dv->typed_data()};
  return run_items(pool, x.batch * x.groups, [&](int64_t item) { return backward_item(x, item, grads); });
}

}  // namespace

PIKOJAX_EXPORT XLA_FFI_Error* pikojax_flash_forward(XLA_FFI_CallFrame* call_frame);
XLA_FFI_DEFINE_HANDLER_SYMBOL(pikojax_flash_forward, forward,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Array>().Arg<Array>().Arg<Array>().Arg<Whole>().Arg<Whole>()
                                  .Ret<Array>().Ret<Array>()
                                  .Attr<float>("scale").Attr<int64_t>("window").Attr<bool>("head_major"));

PIKOJAX_EXPORT XLA_FFI_Error* pikojax_flash_backward(XLA_FFI_CallFrame* call_frame);
XLA_FFI_DEFINE_HANDLER_SYMBOL(pikojax_flash_backward, backward,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Array>().Arg<Array>().Arg<Array>().Arg<Whole>().Arg<Whole>()
                                  .Arg<Array>().Arg<Array>().Arg<Array>()
                                  .Ret<Array>().Ret<Array>().Ret<Array>()
                                  .Attr<float>("scale").Attr<int64_t>("window").Attr<bool>("head_major"));
