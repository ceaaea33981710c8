"""Do damaged models keep the native kernels in bounds? sanitized.py [--mutants N]: rows of results.jsonl with "sanitized"

Packed tiny models are damaged as run.py's are, and whatever loads computes: a prompt whole, then a prompt and a token over a cache of floats and one of
int8. The kernels are compiled with the address and the undefined-behaviour sanitizer, and this very script runs again with the sanitizers'
library loaded first, so that the buffers which JAX hands to a kernel have their bounds watched too. A finding ends that process and is shown.
(The first time minutes go by until they are compiled.) A config that is new has to be compiled: of each kind the first `CONFIGS` are.
"""

import functools
import json
import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from trials import Rows

HERE = Path(__file__).parent
KINDS = {"q4_0": {}, "q8_0": {}, "q5_1": {}, "q4_k": {"d_model": 256, "d_hidden": 256}, "q6_k": {"d_model": 256, "d_hidden": 256}, "q4_0 of experts": {"n_experts": 3}}
CONFIGS, MUTANTS = 5, 3_000
COMPILER = 'LD_PRELOAD= exec c++ "$@" -fsanitize=address,undefined -fno-sanitize-recover=undefined -g -O1'  # the last -O counts; -O3 takes many times as long, and so does a compiler that is watched itself


def main(n: int) -> None:
    rows = Rows(HERE / "results.jsonl", quick=False)
    libraries = [subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip() for name in ("libasan.so", "libubsan.so", "libstdc++.so.6")]
    with tempfile.TemporaryDirectory() as folder:
        compiler = Path(folder) / "c++"
        compiler.write_text(f"#!/bin/sh\n{COMPILER}\n")
        compiler.chmod(0o700)
        environ = os.environ | {"LD_PRELOAD": " ".join(libraries), "CXX": str(compiler), "ASAN_OPTIONS": "detect_leaks=0", "PIKOJAX_CACHE": folder}
        for kind in KINDS:
            if not rows.has(sanitized=True, kind=kind):
                done = subprocess.run([sys.executable, __file__, "--child", kind, str(n)], env=environ, stdout=subprocess.PIPE, text=True)
                if done.returncode != 0:
                    raise SystemExit(f"{kind}: a finding, or the child could not run (exit code {done.returncode})")
                rows.append(sanitized=True, kind=kind, mutants=n, **json.loads(done.stdout.splitlines()[-1]))


# ---------------------------------------------------------------- the child


def child(kind: str, n: int) -> None:
    import jax
    import numpy as np
    from mutants import mutant

    import pikojax
    from pikojax.config import LlamaConfig, UserError
    from pikojax.formats import gguf_save
    from pikojax.native import build

    sizes = dict(d_model=64, n_layers=1, n_heads=2, n_kv_heads=1, d_hidden=64, vocab_size=24, context=16, tie=False) | KINDS[kind]
    cfg, counts, configs = LlamaConfig(**sizes), Counter(), set()
    params = jax.tree.map(np.asarray, jax.jit(pikojax.catalog["llama"].init, static_argnums=0)(cfg, jax.random.key(0)))
    assert not any(build.status(name).startswith("none") for name in ("matmul", "attention", "flash"))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "m.gguf"
        gguf_save.save(file, cfg, params, kind.split()[0])
        whole = file.read_bytes()
        for i in range(-1, n):  # the first is whole
            file.write_bytes(whole if i < 0 else mutant(whole, random.Random(f"sanitized {kind} {i}")))
            try:
                loaded = pikojax.load(file)
            except UserError:
                counts["refused"] += 1
                continue
            counts["loaded"] += 1
            if loaded.config in configs or len(configs) < CONFIGS:
                configs.add(loaded.config)
                counts["run"] += 1
                compute(loaded)
    print(json.dumps({**counts, "configs": len(configs), "findings": 0}))


def compute(loaded) -> None:
    import numpy as np

    T = min(5, loaded.config.context - 1)
    tokens_BT = np.arange(T, dtype=np.int32)[None] % loaded.config.vocab_size
    found = [loaded.logits(tokens_BT)] if T else []
    for dtype in ("float32", "int8"):
        cache = loaded.model.new_cache(loaded.config, 1, T + 1, dtype)
        for part in (tokens_BT, tokens_BT[:, :1]):
            if part.size:
                out, cache = step()(loaded.model.forward, loaded.config, loaded.params, part, cache)
                found.append(out.logits)
    assert all(np.asarray(logits).shape[-1] == loaded.config.vocab_size for logits in found)


@functools.cache
def step():
    import jax

    return jax.jit(lambda forward, cfg, params, tokens_BT, cache: forward(cfg, params, tokens_BT, cache), static_argnums=(0, 1))


if __name__ == "__main__":
    words = sys.argv[1:]
    if words[:1] == ["--child"]:
        child(words[1], int(words[2]))
    else:
        main(int(words[words.index("--mutants") + 1]) if "--mutants" in words else MUTANTS)
