"""Writes llama_family.npz: what transformers says of tiny models of each family. Their weights are drawn anew in the test, by `draw`.

    python tests/golden/make_llama_golden.py          needs torch and transformers
"""

import json
import zlib
from pathlib import Path

import numpy as np

BASE = dict(vocab_size=48, hidden_size=32, intermediate_size=56, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128)
CASES = {  # name → (transformers' config class, what differs)
    "llama": ("LlamaConfig", dict(tie_word_embeddings=False)),
    "llama3": ("LlamaConfig", dict(rope_theta=500_000.0, tie_word_embeddings=True, attention_bias=True, mlp_bias=True, rope_scaling=dict(
        rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64))),
    "linear": ("LlamaConfig", dict(rope_scaling=dict(rope_type="linear", factor=4.0))),
    "yarn": ("LlamaConfig", dict(rope_scaling=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32))),
    "mistral": ("MistralConfig", dict(sliding_window=16, head_dim=16)),
    "qwen2": ("Qwen2Config", dict(tie_word_embeddings=True)),
    "qwen2 with a window": ("Qwen2Config", dict(use_sliding_window=True, sliding_window=16, max_window_layers=0)),
    "qwen3": ("Qwen3Config", dict(head_dim=16)),
    "phi3": ("Phi3Config", dict(sliding_window=20, pad_token_id=0, eos_token_id=1, bos_token_id=1, partial_rotary_factor=0.5)),
    "longrope": ("Phi3Config", dict(pad_token_id=0, eos_token_id=1, bos_token_id=1, rope_parameters=dict(rope_type="longrope", rope_theta=1e4,
        short_factor=[1.0, 1.1, 1.2, 1.3], long_factor=[1.5, 2.0, 3.0, 4.0], original_max_position_embeddings=32))),
    "smollm3": ("SmolLM3Config", dict(pad_token_id=0, no_rope_layer_interval=2)),
    "gemma2": ("Gemma2Config", dict(head_dim=16, sliding_window=16, query_pre_attn_scalar=24)),
    "gemma3": ("Gemma3TextConfig", dict(head_dim=16, sliding_window=16, num_hidden_layers=7, query_pre_attn_scalar=24)),
}  # fmt: skip


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A tensor that its name decides: matrices small, norms about 1 (Gemma stores them less 1)."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return (rng.standard_normal(shape) * (0.3 if len(shape) == 1 else 0.1) + (len(shape) == 1)).astype(np.float32)


def main() -> None:
    import torch
    import transformers

    saved = {"tokens": np.random.default_rng(0).integers(0, BASE["vocab_size"], (2, 40)).astype(np.int32)}
    about = {}
    for case, (config_class, more) in CASES.items():
        config = getattr(transformers, config_class)(**{**BASE, **more})
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
        names = {}
        with torch.no_grad():
            for name, parameter in model.named_parameters():  # a tied head is there once
                names[name] = list(parameter.shape)
                parameter.copy_(torch.from_numpy(draw(name, tuple(parameter.shape))))
            saved[case] = model(torch.from_numpy(saved["tokens"]).long()).logits.numpy()
        about[case] = {"config": json.loads(config.to_json_string(use_diff=False)) | {"architectures": [type(model).__name__]}, "tensors": names}
    saved["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    np.savez_compressed(Path(__file__).parent / "llama_family.npz", **saved)


if __name__ == "__main__":
    main()
