"""The formats by name: how many weights share a scale, how many bytes they take.

    bits per weight = 8 · (block_bytes + bytes of the scales beside the data) / block_weights

Formats of our own keep scales (and minimums) in arrays beside the data. GGUF's blocks carry theirs inside, bit for bit as
they lie in a file.
"""

from dataclasses import dataclass

from pikojax.config import require


@dataclass(frozen=True)
class Format:
    name: str
    bits_per_weight: float  # scales counted, but for the one scale an output that "int8" has
    group: int | None  # weights along K that share a scale; None: all of an output
    block_weights: int  # K is padded with zeros to a multiple of this
    block_bytes: int  # what so many weights take in `data`
    gguf: bool = False
    asymmetric: bool = False  # w = q · scale + min in place of w = q · scale


def _own(name: str, bits: int, group: int, asymmetric: bool = False) -> Format:
    scale_bits = 32 if asymmetric else 16
    return Format(name, bits + scale_bits / group, group, group, group * bits // 8, asymmetric=asymmetric)


def _gguf(name: str, group: int, block_weights: int, block_bytes: int, asymmetric: bool = False) -> Format:
    return Format(name, 8 * block_bytes / block_weights, group, block_weights, block_bytes, True, asymmetric)


_ALL = [
    Format("int8", 8.0, None, 1, 1),
    *(_own(f"int8_g{group}", 8, group) for group in (32, 64, 128)),
    *(_own(f"int4_g{group}", 4, group) for group in (32, 64, 128)),
    *(_own(f"int4a_g{group}", 4, group, asymmetric=True) for group in (32, 64, 128)),
    _own("nf4", 4, 64),
    _gguf("q8_0", 32, 32, 34),
    _gguf("q4_0", 32, 32, 18),
    _gguf("q4_1", 32, 32, 20, asymmetric=True),
    _gguf("q5_0", 32, 32, 22),
    _gguf("q5_1", 32, 32, 24, asymmetric=True),
    _gguf("q4_k", 32, 256, 144, asymmetric=True),
    _gguf("q5_k", 32, 256, 176, asymmetric=True),
    _gguf("q6_k", 16, 256, 210),
]
FORMATS: dict[str, Format] = {each.name: each for each in _ALL}


def format_named(name: str) -> Format:
    require(name in FORMATS, f"format {name!r} is unknown; choose from {', '.join(FORMATS)}")
    return FORMATS[name]
