"""`pikojax bench train CONFIG --steps N`: how fast the bare training step is. Writes no run folder.

The config's own data, batch, optimizer and prefetching; the median of N steps after compiling and one more step to warm up.
Leaves out: evaluation, checkpoints and samples, which cost what their intervals say.

`pikojax bench matmul --format q4_0 --rows 1 --k 4096 --n 4096`: how fast weights of that format are read and multiplied, beside
the bandwidth of this machine's memory in the same minute, and how exact the product is. `--format float32` is XLA's own product.

`pikojax bench attention --cache int8 --slots 4096 --rows 1`: the same for the few newest tokens' attention to a cache.

`pikojax bench decode MODEL --prompt-tokens 512 --tokens 64 --against llama.cpp --peer-python PYTHON`: how fast a model writes and
reads a prompt, beside another program on the same file, in turn; `bench prefill` is the same with few tokens written. `bench speculative
MODEL --prompt TEXT --speculative lookup`: with a drafter beside without.
"""

import argparse
import statistics
import time

from pikojax.config import UserError, load_config, require

HELP = "measure speed: pikojax bench train CONFIG, matmul, attention; decode, prefill, speculative MODEL"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=tuple(WHATS), help="what to measure")
    parser.add_argument("items", nargs="*", metavar="MODEL, CONFIG or key=value", help="train: as `pikojax train`; lightllm if left out")
    parser.add_argument("--steps", type=int, metavar="N", help="train: steps to time (8)")
    parser.add_argument("--format", help="matmul: how the weights are stored (q4_0)")
    parser.add_argument("--rows", type=int, metavar="M", help="matmul, attention: rows of x, or new tokens (1)")
    parser.add_argument("--k", type=int, metavar="K", help="matmul: inputs (4096)")
    parser.add_argument("--n", type=int, metavar="N", help="matmul: outputs (4096)")
    parser.add_argument("--cache", help="attention: how slots are stored (int8)")
    parser.add_argument("--slots", type=int, metavar="S", help="attention: slots filled (4096)")
    parser.add_argument("--heads", type=int, metavar="H", help="attention: query heads (32)")
    parser.add_argument("--kv-heads", type=int, metavar="G", help="attention: heads of keys and values (8)")
    parser.add_argument("--width", type=int, metavar="C", help="attention: of a head (64)")
    parser.add_argument("--prompt-tokens", type=int, metavar="N", help="decode, prefill: random tokens to read first (512)")
    parser.add_argument("--tokens", type=int, metavar="N", help="decode, prefill, speculative: tokens to write (64; prefill 2)")
    parser.add_argument("--passes", type=int, metavar="N", help="decode, prefill, speculative: passes to take the median of (3)")
    parser.add_argument("--against", metavar="PEER", help="decode, prefill: llama.cpp or transformers, in turn with ours")
    parser.add_argument("--peer-python", metavar="PYTHON", help="an interpreter that has the peer")
    parser.add_argument("--speculative", metavar="DRAFTER", help="off, lookup, early-exit[=LAYERS], heads[=RUN], draft=MODEL")
    parser.add_argument("--prompt", metavar="TEXT", help="speculative: what to go on with")
    parser.add_argument("--temperature", type=float, metavar="T", help="speculative: 0 takes the likeliest token (0)")


def run(args: argparse.Namespace) -> dict:
    work, takes = WHATS[args.what]
    flag = lambda name: f"--{name.replace('_', '-')}"
    strange = [name for _, others in WHATS.values() for name in others if name not in takes and getattr(args, name) is not None]
    require(not strange, f"bench {args.what} takes no {flag(strange[0]) if strange else ''}; it takes {', '.join(map(flag, takes))}")
    given = {name: default if getattr(args, name) is None else getattr(args, name) for name, default in takes.items()}
    return work(argparse.Namespace(**{**vars(args), **given}))


def run_matmul(args: argparse.Namespace) -> dict:
    require(not args.items, f"bench matmul got {' '.join(args.items)!r}; it takes --format, --rows, --k and --n alone")
    from pikojax.kernels.measure_matmul import measure

    result = measure(args.format, args.rows, args.k, args.n, args.threads)
    print(
        f"{result['gb_per_s']:.1f} GB/s of weights ({result['of_bandwidth']:.0%} of the {result['read_bandwidth_gb_per_s']:.1f} GB/s that"
        f" memory gives), {result['gop_per_s']:,.0f} GOP/s, {result['call_s'] * 1e6:,.0f} µs a call, NMSE {result['nmse']:.1e},"
        f" {result['format']} by {result['kernel']}"
    )
    return result


def run_attention(args: argparse.Namespace) -> dict:
    require(not args.items, f"bench attention got {' '.join(args.items)!r}; it takes --cache, --slots, --rows, --heads, --kv-heads and --width")
    from pikojax.kernels.measure_attention import measure

    result = measure(args.cache, args.slots, args.rows, args.heads, args.kv_heads, args.width, args.threads)
    print(
        f"{result['gb_per_s']:.1f} GB/s of cache ({result['of_bandwidth']:.0%} of the {result['read_bandwidth_gb_per_s']:.1f} GB/s that memory"
        f" gives), {result['gop_per_s']:,.0f} GOP/s, {result['call_s'] * 1e6:,.0f} µs a call, NMSE {result['nmse']:.1e} (of the kernel alone"
        f" {result['nmse_kernel']:.1e}), {result['cache']} by {result['kernel']}"
    )
    return result


def run_decode(args: argparse.Namespace) -> dict:
    path, tokens = one_model(args), args.tokens
    from pikojax.infer import measure_decode
    from pikojax.native import cpu

    threads = args.threads or cpu.cores()
    require(args.against is not None or args.peer_python is None, "--peer-python is for a peer; name it with --against, or leave it out")
    if args.against:
        require(args.speculative == "off", "--against compares plain decoding; leave --speculative out")
        result = measure_decode.compare(path, args.against, args.peer_python, args.prompt_tokens, tokens, threads, args.passes)
        beside = f"; {result['decode_ratio']:.2f}× and {result['prefill_ratio']:.2f}× {args.against}"
    else:
        result = measure_decode.measure(path, args.prompt_tokens, tokens, threads, args.passes, args.speculative)
        beside = ""
    share = ""
    if result["of_bandwidth"] is not None:
        share = f" ({result['of_bandwidth']:.0%} of the {result['read_bandwidth_gb_per_s']:.1f} GB/s that memory gives)"
    print(
        f"{result['decode_tokens_per_s']:,.1f} tokens/s written{share},"
        f" {result['prefill_tokens_per_s']:,.0f} tokens/s of prompt read{beside};"
        f" the first token after {result['first_token_s']:.2f} s, {result['peak_rss_bytes'] / 1e9:.2f} GB of memory"
    )
    return result


def run_speculative(args: argparse.Namespace) -> dict:
    path = one_model(args)
    require(args.speculative != "off", "bench speculative needs --speculative lookup, early-exit[=LAYERS], heads or draft=MODEL")
    require(bool(args.prompt), "bench speculative needs --prompt TEXT: random tokens have nothing to be guessed")
    from pikojax.infer.measure_decode import measure_speculative

    result = measure_speculative(path, args.prompt, args.speculative, args.tokens, args.passes, args.temperature)
    print(
        f"{result['decode_tokens_per_s']:,.1f} tokens/s with {args.speculative}, {result['plain_tokens_per_s']:,.1f} without:"
        f" {result['speedup']:.2f}×, {result['accepted_per_round']:.2f} tokens a round,"
        f" {'the same text' if result['same_text'] else 'ANOTHER TEXT'}"
    )
    return result


def one_model(args: argparse.Namespace) -> str:
    wanted = "a run folder, a Hugging Face folder, a .gguf or an llama2.c .bin"
    require(len(args.items) == 1, f"bench {args.what} got {len(args.items)} models, wanted one: {wanted}")
    return args.items[0]


def run_train(args: argparse.Namespace) -> dict:
    files = [item for item in args.items if "=" not in item]
    if len(files) > 1:
        raise UserError(f"got {len(files)} configs ({' '.join(files)}), wanted one; settings are written key=value")
    require(args.steps >= 1, f"--steps {args.steps}; give 1 or more")
    result = bench_train(load_config(files[0] if files else "lightllm", [item for item in args.items if "=" in item]), args.steps)
    print(
        f"{result['tokens_per_s']:,.0f} tokens/s, {result['step_s'] * 1e3:,.1f} ms a step (fastest {result['fastest_step_s'] * 1e3:,.1f}),"
        f" loss {result['loss']:.3f} after {args.steps + 2} steps, {result['parameters'] / 1e6:.2f} M parameters,"
        f" compiled in {result['compile_s']:.1f} s, {result['device']}"
    )
    return result


def bench_train(config, n_steps: int) -> dict:
    import jax

    from pikojax.data import batches, open_dataset, resolve_vocab
    from pikojax.models.sharding import batch_sharding, make_mesh
    from pikojax.train.step import init_state, make_step

    dataset = open_dataset(config)
    config = resolve_vocab(config, dataset)
    mesh = make_mesh(config.mesh)
    state = init_state(config, mesh)
    n_parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    step = make_step(config, mesh)
    sharding = batch_sharding(mesh, batch_axis=1)
    seconds = []
    with batches.prefetch(dataset.train, config, 0, lambda batch: jax.device_put(batch, sharding)) as stream:
        for _ in range(n_steps + 2):
            start_s = time.perf_counter()
            state, metrics = step(state, next(stream))
            loss = float(metrics["loss"])  # waits for the step
            seconds.append(time.perf_counter() - start_s)
    compile_s, _, *timed = seconds
    step_s = statistics.median(timed)
    tokens = config.train.grad_accum * config.train.batch_size * config.model.context
    return {
        "tokens_per_s": tokens / step_s,
        "step_s": step_s,
        "fastest_step_s": min(timed),
        "slowest_step_s": max(timed),
        "loss": loss,
        "parameters": n_parameters,
        "steps": n_steps,
        "compile_s": compile_s,
        "device": jax.devices()[0].device_kind,
    }


SIZES = {"cache": "int8", "slots": 4096, "rows": 1, "heads": 32, "kv_heads": 8, "width": 64}
REQUEST = {"prompt_tokens": 512, "tokens": 64, "passes": 3, "against": None, "peer_python": None, "speculative": "off"}
WHATS = {  # what does it, the options that it takes and what they are where nothing is said
    "train": (run_train, {"steps": 8}),
    "matmul": (run_matmul, {"format": "q4_0", "rows": 1, "k": 4096, "n": 4096}),
    "attention": (run_attention, SIZES),
    "decode": (run_decode, REQUEST),
    "prefill": (run_decode, {**REQUEST, "tokens": 2}),
    "speculative": (run_speculative, {"tokens": 64, "passes": 3, "speculative": "off", "prompt": None, "temperature": 0.0}),
}
