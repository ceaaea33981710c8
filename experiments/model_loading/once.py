"""One process that loads one model and says what it took: once.py MODEL  →  {"load_s": …, "growth_bytes": …, "peak_bytes": …, "weights_bytes": …}

The clock starts when pikojax and JAX are imported and ends when the weights are ready to decode with. Memory is what Linux counts as resident in
this process, less what it was before; its high-water mark is begun anew there.
"""

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import trials  # noqa: F401 (which finds pikojax, and keeps compiled programs)

import jax
import jax.numpy as jnp

import pikojax
from pikojax.formats import load  # noqa: F401 (so that the clock does not see the import)


def resident(what: str) -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(what)) << 10


def main(path: str) -> None:
    jnp.zeros(1).block_until_ready()
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before, began_s, cpu_s = resident("VmRSS"), time.perf_counter(), time.process_time()
    loaded = pikojax.load(path)
    jax.block_until_ready(loaded.params)
    found = {"load_s": time.perf_counter() - began_s, "cpu_s": time.process_time() - cpu_s, "growth_bytes": resident("VmRSS") - before}
    found |= {"peak_bytes": resident("VmHWM") - before, "weights_bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(loaded.params))}
    print(json.dumps(found | {"parameters_checked": bool(jnp.isfinite(loaded.logits([[0, 1, 2, 3]])).all())}))


if __name__ == "__main__":
    main(sys.argv[1])
