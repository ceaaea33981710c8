"""nanoGPT's recipe for a CPU on tinyshakespeare characters, in PyTorch: torch_recipe.py TEXT SEED OUT.npz [STEPS] [--no-estimates]

4 layers, 4 heads, 128 wide, 64 context, batch 12, 2,000 steps, AdamW at 1e-3 with 100 steps of warm-up and a cosine to 1e-4, clipping at 1,
and every 250 steps its own estimate of both losses from 20 batches each. Writes the final weights; prints one JSON line.
"""

import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "peers"))
import torch_gpt

CONTEXT, BATCH = 64, 12


def main(text_path, seed, out, steps=2000, estimates=True):
    started = time.perf_counter()
    torch.manual_seed(seed)
    torch.set_num_threads(2)
    text = Path(text_path).read_text(encoding="utf-8")
    ids = {character: i for i, character in enumerate(sorted(set(text)))}
    data = torch.tensor([ids[character] for character in text])
    splits = {"train": data[: int(0.9 * len(data))], "val": data[int(0.9 * len(data)) :]}
    model = torch_gpt.GPT(d_model=128, n_layers=4, n_heads=4, context=CONTEXT, vocab_size=len(ids))
    optimizer = torch_gpt.optimizer(model, 1e-3)

    def batch(split):
        starts = torch.randint(len(splits[split]) - CONTEXT, (BATCH,))
        rows = torch.stack([splits[split][s : s + CONTEXT + 1] for s in starts])
        return rows[:, :-1], rows[:, 1:]

    @torch.no_grad()
    def estimate(split):
        return float(np.mean([model(*batch(split)).item() for _ in range(20)]))

    val_estimate = None
    for step in range(steps + 1):
        if estimates and step % 250 == 0:
            estimate("train")
            val_estimate = estimate("val")
        if step == steps:
            break
        cosine = 0.5 * (1 + math.cos(math.pi * max(0, step - 100) / (steps - 100)))
        rate = 1e-3 * (step + 1) / 101 if step < 100 else 1e-4 + cosine * 9e-4
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = model(*batch("train"))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    seconds = time.perf_counter() - started
    np.savez(out, **torch_gpt.export(model))
    print(json.dumps({"seconds": seconds, "steps": steps, "parameters": torch_gpt.parameters(model), "own_val_estimate": val_estimate}))


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if not word.startswith("--")]
    main(words[0], int(words[1]), words[2], *(int(word) for word in words[3:]), estimates="--no-estimates" not in sys.argv)
