"""Products of tiles, as kernels of several ops want them."""

import triton
import triton.language as tl


@triton.jit
def dot(a, b, ACC: tl.constexpr, PRECISION: tl.constexpr, INTERPRETED: tl.constexpr):
    # the interpreter multiplies the bits of bfloat16, not the numbers, and does not say so
    if INTERPRETED and a.dtype == tl.bfloat16:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), out_dtype=ACC)
    if a.dtype == tl.float32 and PRECISION == "ieee":  # float16, widened
        return tl.dot(a, b, input_precision="tf32", out_dtype=ACC)
    return tl.dot(a, b, input_precision=PRECISION, out_dtype=ACC)
