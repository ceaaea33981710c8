"""`pikojax bench train …` with one of its speed-ups taken away: without.py products|unrolling|memory ARGUMENTS"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from pikojax.cli import startup

what, *arguments = sys.argv[1:]
if what == "memory":  # every step takes its memory from the system
    os.environ["PIKOJAX_KEEP_MEMORY"] = "0"
startup.keep_memory()

from pikojax.cli.main import main  # noqa: E402
from pikojax.kernels import product  # noqa: E402
from pikojax.models import layers  # noqa: E402

if what == "unrolling":  # the layers are a loop
    layers.UNROLLED_UP_TO = 0
if what == "products":  # XLA's in place of ours
    product.native_target = lambda: None
sys.exit(main(arguments))
