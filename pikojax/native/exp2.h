// 2^x for x ≤ 0, which is all that softmax needs: 2^n · 2^f, n = round(x), f = x − n in [−½, ½], 2^f by a polynomial of degree 6.
//   exactly 1 at 0, exactly 0 from −127 down (and so for minus infinity); what is no number stays so. Error 2e-9, then rounding.
// And tanh x = sign x · (1 − e) / (1 + e), e = e^(−2 |x|), to an absolute 2e-7; where x is small, and 1 − e would
// leave few digits, x − x³/3 + 2x⁵/15.
// Leaves out: x above 0; results below 2^-126, which become zero.
#pragma once
#include "simd.h"

inline Floats exp2_of_negative(Floats x) {
  x = larger(all_lanes(-127.0f), x);
  const Floats shift = all_lanes(12582912.0f + 127.0f);  // 1.5 · 2^23: adding it rounds to whole numbers; 127: the exponent's bias
  const Floats shifted = x + shift, f = x - (shifted - shift);
  Floats y = all_lanes(0.00015337577497120947f);
  y = multiply_add(y, f, all_lanes(0.0013399859890341759f));
  y = multiply_add(y, f, all_lanes(0.009618519805371761f));
  y = multiply_add(y, f, all_lanes(0.05550329014658928f));
  y = multiply_add(y, f, all_lanes(0.24022646248340607f));
  y = multiply_add(y, f, all_lanes(0.6931471824645996f));
  y = multiply_add(y, f, all_lanes(1.0f));
  return y * (Floats)((Ints)shifted << 23);  // the low bits of `shifted` are n + 127; n = −127 makes a factor of zero
}

inline Floats tanh_of(Floats x) {
  const Floats square = x * x, small = multiply_add(x * square, multiply_add(square, all_lanes(2.0f / 15), all_lanes(-1.0f / 3)), x);
  const Floats e = exp2_of_negative(larger(x, -x) * all_lanes(-2.88539008f)), size = (all_lanes(1.0f) - e) / (all_lanes(1.0f) + e);
  return choose(square < all_lanes(0.01f), small, choose(x < Floats{}, -size, size));
}
