"""Tiny random models of each architecture as transformers saves them, and what it says of them: transformers_logits.py FOLDER

For each case FOLDER/CASE (a model folder) and FOLDER/CASE.npz: `tokens` [3, 56]; `whole_N`, logits of the first N tokens of each row, each
computed alone; `padded`, logits of rows of `lengths` tokens, padded on the right and masked. Needs torch and transformers, and nothing of pikojax.
"""

import sys
from pathlib import Path

import numpy as np
import torch
import transformers

LENGTHS = (1, 7, 23, 56)
ROWS = (48, 23, 7)  # tokens of each row of the padded batch
V = 160
BASE = dict(vocab_size=V, hidden_size=64, intermediate_size=96, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128)
MOE = {**BASE, "num_experts_per_tok": 2}
BERT = dict(vocab_size=V, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=96, max_position_embeddings=64)
CASES = {  # name → (transformers' config class, its values)
    "gpt2": ("GPT2", dict(vocab_size=V, n_positions=64, n_embd=64, n_layer=4, n_head=4)),
    "llama 2": ("Llama", dict(**BASE, tie_word_embeddings=False)),
    "llama 3": ("Llama", dict(**BASE, rope_theta=500_000.0, tie_word_embeddings=False)),
    "llama 3.1 scaling": ("Llama", dict(**BASE, rope_scaling=dict(rope_type="llama3", rope_theta=5e5, factor=8.0, low_freq_factor=1.0,
        high_freq_factor=4.0, original_max_position_embeddings=32))),
    "llama linear scaling": ("Llama", dict(**BASE, rope_scaling=dict(rope_type="linear", rope_theta=1e4, factor=4.0))),
    "llama yarn scaling": ("Llama", dict(**BASE, rope_scaling=dict(rope_type="yarn", rope_theta=1e4, factor=4.0, original_max_position_embeddings=32))),
    "mistral, window": ("Mistral", dict(**BASE, sliding_window=16)),
    "qwen2": ("Qwen2", dict(**BASE, tie_word_embeddings=True)),
    "qwen2, window": ("Qwen2", dict(**BASE, use_sliding_window=True, sliding_window=16, max_window_layers=0)),
    "qwen3": ("Qwen3", dict(**BASE, head_dim=32)),
    "smollm": ("Llama", dict(**BASE | dict(num_attention_heads=8, num_key_value_heads=4), tie_word_embeddings=True, rope_theta=1e5)),
    "phi3": ("Phi3", dict(**BASE, pad_token_id=0)),
    "phi3, window, half rotated": ("Phi3", dict(**BASE, pad_token_id=0, sliding_window=20, partial_rotary_factor=0.5)),
    "phi3, longrope": ("Phi3", dict(**BASE, pad_token_id=0, original_max_position_embeddings=32, rope_parameters=dict(rope_type="longrope", rope_theta=1e4,
        short_factor=[1.0 + 0.1 * i for i in range(8)], long_factor=[1.5 + 0.5 * i for i in range(8)], original_max_position_embeddings=32))),
    "smollm3": ("SmolLM3", dict(**BASE, pad_token_id=0, tie_word_embeddings=True)),
    "gemma2, window": ("Gemma2", dict(**BASE, head_dim=32, sliding_window=16, query_pre_attn_scalar=32)),
    "gemma3, window": ("Gemma3Text", dict(**BASE | dict(num_hidden_layers=7), head_dim=32, sliding_window=16, query_pre_attn_scalar=32)),
    "mixtral": ("Mixtral", dict(**MOE, num_local_experts=5)),
    "mixtral, window": ("Mixtral", dict(**MOE, num_local_experts=5, sliding_window=16)),
    "qwen2 moe": ("Qwen2Moe", dict(**MOE, num_experts=7, moe_intermediate_size=24, shared_expert_intermediate_size=40)),
    "qwen3 moe": ("Qwen3Moe", dict(**BASE, num_experts=6, num_experts_per_tok=3, moe_intermediate_size=24, head_dim=32, norm_topk_prob=True)),
    "bert": ("Bert", BERT),
}  # fmt: skip


def main(folder: Path) -> None:
    for number, (case, (family, values)) in enumerate(CASES.items()):
        torch.manual_seed(number)
        config = getattr(transformers, family + "Config")(**values)
        kind = transformers.AutoModel if family == "Bert" else transformers.AutoModelForCausalLM
        model = kind.from_config(config, attn_implementation="eager").float().eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():  # as spread as a trained model's, so that logits are of the size of theirs
                noise = torch.randn_like(parameter)
                parameter.copy_(noise * 0.12 if parameter.ndim > 1 else parameter + 0.2 * noise)
            model.save_pretrained(folder / case)
            np.savez(folder / f"{case}.npz", **said(model))


def said(model) -> dict:
    tokens = torch.from_numpy(np.random.default_rng(0).integers(0, V, (3, LENGTHS[-1])))
    take = lambda out: (out.logits if hasattr(out, "logits") else out.last_hidden_state).numpy()
    found = {f"whole_{n}": take(model(tokens[:, :n])) for n in LENGTHS}
    mask = torch.arange(max(ROWS))[None, :] < torch.tensor(ROWS)[:, None]
    found["padded"] = take(model(tokens[:, : max(ROWS)] * mask, attention_mask=mask.long()))
    return found | {"tokens": tokens.numpy().astype(np.int32), "lengths": np.array(ROWS)}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
