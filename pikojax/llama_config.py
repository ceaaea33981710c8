"""The config block of the model `llama`: one architecture whose switches make it Llama 2 and 3, Mistral, Qwen 2 and 3, SmolLM, Phi-3,
Gemma 2 and 3, Mixtral and Qwen's mixtures of experts.

    [model]
    name = "llama"                  d_model = 576 … for a model of one's own; files of other people's models bring their own values

Leaves out: positions by other means than rotation.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from pikojax.checked import require


@dataclass(frozen=True)
class LlamaConfig:
    name: str = "llama"
    d_model: int = 512
    n_layers: int = 8
    n_heads: int = 8
    n_kv_heads: int | None = None  # None: as many as n_heads
    d_head: int | None = None  # None: d_model / n_heads
    d_hidden: int | None = None  # None: 8/3 · d_model, up to a multiple of 64
    vocab_size: int | None = None  # None: the tokenizer's
    context: int = 2048
    norm_eps: float = 1e-5
    tie: bool = True  # the output projection is the embedding
    activation: Literal["silu", "gelu", "gelu_tanh"] = "silu"  # of the gate
    qkv_bias: bool = False  # Qwen 2
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False  # Qwen 3, Gemma 3: queries and keys are normalized head by head
    post_norms: bool = False  # Gemma: what leaves attention and MLP is normalized too
    n_experts: int | None = None  # of each layer, in place of its MLP
    n_experts_used: int = 2  # by a token
    d_expert: int | None = None  # None: d_hidden, which nothing else uses then
    d_shared: int | None = None  # Qwen 2: width of an expert for all tokens besides; None: there is none
    norm_topk: bool = True  # the weights of a token's experts are made to sum to 1
    rope_base: float = 10_000.0
    rope_fraction: float = 1.0  # of each head that is rotated
    rope_scaling: Literal["none", "linear", "llama3", "yarn", "longrope"] = "none"  # for contexts longer than the model was first trained on
    rope_factor: float = 1.0  # how many times longer
    rope_original_context: int | None = None
    rope_low_factor: float = 1.0  # llama3: waves longer than original context / this are stretched in full
    rope_high_factor: float = 4.0  # llama3: those shorter than original context / this not at all
    rope_beta_fast: float = 32.0  # yarn: turns within the original context from which on a wave stays as it is
    rope_beta_slow: float = 1.0
    rope_attention_factor: float | None = None  # rotated vectors are multiplied by it; None: yarn 0.1 · ln(factor) + 1, longrope √(1 + ln(factor) / ln(original context))
    rope_divisors: tuple[float, ...] | None = None  # of each rotated pair's frequency, before any scaling: how GGUF writes llama3's scaling
    rope_long_divisors: tuple[float, ...] | None = None  # longrope: in place of those, for texts (or caches) longer than the original context
    nope_every: int | None = None  # every so manieth layer has no positions at all (SmolLM3: 4)
    window: int | None = None  # of local layers: how many tokens back they see, their own among them
    global_every: int | None = None  # every so manieth layer sees everything (Gemma 2: 2, Gemma 3: 6); None: all layers are local
    rope_base_local: float | None = None  # Gemma 3: of local layers, which then are not scaled; None: rope_base
    attention_scale: float | None = None  # of scores; None: 1 / √d_head
    attention_softcap: float | None = None  # Gemma 2: scores → cap · tanh(scores / cap)
    softcap: float | None = None  # the same of the logits
    embed_scale: float = 1.0  # Gemma: √d_model

    SIZES: ClassVar[dict] = {  # about 15M, 42M, 110M parameters with 32,000 tokens, and 1.1B
        "15m": dict(d_model=288, n_layers=6, n_heads=6, d_hidden=768, context=256),
        "42m": dict(d_model=512, n_layers=8, n_heads=8, d_hidden=1376, context=1024),
        "110m": dict(d_model=768, n_layers=12, n_heads=12, d_hidden=2048, context=1024),
        "1b": dict(d_model=2048, n_layers=16, n_heads=32, n_kv_heads=8, d_hidden=8192, context=4096),
    }

    def __post_init__(self):
        fill = lambda key, value: object.__setattr__(self, key, value) if getattr(self, key) is None else None
        fill("n_kv_heads", self.n_heads)
        for key in ("d_model", "n_layers", "n_heads", "n_kv_heads", "context"):
            require(getattr(self, key) >= 1, f"model.{key} = {getattr(self, key)}; give 1 or more")
        require(
            self.d_head is not None or self.d_model % self.n_heads == 0,
            f"model.d_model = {self.d_model} does not divide into n_heads = {self.n_heads} equal heads; change one of them or give d_head",
        )
        fill("d_head", self.d_model // self.n_heads)
        fill("d_hidden", -(-8 * self.d_model // (3 * 64)) * 64)
        if self.n_experts is not None:
            fill("d_expert", self.d_hidden)
        for key in ("d_head", "d_hidden", "n_experts", "d_expert", "d_shared"):
            require(getattr(self, key) is None or getattr(self, key) >= 1, f"model.{key} = {getattr(self, key)}; give 1 or more")
        if (most := self.n_experts) is not None:
            require(1 <= self.n_experts_used <= most, f"model.n_experts_used = {self.n_experts_used} of n_experts = {most}; give 1 to {most}")
            require(not self.mlp_bias, "model.mlp_bias = true with experts, which have none; turn one of them off")
        require(
            self.n_heads % self.n_kv_heads == 0,
            f"model.n_heads = {self.n_heads} is no multiple of n_kv_heads = {self.n_kv_heads}; change one of them",
        )
        require(self.vocab_size is None or self.vocab_size >= 2, f"model.vocab_size = {self.vocab_size}; give 2 or more")
        above = ("embed_scale", "rope_base", "norm_eps", "rope_factor",
                 "rope_low_factor", "rope_high_factor", "rope_beta_fast", "rope_beta_slow")  # fmt: skip
        for key in above:
            require(getattr(self, key) > 0, f"model.{key} = {getattr(self, key)}; give a value above 0")
        for key in ("window", "global_every", "nope_every", "rope_base_local", "attention_scale", "attention_softcap", "softcap", "rope_original_context",
                    "rope_attention_factor"):  # fmt: skip
            value = getattr(self, key)
            require(value is None or value > 0, f"model.{key} = {value}; give a value above 0 or none")
        require(self.rope_base > 1, f"model.rope_base = {self.rope_base}; give a value above 1")
        require(0 < self.rope_fraction <= 1, f"model.rope_fraction = {self.rope_fraction}; give a part above 0, up to 1")
        require(self.d_rope >= 2 and self.d_rope % 2 == 0, f"rope needs an even width, got {self.d_rope}; change d_head or rope_fraction")
        for key in ("rope_divisors", "rope_long_divisors"):
            divisors = getattr(self, key)
            fits = divisors is None or len(divisors) == self.d_rope // 2 and min(divisors) > 0
            require(fits, f"model.{key} has to be {self.d_rope // 2} numbers above 0, one for each rotated pair; change it or give none")
        both = self.rope_divisors is not None and self.rope_long_divisors is not None
        require(both or self.rope_scaling != "longrope", "rope_scaling = 'longrope' needs rope_divisors and rope_long_divisors; give both")
        needs_context = self.rope_scaling in ("llama3", "yarn", "longrope") and self.rope_original_context is None
        require(not needs_context, f"rope_scaling = {self.rope_scaling!r} needs the context of the first training; give rope_original_context")
        require(self.rope_high_factor > self.rope_low_factor, "rope_high_factor is not above rope_low_factor; raise it")
        require(self.rope_beta_fast > self.rope_beta_slow, "rope_beta_fast is not above rope_beta_slow; raise it")
        require(self.global_every is None or self.window is not None, "global_every tells local layers apart, which need a window; give window")

    @property
    def d_rope(self) -> int:
        return int(self.d_head * self.rope_fraction + 1e-6)  # a fraction that was made of a width gives that width back

    def is_turned(self, layer: int) -> bool:
        return self.nope_every is None or (layer + 1) % self.nope_every != 0

    def is_local(self, layer: int) -> bool:
        return self.window is not None and (self.global_every is None or (layer + 1) % self.global_every != 0)
