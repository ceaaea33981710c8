"""llama.cpp's own quantization of a GGUF file: python llama_cpp_quantize.py IN.gguf OUT.gguf TYPE [IMPORTANCE.npz]

TYPE is q4_0 … q6_k for every matrix, with the embedding as q8_0, or q4_k_m for llama.cpp's own mix. IMPORTANCE holds an array for each
tensor's name. Prints its version as a line of JSON.
"""

import ctypes
import json
import sys

import llama_cpp
import numpy as np

# The file types of llama.h, and ggml's number of q8_0
FILE_TYPES = {"q4_0": 2, "q4_1": 3, "q8_0": 7, "q5_0": 8, "q5_1": 9, "q4_k": 14, "q4_k_m": 15, "q5_k": 16, "q6_k": 18}
Q8_0 = 8


def main(source: str, out: str, type: str, importance: str | None = None) -> None:
    params = llama_cpp.llama_model_quantize_default_params()
    params.nthread, params.ftype = 2, FILE_TYPES[type]
    if type != "q4_k_m":
        params.pure, params.token_embedding_type = True, Q8_0
    if importance:
        arrays = {name: np.ascontiguousarray(values, np.float32) for name, values in np.load(importance).items()}
        entries = (llama_cpp.llama_model_imatrix_data * (len(arrays) + 1))()  # the last one is empty
        for entry, (name, values) in zip(entries, arrays.items()):
            entry.name, entry.size = name.encode(), values.size
            entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        params.imatrix = ctypes.cast(entries, ctypes.POINTER(llama_cpp.llama_model_imatrix_data))
    failed = llama_cpp.llama_model_quantize(source.encode(), out.encode(), ctypes.byref(params))
    print(json.dumps({"llama_cpp": llama_cpp.__version__}))
    sys.exit(int(failed))


if __name__ == "__main__":
    main(*sys.argv[1:])
