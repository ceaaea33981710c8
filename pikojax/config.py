"""Configuration: frozen dataclasses ← TOML + `key=value` overrides. Everything wrong with a config is found here, once.

A run is `Config(seed, run, data, tokenizer, model, optim, train, checkpoint, mesh)`, each block a frozen dataclass that
checks itself. The model's block is the class that `[model] name` chooses (`MODEL_BLOCKS`, or a plug-in's). Inside it
`preset` and `size` stand for groups of values; what the file or the command line says goes above them. `base = "FILE"`
starts from another file. No JAX is imported: a mistake costs milliseconds.

Leaves out: environment-variable interpolation, conditionals, anything a reader would have to evaluate.
"""

import dataclasses
import os
import stat
import tomllib
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from pikojax import plugins
from pikojax.checked import GROUPS, UserError, build, expand_groups, is_text, keys, nearest, parse_value, require, toml_value
from pikojax.heads_config import HeadsConfig
from pikojax.llama_config import LlamaConfig


@dataclass(frozen=True)
class RunConfig:
    dir: str | None = None  # None: runs/<config name>
    sample_prompt: str = "Once"
    sample_tokens: int = 200

    def __post_init__(self):
        require(self.sample_tokens >= 0, f"run.sample_tokens = {self.sample_tokens}; give 0 or more")


@dataclass(frozen=True)
class DataConfig:
    source: Literal["auto", "stories", "text", "jsonl", "parquet", "hf", "shards", "bin"] = "auto"
    path: str | None = None  # None: the built-in stories; a file, a folder, or a dataset's name for source = "hf"
    text_field: str | None = None  # jsonl, parquet, hf: the column; None: "text", else "story", else the only string column
    hf_split: str = "train"
    stories_mb: float = 10.0
    stories_seed: int = 0
    val_fraction: float | None = None  # None: 0.1 of text and stories, the last 2% of shards
    document_mask: bool = False  # attention stays within a document
    tokenizer_sample_mb: float = 50.0  # how much text a tokenizer is made from at the most

    def __post_init__(self):
        require(self.stories_mb > 0, f"data.stories_mb = {self.stories_mb}; give a size above 0")
        bad = self.val_fraction is not None and not 0 < self.val_fraction < 1
        require(not bad, f"data.val_fraction = {self.val_fraction}; give a fraction between 0 and 1, as 0.1")
        require(self.tokenizer_sample_mb > 0, f"data.tokenizer_sample_mb = {self.tokenizer_sample_mb}; give a size above 0")


@dataclass(frozen=True)
class TokenizerConfig:
    kind: Literal["char", "word", "bpe", "wordpiece", "unigram"] = "char"
    vocab_size: int = 10_000  # tokens, special ones among them; `char` has as many as the text has characters
    lowercase: bool = False  # wordpiece: forget capitals and accents, as BERT's uncased vocabularies do
    path: str | None = None  # a file or folder of any known kind (tokenizer.json, .tiktoken, .model, vocab.txt …) instead of making one

    def __post_init__(self):
        require(self.vocab_size >= 2, f"tokenizer.vocab_size = {self.vocab_size}; give 2 or more")


@dataclass(frozen=True)
class GPTConfig:
    """The block of the model `gpt`; the defaults are the `classic` preset (GPT-2 as nanoGPT has it, without biases)."""

    name: str = "gpt"
    d_model: int = 384
    n_layers: int = 6
    n_heads: int = 6
    n_kv_heads: int | None = None  # None: as many as n_heads
    d_hidden: int | None = None  # None: 4 · d_model
    vocab_size: int | None = None  # None: the tokenizer's
    context: int = 256
    positions: Literal["learned", "sinusoidal", "rope", "none"] = "learned"
    rope_base: float = 10_000.0
    norm: Literal["layernorm", "rmsnorm", "none"] = "layernorm"
    norm_eps: float = 1e-5
    activation: Literal["gelu", "gelu_tanh", "relu2"] = "gelu"
    bias: bool = False
    tie: bool = True  # the output projection is the embedding
    residual: bool = True
    qk_norm: bool = False
    zero_init: bool = False  # residual projections start at zero
    softcap: float | None = None  # logits → softcap · tanh(logits / softcap)
    dropout: float = 0.0

    PRESETS: ClassVar[dict] = {
        "classic": {},
        "modern": dict(positions="rope", norm="rmsnorm", activation="relu2", qk_norm=True, zero_init=True),
    }
    SIZES: ClassVar[dict] = {  # about 10M, 25M, 110M, 160M, 350M, 760M, 1.5B, 3B parameters with 50,000 tokens
        "nano": dict(d_model=192, n_layers=4, n_heads=3),
        "micro": dict(d_model=384, n_layers=4, n_heads=6),
        "tiny": dict(d_model=768, n_layers=10, n_heads=12),
        "small": dict(d_model=896, n_layers=12, n_heads=14),
        "medium": dict(d_model=1024, n_layers=24, n_heads=16),
        "large": dict(d_model=1536, n_layers=24, n_heads=24),
        "xl": dict(d_model=2048, n_layers=28, n_heads=32),
        "xxl": dict(d_model=2560, n_layers=36, n_heads=40),
    }

    def __post_init__(self):
        if self.n_kv_heads is None:
            object.__setattr__(self, "n_kv_heads", self.n_heads)
        if self.d_hidden is None:
            object.__setattr__(self, "d_hidden", 4 * self.d_model)
        for key in ("d_model", "n_layers", "n_heads", "n_kv_heads", "d_hidden", "context"):
            require(getattr(self, key) >= 1, f"model.{key} = {getattr(self, key)}; give 1 or more")
        require(self.vocab_size is None or self.vocab_size >= 2, f"model.vocab_size = {self.vocab_size}; give 2 or more")
        below = self.d_model // self.n_heads * self.n_heads or self.n_heads
        require(
            self.d_model % self.n_heads == 0,
            f"model.d_model = {self.d_model} does not divide into n_heads = {self.n_heads} equal heads;"
            f" try d_model = {below} or {below + self.n_heads}",
        )
        require(
            self.n_heads % self.n_kv_heads == 0,
            f"model.n_heads = {self.n_heads} is no multiple of n_kv_heads = {self.n_kv_heads}; change one of them",
        )
        for key in ("rope_base", "norm_eps"):
            require(getattr(self, key) > 0, f"model.{key} = {getattr(self, key)}; give a value above 0")
        odd_rope = self.positions == "rope" and (self.d_model // self.n_heads) % 2 == 1
        require(not odd_rope, f"rope needs an even head width, got {self.d_model // self.n_heads}; change d_model or n_heads")
        require(0 <= self.dropout < 1, f"model.dropout = {self.dropout}; give a value from 0 to below 1")
        require(self.softcap is None or self.softcap > 0, f"model.softcap = {self.softcap}; give a value above 0 or none")


@dataclass(frozen=True)
class OptimConfig:
    name: Literal["adamw", "muon"] = "adamw"  # muon: matrices of the blocks by Muon, the rest by AdamW
    lr: float = 1e-3
    muon_lr: float = 0.02
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    grad_clip: float | None = 1.0
    schedule: Literal["constant", "cosine", "trapezoid"] = "cosine"
    warmup_steps: int = 100
    decay_fraction: float = 0.3  # trapezoid: the last part of the run, in which the rate falls to its end
    end_lr_ratio: float = 0.1

    def __post_init__(self):
        for key in ("lr", "muon_lr", "eps"):
            require(getattr(self, key) > 0, f"optim.{key} = {getattr(self, key)}; give a value above 0")
        for key in ("beta1", "beta2"):
            require(0 <= getattr(self, key) < 1, f"optim.{key} = {getattr(self, key)}; give a value from 0 to below 1")
        require(self.weight_decay >= 0, f"optim.weight_decay = {self.weight_decay}; give 0 or more")
        require(self.warmup_steps >= 0, f"optim.warmup_steps = {self.warmup_steps}; give 0 or more")
        require(0 < self.decay_fraction <= 1, f"optim.decay_fraction = {self.decay_fraction}; give a part between 0 and 1")
        require(0 <= self.end_lr_ratio <= 1, f"optim.end_lr_ratio = {self.end_lr_ratio}; give a ratio from 0 to 1")
        require(self.grad_clip is None or self.grad_clip > 0, f"optim.grad_clip = {self.grad_clip}; give a norm above 0 or none")


@dataclass(frozen=True)
class TrainConfig:
    steps: int = 2_000  # optimizer steps
    batch_size: int = 8  # sequences in one forward pass, over all devices
    grad_accum: int = 1  # forward passes to one optimizer step
    eval_interval: int = 200
    sample_interval: int | None = None  # None: whenever the loss is evaluated
    log_interval: int = 10
    max_seconds: float | None = None
    target_val_loss: float | None = None
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # of the arithmetic; weights stay float32
    remat: bool = False  # recompute a layer's activations in the backward pass
    offload_optimizer: bool = False  # keep the optimizer's state in pinned host memory
    offload_params: bool = False  # keep the layers' weights there too, and stream them layer by layer
    max_loss_jump: float | None = 3.0  # nats above the smoothed loss that count as exploded
    tensorboard: bool = False

    def __post_init__(self):
        for key in ("steps", "batch_size", "grad_accum", "eval_interval", "log_interval"):
            require(getattr(self, key) >= 1, f"train.{key} = {getattr(self, key)}; give 1 or more")
        require(self.steps < 2**31, f"train.steps = {self.steps}; give less than {2**31:,}")
        for key in ("max_seconds", "sample_interval", "max_loss_jump"):
            value = getattr(self, key)
            require(value is None or value > 0, f"train.{key} = {value}; give a value above 0 or none")


@dataclass(frozen=True)
class CheckpointConfig:
    interval: int = 200  # steps
    keep: int = 2  # the newest so many
    keep_best: bool = True  # and the one with the lowest validation loss

    def __post_init__(self):
        for key in ("interval", "keep"):
            require(getattr(self, key) >= 1, f"checkpoint.{key} = {getattr(self, key)}; give 1 or more")


@dataclass(frozen=True)
class MeshConfig:
    data: int = 1
    fsdp: int = 1

    def __post_init__(self):
        for key in ("data", "fsdp"):
            require(getattr(self, key) >= 1, f"mesh.{key} = {getattr(self, key)}; give 1 or more")


@dataclass(frozen=True)
class Config:
    seed: int = 0
    run: RunConfig = field(default_factory=RunConfig)
    data: DataConfig = field(default_factory=DataConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    model: Any = field(default_factory=GPTConfig)  # the class that model.name chooses
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)

    def __post_init__(self):
        require(0 <= self.seed < 2**32, f"seed = {self.seed}; give a whole number from 0 to 4294967295")
        ways = self.mesh.data * self.mesh.fsdp
        require(
            self.train.batch_size % ways == 0,
            f"train.batch_size = {self.train.batch_size} does not divide over mesh.data × mesh.fsdp = {ways} devices;"
            f" use a multiple of {ways}",
        )


MODEL_BLOCKS, BESIDES = {"gpt": GPTConfig, "llama": LlamaConfig}, {"heads": HeadsConfig}  # besides: no model, but trained for one


def model_block(name: str) -> type:
    """The dataclass that holds the settings of the model called `name`: built in, or a plug-in's by entry point."""
    require(isinstance(name, str), f"model.name = {name!r}; give one of: {', '.join(MODEL_BLOCKS)}")
    if name in MODEL_BLOCKS | BESIDES:
        return (MODEL_BLOCKS | BESIDES)[name]
    model = plugins.load("pikojax.models", name)
    if model is None:
        raise UserError(f"model.name = {name!r} is no model{nearest(name, [*MODEL_BLOCKS, *plugins.names('pikojax.models')])}")
    block = getattr(model, "config_class", None)
    require(dataclasses.is_dataclass(block), f"model.name = {name!r}: this plug-in brings no model with a config_class; mend or uninstall it")
    return block


def load_config(path: str | os.PathLike | Mapping | None = None, overrides: Iterable[str] = ()) -> Config:
    """A checked `Config` from a TOML file, or what one would hold (None: the defaults), with `block.key=value` overrides on top."""
    tree = {} if path is None else dict(path) if isinstance(path, Mapping) else _read_toml(find_config(path))
    overrides = list(overrides)
    named = {override.partition("=")[0].strip() for override in overrides}
    if "data.path" in named and not named & {"data.source", "source"} and isinstance(data := tree.get("data"), dict):
        tree["data"] = {key: value for key, value in data.items() if (key, value) != ("source", "stories")}
    for override in sorted(overrides, key=_sets_one_key):  # groups first: a key beats a group, wherever it stands
        _apply_override(tree, override)
    return config_from_dict(tree)


def find_config(path: str | os.PathLike) -> Path:
    """`path` itself, or the shipped config of that name (`lightllm`, `configs/lightllm.toml`) from any folder."""
    path = Path(path)
    if path.is_file():
        return path
    package = Path(__file__).parent
    for folder in (package / "configs", package.parent / "configs"):
        for name in (path.name, f"{path.name}.toml"):
            if len(path.parts) <= 2 and path.parts[:-1] in ((), ("configs",)) and (folder / name).is_file():
                return folder / name
    shipped = sorted(file.stem for folder in (package / "configs", package.parent / "configs") for file in folder.glob("*.toml"))
    raise UserError(f"no config file {str(path)!r}; give a TOML file or one of: {', '.join(shipped) or 'none shipped'}")


def config_from_dict(tree: Mapping[str, Any]) -> Config:
    tree = dict(tree)
    blocks = {}
    for key in tree:
        known = [f.name for f in dataclasses.fields(Config)]
        require(key in known, f"unknown key {key!r}{nearest(key, known)}")
    for name, block in _block_classes(tree).items():
        values = tree.pop(name, {})
        require(isinstance(values, Mapping), f"{name} = {values!r} is no block; write [{name}] and its keys below")
        blocks[name] = build(block, expand_groups(block, values), f"{name}.")
    return build(Config, {**tree, **blocks}, "")


def to_dict(config: Config) -> dict:
    """Nested plain values, None for off; `config_from_dict` of it gives an equal config."""
    return dataclasses.asdict(config)


def to_toml(config: Config) -> str:
    """The resolved config as TOML; `load_config` of it gives an equal config. Off is written 'none'."""
    lines, blocks = [], []
    for key, value in dataclasses.asdict(config).items():
        if isinstance(value, dict):
            blocks += ["", f"[{key}]", *(f"{k} = {toml_value(v)}" for k, v in value.items())]
        else:
            lines.append(f"{key} = {toml_value(value)}")
    return "\n".join(lines + blocks) + "\n"


def differing_keys(a: Config, b: Config, blocks: Iterable[str]) -> list[str]:
    """`block.key: old → new` for each key that differs between two configs in the named blocks (or top-level keys)."""
    out = []
    for name in blocks:
        x, y = getattr(a, name), getattr(b, name)
        x, y = ({"": v} if not dataclasses.is_dataclass(v) else dataclasses.asdict(v) for v in (x, y))
        for key in sorted(x.keys() | y.keys()):
            if x.get(key) != y.get(key):
                out.append(f"{name}.{key}".rstrip(".") + f": {x.get(key)!r} → {y.get(key)!r}")
    return out


def user_path(text: str | os.PathLike, name: str) -> Path:
    """The path that a person typed, ~ expanded; one that the system cannot even look up is refused."""
    try:
        path = Path(text).expanduser()
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:  # too long, a folder that may not be searched; no such ~user; a NUL
        said = str(text) if len(str(text)) < 80 else f"{str(text)[:80]}…"
        raise UserError(f"{name} = {said!r}: {getattr(error, 'strerror', None) or error}; give another path") from None
    return path


def cache_dir(kind: str) -> Path:
    """A private folder (0700) of this user for `kind`; `PIKOJAX_CACHE` moves them all."""
    root = Path(os.environ.get("PIKOJAX_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "pikojax").expanduser()
    path = root / kind
    try:
        for folder in (root, path):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            info = folder.stat()
            if info.st_uid != os.getuid():
                raise UserError(f"the cache {folder} belongs to another user; set PIKOJAX_CACHE to a folder of your own")
            if stat.S_IMODE(info.st_mode) & 0o022:  # others could plant code there: compiled kernels are loaded from it
                raise UserError(f"the cache {folder} can be written by others; run: chmod 700 {folder}")
    except OSError as error:
        raise UserError(f"cannot use the cache {path} ({error.strerror}); set PIKOJAX_CACHE to a writable folder") from None
    return path


# ---------------------------------------------------------------- reading


def _read_toml(path: Path, seen: tuple[Path, ...] = ()) -> dict:
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid TOML: {' '.join(str(error).split())}") from None
    base = tree.pop("base", None)
    if base is None:
        return tree
    require(path.resolve() not in seen, f"{path} is its own base; remove one `base` line")
    require(isinstance(base, str), f"{path}: base = {base!r}; give one file, as base = \"lightllm.toml\"")
    beside = path.parent / base
    base_tree = _read_toml(beside if beside.is_file() else find_config(base), (*seen, path.resolve()))
    for key, value in tree.items():
        base_tree[key] = _lay_over(base_tree, key, value) if isinstance(value, dict) else value
    return base_tree


def _lay_over(tree: dict, name: str, values: dict) -> dict:
    """The block `name` with new values on top. A new preset or size also replaces the older keys that it stands for."""
    below = tree.get(name, {})
    require(isinstance(below, dict), f"{name} = {below!r} is no block; write [{name}] and its keys below")
    block = _block_classes({**tree, name: {**below, **values}}).get(name)
    replaced = expand_groups(block, {group: values[group] for group in GROUPS if group in values}) if block else {}
    return {key: value for key, value in below.items() if key not in replaced} | values


def _apply_override(tree: dict, override: str) -> None:
    key, equals, text = override.partition("=")
    require(bool(equals), f"got {override!r}, wanted key=value, as in train.steps=100")
    classes = _block_classes(tree)
    block, dot, leaf = key.strip().partition(".")
    if not dot:  # a bare key stands for the only block that has it
        top = [f.name for f in dataclasses.fields(Config) if f.name not in classes]
        owners = [name for name, cls in classes.items() if block in keys(cls)]
        if block in top:
            tree[block] = parse_value(text)
            return
        require(block not in classes, f"{block!r} is a block; set its keys one by one, as {block}.{keys(classes.get(block, Config))[0]}=…")
        every = top + [f"{name}.{k}" for name, cls in classes.items() for k in keys(cls)]
        require(len(owners) < 2, f"key {block!r} is ambiguous; write one of: {', '.join(f'{o}.{block}' for o in owners)}")
        require(len(owners) == 1, f"unknown key {block!r}{nearest(block, every)}")
        block, leaf = owners[0], block
    require(block in classes, f"unknown key {key!r}{nearest(key, [f'{n}.{k}' for n, c in classes.items() for k in keys(c)])}")
    value = text.strip() if is_text(classes[block], leaf) and not text.strip().startswith(('"', "'")) else parse_value(text)
    tree[block] = _lay_over(tree, block, {leaf: value})


def _sets_one_key(override: str) -> bool:
    return override.partition("=")[0].strip().rpartition(".")[2] not in ("name", *GROUPS)


def _block_classes(tree: Mapping) -> dict[str, type]:
    model = tree.get("model", {})
    name = model.get("name", "gpt") if isinstance(model, Mapping) else "gpt"
    hints = typing.get_type_hints(Config)
    return {f.name: model_block(name) if f.name == "model" else hints[f.name] for f in dataclasses.fields(Config) if f.name != "seed"}
