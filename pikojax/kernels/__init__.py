"""Hot operations, one a file, each with a reference that is always right. `dispatch.py` alone chooses between the kernels of one."""

from pikojax.kernels.decode_attention import decode_attention
from pikojax.kernels.matmul import lookup, matmul, prepare, prepare_tree

__all__ = ["decode_attention", "lookup", "matmul", "prepare", "prepare_tree"]
