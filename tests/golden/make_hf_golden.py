"""Writes hf_families.npz: what transformers says of tiny models beside the Llama family, of folders as it saves them.

    python tests/golden/make_hf_golden.py          needs torch, transformers and safetensors

The weights are drawn by the names that the tensors have in the file, as in make_llama_golden.py, and drawn anew in the test.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from make_llama_golden import BASE, draw  # noqa: E402

BERT = dict(vocab_size=48, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=56, max_position_embeddings=64)
MOE = {**BASE, "num_experts_per_tok": 2}
CASES = {  # name → (transformers' config class, its model class, its config)
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", dict(vocab_size=48, n_positions=64, n_embd=32, n_layer=3, n_head=4)),
    "gpt2 untied": ("GPT2Config", "GPT2LMHeadModel", dict(vocab_size=48, n_positions=64, n_embd=32, n_layer=2, n_head=4, n_inner=56,
        activation_function="gelu", layer_norm_epsilon=1e-3, tie_word_embeddings=False)),
    "mixtral": ("MixtralConfig", "MixtralForCausalLM", dict(**MOE, num_local_experts=5, sliding_window=16)),
    "qwen2_moe": ("Qwen2MoeConfig", "Qwen2MoeForCausalLM", dict(**MOE, num_experts=7, moe_intermediate_size=24, shared_expert_intermediate_size=40)),
    "qwen3_moe": ("Qwen3MoeConfig", "Qwen3MoeForCausalLM", dict(**BASE, num_experts=6, num_experts_per_tok=3, moe_intermediate_size=24, head_dim=16,
        norm_topk_prob=True)),
    "bert": ("BertConfig", "BertModel", BERT),
    "bert of masked words": ("BertConfig", "BertForMaskedLM", dict(**BERT, layer_norm_eps=1e-5, type_vocab_size=3)),
}  # fmt: skip


def main() -> None:
    import torch
    import transformers
    from safetensors.numpy import load_file, save_file

    saved = {"tokens": np.random.default_rng(0).integers(0, BASE["vocab_size"], (2, 40)).astype(np.int32)}
    saved["mask"] = (np.arange(40) < np.array([[40], [23]])).astype(np.int32)  # BERT: 17 tokens of the second row are padding
    saved["types"] = np.broadcast_to(np.arange(40) // 11 % 2, (2, 40)).astype(np.int32)
    about = {}
    for case, (config_class, model_class, config) in CASES.items():
        model_class = getattr(transformers, model_class)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "model.safetensors"
            model_class(getattr(transformers, config_class)(**config)).float().save_pretrained(folder)
            shapes = {name: array.shape for name, array in load_file(file).items()}
            save_file({name: draw(name, shape) for name, shape in shapes.items()}, file, metadata={"format": "pt"})
            model = model_class.from_pretrained(folder, attn_implementation="eager").eval()
            tokens = torch.from_numpy(saved["tokens"]).long()
            with torch.no_grad():
                if case.startswith("bert"):
                    more = {"attention_mask": torch.from_numpy(saved["mask"]).long(), "token_type_ids": torch.from_numpy(saved["types"]).long()}
                    saved[case] = model(tokens, **more, output_hidden_states=True).hidden_states[-1].numpy()
                else:
                    saved[case] = model(tokens).logits.numpy()
            about[case] = {"config": json.loads((Path(folder) / "config.json").read_text()), "tensors": {name: list(shape) for name, shape in shapes.items()}}
    saved["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    np.savez_compressed(Path(__file__).parent / "hf_families.npz", **saved)


if __name__ == "__main__":
    main()
