"""Quantized weights: `QTensor`, a pytree of packed numbers and their scales; `quantize`, `dequantize`, `lookup`.

`tensor.py` is the pytree and what one does with it, `formats.py` the list of formats, `own.py` and the `gguf_*` files how
each packs its numbers.
"""

from pikojax.qtensor.formats import FORMATS, Format
from pikojax.qtensor.tensor import QTensor, dequantize, lookup, quantize

__all__ = ["FORMATS", "Format", "QTensor", "dequantize", "lookup", "quantize"]
