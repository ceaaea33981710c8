"""How fast a model reads a prompt and writes: alone, beside another program on the same file, and with a drafter beside without.

    decode tokens/s  = (tokens − 1) ÷ (seconds of the whole request − seconds to its first token)
    prefill tokens/s = prompt ÷ seconds to the first token
    of bandwidth     = (bytes of weights + bytes of cache that a token reads) · decode tokens/s ÷ GB/s that memory gives, just before

A pass is a request to the engine with random token ids, greedy, past any end of text: Python, sampling and text are in it. A first, shorter
one compiles; medians of the others. `weight_bytes` is what a step reads: all but the table of tokens, unless that is the head too.
Sides that are compared come in turn, each turn in a process of its own.

Leaves out: mixtures of experts (all their weights are counted), sliding windows (all filled slots are), several devices.
"""

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from pikojax.config import UserError, require
from pikojax.infer.peer_decode import PEERS, peak_rss_bytes, random_ids

PASSES = 3
READINGS = 3  # of the bandwidth, before each pass
STEP_S = 0.1  # as `pikojax generate`: nobody else waits


def open_engine(path, speculative: str = "off"):
    """For one request at a time, none of which begins with what another one left."""
    from pikojax.infer.engine import Engine, EngineConfig

    return Engine.load(path, config=EngineConfig(slots=1, remember=False, step_s=STEP_S, speculative=speculative))


def measure(path, prompt_tokens: int, tokens: int, threads: int | None = None, passes: int = PASSES, speculative: str = "off") -> dict:
    require(passes >= 1, f"passes = {passes}; give 1 or more")
    engine = open_engine(path, speculative)
    check_length(engine, prompt_tokens, tokens)
    ids = random_ids(prompt_tokens, engine.cfg.vocab_size)
    compile_s = warm_up(engine, ids, tokens)
    found, bandwidths = [], []
    peak_bytes = peak_rss_bytes()  # before the bandwidth's own buffers
    for _ in range(passes):
        bandwidths.append(bandwidth_gb_per_s(threads))
        found.append(one_pass(engine, ids, tokens))
    return described(engine, found, bandwidths, prompt_tokens, tokens) | {
        "peak_rss_bytes": peak_bytes,
        "warm_up_s": compile_s,
        "threads": threads,
        "cache": engine.dtype,
    }


def check_length(engine, prompt_tokens: int, tokens: int) -> None:
    require(prompt_tokens >= 1 and tokens >= 2, f"got {prompt_tokens} prompt tokens and {tokens} to write; give 1 or more, and 2 or more")
    whole = prompt_tokens + tokens
    most = engine.context
    require(whole <= most, f"{prompt_tokens} + {tokens} tokens are {whole}, the model holds {most}; give a shorter prompt, or fewer --tokens")


def warm_up(engine, ids: list[int], tokens: int) -> float:
    """Compiles what a pass will call: blocks of a long prompt are all of one width but the last. → seconds"""
    from pikojax.infer.decode import BLOCK

    began_s = time.perf_counter()
    short = ids if len(ids) <= 2 * BLOCK else ids[: BLOCK + (len(ids) - 1) % BLOCK + 1]
    one_pass(engine, short, tokens)
    return time.perf_counter() - began_s


def one_pass(engine, prompt, tokens: int, temperature: float = 0.0, seed: int = 0) -> dict:
    began_s = time.perf_counter()
    written = engine.submit(prompt, max_tokens=tokens, temperature=temperature, seed=seed, ignore_eos=True).result()
    whole_s = time.perf_counter() - began_s
    found = {"first_token_s": written.first_token_s, "decode_s": whole_s - written.first_token_s, "ids": written.ids}
    return found | {"accepted_per_round": written.accepted_per_round}


def bandwidth_gb_per_s(threads: int | None) -> float | None:
    """None on an accelerator, whose memory this does not read."""
    import jax

    from pikojax.native.bandwidth import read_bandwidth_gb_per_s

    return read_bandwidth_gb_per_s(threads, None, READINGS) if jax.default_backend() == "cpu" else None


def described(engine, found: list[dict], bandwidths: list, prompt_tokens: int, tokens: int) -> dict:
    from pikojax.infer.sizes import weight_bytes

    weights, cache = weight_bytes(engine.params), cache_bytes_read(engine, prompt_tokens + tokens / 2)
    rates = [(tokens - 1) / one["decode_s"] for one in found]
    shares = [rate * (weights + cache) / 1e9 / b for rate, b in zip(rates, bandwidths, strict=True) if b is not None]
    first_s = statistics.median(one["first_token_s"] for one in found)
    return {
        "decode_tokens_per_s": statistics.median(rates),
        "prefill_tokens_per_s": prompt_tokens / first_s,
        "first_token_s": first_s,
        "prompt_tokens": prompt_tokens,
        "tokens": tokens,
        "weight_bytes": weights,
        "cache_bytes_read_per_token": cache,
        "read_bandwidth_gb_per_s": statistics.median(bandwidths) if shares else None,
        "of_bandwidth": statistics.median(shares) if shares else None,
        "accepted_per_round": found[-1]["accepted_per_round"],
        "decode_tokens_per_s_each": rates,
        "first_token_s_each": [one["first_token_s"] for one in found],
    }


def cache_bytes_read(engine, filled: float) -> int:
    """Of a row with so many slots filled."""
    import jax

    from pikojax.infer.pool import BLOCK

    whole = sum(leaf.nbytes for leaf in jax.tree.leaves((engine.cache.k_LBGSC, engine.cache.v_LBGSC)))
    return int(whole / (engine.pool.n_blocks * BLOCK) * filled)


# ---------------------------------------------------------------- in turn


def turn(side: str, python: str | None, path, prompt_tokens: int, tokens: int, threads: int, passes: int = 1) -> dict:
    """One side in a process of its own: "pikojax", or one of PEERS under `python`. → as `measure` names it"""
    if side == "pikojax":
        words = ["--prompt-tokens", prompt_tokens, "--tokens", tokens, "--threads", threads, "--passes", passes]
        return _last_json([sys.executable, "-m", "pikojax", "bench", "decode", path, *words, "--json"])
    # as text, since a script's folder comes first among what it imports, and ours has an `inspect` too
    script = Path(__file__).with_name("peer_decode.py").read_text(encoding="utf-8")
    found = _last_json([python, "-c", script, side, path, prompt_tokens, tokens, threads, passes])
    first_s = statistics.median(found["first_token_s"])
    return {
        "decode_tokens_per_s": (tokens - 1) / statistics.median(found["decode_s"]),
        "prefill_tokens_per_s": prompt_tokens / first_s,
        "first_token_s": first_s,
        "peak_rss_bytes": found["peak_rss_bytes"],
        "version": found["version"],
    }


def compare(path, peer: str, python: str | None, prompt_tokens: int, tokens: int, threads: int, rounds: int = PASSES) -> dict:
    """Ours and the peer in turn, `rounds` times each. → ours, the peer's under "against", and how many times the peer's rate ours is."""
    require(peer in PEERS, f"--against {peer}; choose from {', '.join(PEERS)}")
    require(rounds >= 1, f"passes = {rounds}; give 1 or more")
    require(python is not None, f"--against {peer} needs --peer-python, an interpreter that has it")
    sides = {"pikojax": [], peer: []}
    for _ in range(rounds):
        for side, found in sides.items():
            found.append(turn(side, python, path, prompt_tokens, tokens, threads))
            print(f"{side}: {found[-1]['decode_tokens_per_s']:.2f} tokens/s", file=sys.stderr, flush=True)
    ours, theirs = (medians(found) for found in sides.values())
    ratios = {f"{what}_ratio": ours[f"{what}_tokens_per_s"] / theirs[f"{what}_tokens_per_s"] for what in ("decode", "prefill")}
    return ours | ratios | {"peer": peer, "rounds": rounds, "against": theirs}


def medians(found: list[dict]) -> dict:
    """Of turns: the median of what was measured, and the last one's word for the rest."""
    measured = lambda name: all(isinstance(one[name], float) for one in found)
    return {name: statistics.median(one[name] for one in found) if measured(name) else found[-1][name] for name in found[-1]}


def _last_json(command: list) -> dict:
    root = str(Path(__file__).resolve().parents[2])  # so that the child finds this package, from whatever folder
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
    try:
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True, env=env)
    except OSError as error:
        raise UserError(f"{command[0]} does not start ({error.strerror}); give --peer-python an interpreter") from None
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise UserError(f"{Path(str(command[0])).name} failed: {said[-1].removeprefix('pikojax: ')}")
    return json.loads(done.stdout.strip().splitlines()[-1])


# ---------------------------------------------------------------- with a drafter, beside without


def with_drafter(plain, speculative: str):
    """The same model and weights, with a drafter."""
    from pikojax.infer.engine import Engine

    config = dataclasses.replace(plain.config, speculative=speculative)
    return Engine(plain.model, plain.cfg, plain.params, plain.tokenizer, config, framed=plain.framed, eos_ids=plain.eos_ids, home=plain.home)


def measure_speculative(path, prompt, speculative: str, tokens: int, passes: int = PASSES, temperature: float = 0.0) -> dict:
    plain = open_engine(path)
    return drafter_beside_plain(plain, with_drafter(plain, speculative), prompt, tokens, passes, temperature)


def drafter_beside_plain(plain, drafting, prompt, tokens: int, passes: int = PASSES, temperature: float = 0.0) -> dict:
    """In turn, within one process, over the same weights; the drafter's costs and widths were learnt in the pass before the first."""
    from pikojax.infer.request import prompt_ids

    require(passes >= 1, f"passes = {passes}; give 1 or more")
    if isinstance(prompt, str):
        require(plain.tokenizer is not None, "this model has no tokenizer; give the prompt as token ids")
        prompt = prompt_ids(plain.tokenizer, prompt, plain.context, plain.framed)
    check_length(plain, len(prompt), tokens)
    found = {"plain": [], "drafting": []}
    for number in range(passes + 1):
        for name, engine in (("plain", plain), ("drafting", drafting)):
            one = one_pass(engine, prompt, tokens, temperature)
            found[name] += [one] if number else []
    rates = {name: [(len(one["ids"]) - 1) / one["decode_s"] for one in ones] for name, ones in found.items()}
    return {
        "decode_tokens_per_s": statistics.median(rates["drafting"]),
        "plain_tokens_per_s": statistics.median(rates["plain"]),
        "speedup": statistics.median(a / b for a, b in zip(rates["drafting"], rates["plain"], strict=True)),
        "accepted_per_round": statistics.median(one["accepted_per_round"] for one in found["drafting"]),
        "same_text": all(one["ids"] == found["plain"][0]["ids"] for ones in found.values() for one in ones),
        "speculative": drafting.config.speculative,
        "tokens": len(found["plain"][0]["ids"]),
        "decode_tokens_per_s_each": rates["drafting"],
        "plain_tokens_per_s_each": rates["plain"],
    }
