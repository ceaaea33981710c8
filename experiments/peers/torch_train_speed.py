"""The LightLLM training step in PyTorch: torch_train_speed.py eager|compile STEPS [WIDTH] [--gpu]. Prints one JSON line with each step's seconds."""

import json
import sys
import time

import torch
import torch_gpt

VOCAB, CONTEXT, BATCH, WIDTH = 65, 256, 8, 384


def main(mode: str, steps: int, width: int, gpu: bool) -> None:
    device = "cuda" if gpu else "cpu"
    torch.manual_seed(0)
    if not gpu:
        torch.set_num_threads(2)
    model = torch_gpt.GPT(d_model=width, n_layers=6, n_heads=width // 64, context=CONTEXT, vocab_size=VOCAB).to(device)
    optimizer = torch_gpt.optimizer(model, 1e-3, fused=True)
    forward = torch.compile(model) if mode == "compile" else model
    data = torch.randint(0, VOCAB, (steps + 3, BATCH, CONTEXT + 1), device=device)

    def step(rows):
        began_s = time.perf_counter()
        with torch.autocast("cuda", torch.bfloat16, enabled=gpu):
            loss = forward(rows[:, :-1], rows[:, 1:])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        loss.item()  # waits for the step
        return time.perf_counter() - began_s

    times = [step(rows) for rows in data]
    print(json.dumps({"step_s": times[3:], "first_s": times[0], "parameters": torch_gpt.parameters(model)}))


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != "--gpu"]
    main(words[0], int(words[1]), int(words[2]) if len(words) > 2 else WIDTH, "--gpu" in sys.argv)
