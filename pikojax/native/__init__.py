"""CPU hot paths in C++, compiled on first use.

`build.py` compiles and loads, `ffi.py` hands kernels to JAX, `cpu.py` knows the processor and picks the code path, `bandwidth.py`
is the first use. Every native function has a pure counterpart: without a compiler all works, more slowly.
"""
