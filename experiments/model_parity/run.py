"""How far are our logits from transformers', and our words from llama.cpp's? run.py [--peer-python PYTHON] [--run RUN] [--seconds N] [--quick]

PYTHON is an interpreter with torch, transformers and llama_cpp. It makes tiny random models, saves them, and says what it computes; here each is
read as the folder it was saved as and, where GGUF can say it, as the .gguf that is written from it:

    whole     prompts of several lengths, without a cache        cached    the same text in pieces over a cache
    padded    rows of several lengths in one batch: prefill, then token by token; for an encoder, with a mask

llama.cpp continues stories260K (in PIKOJAX_DATA), and the model of RUN if there is one, in the GGUF files that are written from them. `--quick` has
no peers: our own model stands for theirs. With --seconds no case is begun after so long: call again to go on.
"""

import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from trials import ROOT, Rows

import jax
import numpy as np

import pikojax
from pikojax.cli.convert import vocabulary
from pikojax.config import LlamaConfig, UserError
from pikojax.formats import gguf_save, hf_write
from pikojax.infer import decode
from pikojax.infer.generate import generate
from pikojax.infer.request import prompt_ids

HERE = Path(__file__).parent
PEERS = ROOT / "experiments" / "peers"
LENGTHS, PIECES, ROWS, SLOTS = (1, 7, 23, 56), (17, 1, 1, 37), (48, 23, 7), 64
STORIES = Path(os.environ.get("PIKOJAX_DATA") or ROOT.parent / "shared" / "data") / "stories260k" / "stories260K.bin"
TYPES = ("f32", "f16", "q8_0", "q6_k", "q4_k", "q4_0")
N_TOKENS = 200


def main(peer_python: str | None, run: str | None, limit_s: float, quick: bool) -> None:
    if peer_python is None and not quick:
        raise SystemExit("say which interpreter has torch, transformers and llama_cpp: --peer-python PYTHON")
    rows, began_s = Rows(HERE / "results.jsonl", quick), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        if peer_python:
            subprocess.run([peer_python, str(PEERS / "transformers_logits.py"), str(folder)], check=True)
        else:
            stand_in(folder)
        for file in sorted(folder.glob("*.npz")):
            if not rows.has(case=file.stem, format="huggingface") and time.monotonic() - began_s < limit_s:
                compare(rows, folder, file.stem, peer_python)
        for name, model in (("stories260K", STORIES), ("stories, trained here", Path(run) if run else None)):
            if peer_python and model is not None and model.exists() and time.monotonic() - began_s < limit_s:
                continue_with_llama_cpp(rows, folder, name, model, peer_python)


def stand_in(folder: Path) -> None:
    cfg = LlamaConfig(d_model=16, n_layers=1, n_heads=2, d_hidden=16, vocab_size=20, context=64)
    params = jax.tree.map(np.asarray, pikojax.catalog["llama"].init(cfg, jax.random.key(0)))
    loaded = pikojax.load(hf_write.write(folder / "llama", cfg, params))
    tokens_BT = np.random.default_rng(0).integers(0, 20, (3, LENGTHS[-1])).astype(np.int32)
    said = {f"whole_{n}": loaded.logits(tokens_BT[:, :n]) for n in LENGTHS} | {"padded": loaded.logits(tokens_BT[:, : max(ROWS)])}
    np.savez(folder / "llama.npz", **said, tokens=tokens_BT, lengths=np.array(ROWS))


# ---------------------------------------------------------------- transformers


def compare(rows: Rows, folder: Path, case: str, peer_python: str | None = None) -> None:
    said = dict(np.load(folder / f"{case}.npz"))
    largest, models = float(np.abs(said[f"whole_{LENGTHS[-1]}"]).max()), {"huggingface": folder / case}
    raw = pikojax.load(folder / case, ready=False)
    try:
        gguf_save.save(folder / f"{case}.gguf", raw.config, raw.params, None, {"tokenizer.ggml.model": "no_vocab"})
        models["gguf"] = folder / f"{case}.gguf"
    except UserError as error:
        rows.append(case=case, format="gguf", path="refused", why=str(error))
    if peer_python and "gguf" in models:  # the file means to others what it means here
        ids = said["tokens"][0].tolist()
        ask_llama_cpp(peer_python, "logits", models["gguf"], folder / "said.npy", ids)
        rows.append(case=case, format="gguf", path="read by llama.cpp", max_delta=apart(np.load(folder / "said.npy"), said[f"whole_{len(ids)}"][0]), largest_logit=largest)
    for format, path in reversed(models.items()):  # the folder's rows last: they say that the case is done
        loaded = pikojax.load(path)
        ways = {"whole": whole, "cached": cached, "padded": padded} if loaded.model.new_cache else {"whole": encoded, "padded": encoded_rows}
        for name, way in ways.items():
            rows.append(case=case, format=format, path=name, max_delta=way(loaded, said), largest_logit=largest)


def whole(loaded, said) -> float:
    return max(apart(loaded.logits(said["tokens"][:, :n]), said[f"whole_{n}"]) for n in LENGTHS)


def cached(loaded, said) -> float:
    cache, at, worst = loaded.model.new_cache(loaded.config, 3, SLOTS), 0, 0.0
    for n in PIECES:
        out, cache = step(loaded.model.forward, loaded.config, loaded.params, said["tokens"][:, at : at + n], cache)
        worst, at = max(worst, apart(out.logits, said[f"whole_{LENGTHS[-1]}"][:, at : at + n])), at + n
    return worst


def padded(loaded, said) -> float:
    """Prefill is held against transformers' padded batch, what follows against its rows, each computed whole."""
    tokens_BT, length_B, wanted_BTV, rows_B = said["tokens"], said["lengths"].astype(np.int32), said[f"whole_{LENGTHS[-1]}"], np.arange(3)
    cache = loaded.model.new_cache(loaded.config, 3, SLOTS)
    logits_BV, cache = decode.prefill(loaded.model, loaded.config, loaded.params, cache, tokens_BT[:, : length_B.max()], length_B)
    worst = apart(logits_BV, said["padded"][rows_B, length_B - 1])
    for i in range(8):
        out, cache = step(loaded.model.forward, loaded.config, loaded.params, tokens_BT[rows_B, length_B + i][:, None], cache)
        worst = max(worst, apart(out.logits[:, 0], wanted_BTV[rows_B, length_B + i]))
    return worst


@functools.partial(jax.jit, static_argnums=(0, 1))
def step(forward, cfg, params, tokens_BT, cache):
    return forward(cfg, params, tokens_BT, cache)


def encoded(loaded, said) -> float:
    hidden = lambda n: loaded.model.forward(loaded.config, loaded.params, said["tokens"][:, :n])[0].hidden
    return max(apart(hidden(n), said[f"whole_{n}"]) for n in LENGTHS)


def encoded_rows(loaded, said) -> float:
    mask_BT = (np.arange(said["lengths"].max()) < said["lengths"][:, None]).astype(np.int32)
    out, _ = loaded.model.forward(loaded.config, loaded.params, said["tokens"][:, : mask_BT.shape[1]] * mask_BT, segments_BT=mask_BT)
    return apart(np.asarray(out.hidden)[mask_BT > 0], said["padded"][mask_BT > 0])


def apart(ours, theirs) -> float:
    return float(np.abs(np.asarray(ours) - theirs).max())


# ---------------------------------------------------------------- llama.cpp


def ask_llama_cpp(peer_python: str, verb: str, file: Path, third, ids: list[int]) -> dict:
    done = subprocess.run([peer_python, str(PEERS / "ask_llama_cpp.py"), verb, str(file), str(third), *map(str, ids)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def continue_with_llama_cpp(rows: Rows, folder: Path, name: str, model: Path, peer_python: str) -> None:
    raw = pikojax.load(model, ready=False)
    for type in TYPES:
        if rows.has(case=name, format=f"gguf {type}", path="llama.cpp"):
            continue
        file = folder / f"{type}.gguf"
        gguf_save.save(file, raw.config, raw.params, type, vocabulary(raw))
        loaded = pikojax.load(file)
        ids = prompt_ids(loaded.tokenizer, "", loaded.config.context, True)
        n_tokens = min(N_TOKENS, loaded.config.context - len(ids))
        ours = generate(loaded.model, loaded.config, loaded.params, loaded.tokenizer, "", max_tokens=n_tokens, temperature=0, framed=True)
        said = ask_llama_cpp(peer_python, "greedy", file, n_tokens, ids)
        theirs = [id for id in said["tokens"] if id != loaded.tokenizer.eos_id]
        same = next((i for i, (a, b) in enumerate(zip(ours.ids, theirs)) if a != b), min(len(ours.ids), len(theirs)))
        margin = None if same >= len(theirs) else said["logits"][same][0] - said["logits"][same][1]
        rows.append(case=name, format=f"gguf {type}", path="llama.cpp", tokens=len(theirs), same_tokens=same, margin_where_apart=margin, bytes=file.stat().st_size)


if __name__ == "__main__":
    words = sys.argv[1:]
    value = lambda flag: words[words.index(flag) + 1] if flag in words else None
    main(value("--peer-python"), value("--run"), float(value("--seconds") or "inf"), "--quick" in words)
