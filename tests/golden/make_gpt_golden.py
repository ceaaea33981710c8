"""Makes gpt.npz: GPT-2's function (as nanoGPT has it) in PyTorch, with loss, every gradient and ten AdamW steps.

    python tests/golden/make_gpt_golden.py          (needs torch; any CPU)

The weights are float32 values; everything is computed from them in float64, so that what a float32 implementation differs
by is its own rounding. Names are `VARIANT/KIND/PARAMETER`: KIND is `weights`, `grads` or `after` (ten steps), PARAMETER as in
the modules below. A linear layer's weight is [out, in], as PyTorch has it. The variants are small, their weights larger than at
a real start, so that attention, the norms and the clipping of gradients all have something to do.
"""

import math
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

VOCAB, CONTEXT, LAYERS, HEADS, WIDTH = 17, 12, 2, 3, 12
BATCH, TOKENS, STEPS = 3, 10, 10
LR, BETAS, EPS, WEIGHT_DECAY, CLIP = 1e-3, (0.9, 0.95), 1e-8, 0.1, 1.0
VARIANTS = {"plain": dict(bias=False, tie=True), "bias": dict(bias=True, tie=True), "untied": dict(bias=False, tie=False)}


class Block(nn.Module):
    def __init__(self, bias):
        super().__init__()
        self.ln_1 = nn.LayerNorm(WIDTH, bias=bias)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=bias)
        self.out = nn.Linear(WIDTH, WIDTH, bias=bias)
        self.ln_2 = nn.LayerNorm(WIDTH, bias=bias)
        self.up = nn.Linear(WIDTH, 4 * WIDTH, bias=bias)
        self.down = nn.Linear(4 * WIDTH, WIDTH, bias=bias)

    def forward(self, x):
        batch, tokens, _ = x.shape
        heads = [part.view(batch, tokens, HEADS, -1).transpose(1, 2) for part in self.qkv(self.ln_1(x)).split(WIDTH, dim=2)]
        q, k, v = heads
        scores = q @ k.transpose(2, 3) / math.sqrt(WIDTH // HEADS)
        future = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
        attended = scores.masked_fill(future, -math.inf).softmax(dim=-1) @ v
        x = x + self.out(attended.transpose(1, 2).reshape(batch, tokens, WIDTH))
        return x + self.down(F.gelu(self.up(self.ln_2(x))))


class GPT(nn.Module):
    def __init__(self, bias, tie):
        super().__init__()
        self.wte = nn.Embedding(VOCAB, WIDTH)
        self.wpe = nn.Embedding(CONTEXT, WIDTH)
        self.h = nn.ModuleList(Block(bias) for _ in range(LAYERS))
        self.ln_f = nn.LayerNorm(WIDTH, bias=bias)
        self.head = None if tie else nn.Linear(WIDTH, VOCAB, bias=False)

    def forward(self, tokens):
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1]))
        for block in self.h:
            x = block(x)
        x = self.ln_f(x)
        return x @ self.wte.weight.T if self.head is None else self.head(x)


def loss_of(model, tokens):
    logits = model(tokens[:, :-1])
    return F.cross_entropy(logits.reshape(-1, VOCAB), tokens[:, 1:].reshape(-1))


def snapshot(model, of=lambda p: p):
    return {name: of(p).detach().numpy().astype(np.float32) for name, p in model.named_parameters()}


def run(bias, tie, tokens):
    model = GPT(bias, tie)
    with torch.no_grad():
        for name, p in model.named_parameters():
            center = 1.0 if name.endswith("weight") and p.dim() == 1 else 0.0
            p.copy_(center + (0.2 if p.dim() == 1 else 0.15) * torch.randn_like(p))
    out = {f"weights/{k}": v for k, v in snapshot(model).items()}
    model = model.double()
    loss = loss_of(model, tokens[0])
    loss.backward()
    out |= {f"grads/{k}": v for k, v in snapshot(model, lambda p: p.grad).items()}
    out |= {"logits": model(tokens[0][:, :-1]).detach().numpy().astype(np.float32), "loss": np.float32(loss.item())}
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=BETAS, eps=EPS)
    losses, norms = [], []
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = loss_of(model, tokens[step])
        loss.backward()
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), CLIP)))
        losses.append(loss.item())
        optimizer.step()
    out |= {f"after/{k}": v for k, v in snapshot(model).items()}
    return out | {"losses": np.float32(losses), "grad_norms": np.float32(norms)}


if __name__ == "__main__":
    torch.manual_seed(0)
    tokens = torch.randint(VOCAB, (STEPS, BATCH, TOKENS + 1))
    golden = {"tokens": tokens.numpy().astype(np.int32)}
    for name, variant in VARIANTS.items():
        golden |= {f"{name}/{key}": value for key, value in run(**variant, tokens=tokens).items()}
        print(name, "loss", golden[f"{name}/loss"], "gradient norms", golden[f"{name}/grad_norms"].round(2))
    path = Path(__file__).with_name("gpt.npz")
    np.savez_compressed(path, **golden)
    print(path.name, path.stat().st_size, "bytes")
