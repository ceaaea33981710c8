"""The PyTorch side of the comparisons: GPT-2's function as nanoGPT has it, written plainly, with PyTorch's fused attention.

Run with a Python that has torch. Nothing here imports pikojax; the experiments start these files as programs of their own.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F


class Block(nn.Module):
    def __init__(self, d_model: int, n_heads: int):
        super().__init__()
        self.n_heads = n_heads
        self.norm1 = nn.LayerNorm(d_model, bias=False)
        self.norm2 = nn.LayerNorm(d_model, bias=False)
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)
        self.up = nn.Linear(d_model, 4 * d_model, bias=False)
        self.down = nn.Linear(4 * d_model, d_model, bias=False)

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = (part.view(b, t, self.n_heads, -1).transpose(1, 2) for part in self.qkv(self.norm1(x)).split(d, dim=-1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(b, t, d))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    """No biases, tied head, no dropout; weights start as nanoGPT's do."""

    def __init__(self, *, d_model: int, n_layers: int, n_heads: int, context: int, vocab_size: int):
        super().__init__()
        self.embed = nn.Embedding(vocab_size, d_model)
        self.positions = nn.Embedding(context, d_model)
        self.blocks = nn.ModuleList([Block(d_model, n_heads) for _ in range(n_layers)])
        self.norm = nn.LayerNorm(d_model, bias=False)
        for name, weight in self.named_parameters():
            if weight.dim() >= 2:
                onto_stream = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(weight, std=0.02 / (2 * n_layers) ** 0.5 if onto_stream else 0.02)

    def forward(self, tokens, targets):
        x = self.embed(tokens) + self.positions.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.norm(x), self.embed.weight)
        return F.cross_entropy(logits.reshape(-1, logits.shape[-1]).float(), targets.reshape(-1))


def optimizer(model: GPT, lr: float, betas=(0.9, 0.99), weight_decay: float = 0.1, fused: bool | None = None) -> torch.optim.AdamW:
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    rest = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=betas, fused=fused)


def parameters(model: GPT) -> int:
    return sum(p.numel() for p in model.parameters())


def export(model: GPT) -> dict:
    """The weights under the names and shapes of pikojax's classic `gpt` (blocks stacked, kernels [in, out])."""

    def stack(get):
        return torch.stack([get(block).detach().cpu() for block in model.blocks]).float().numpy()

    out = {f"blocks/{name}/kernel": stack(lambda b, n=name: getattr(b, n).weight.T) for name in ("qkv", "out", "up", "down")}
    out |= {f"blocks/{name}/scale": stack(lambda b, n=name: getattr(b, n).weight) for name in ("norm1", "norm2")}
    for name in ("embed", "positions", "norm"):
        key = "norm/scale" if name == "norm" else name
        out[key] = getattr(model, name).weight.detach().cpu().float().numpy()
    return out
