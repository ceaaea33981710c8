"""The Llama family: what transformers computes, from Hugging Face folders, with a cache and without, stacked and not; llama2.c's model word for word."""

import json
import os
from dataclasses import replace
from pathlib import Path

import hf_folders
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hf_folders import in_pieces

from pikojax.config import LlamaConfig, UserError
from pikojax.formats import hf_config, huggingface, llama2c
from pikojax.models import layers, llama
from pikojax.text.tokenizer import Tokenizer

STORIES = Path(os.environ.get("PIKOJAX_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data") / "stories260k"
SAVED, ABOUT = hf_folders.saved("llama_family.npz")


def write_folder(folder: Path, case: str, change=lambda config, tensors: None, shards: int = 1) -> Path:
    return hf_folders.write_folder(folder, ABOUT[case], change, shards)


FAST, STACKED = ("llama3", "gemma2"), ("llama3", "gemma2", "gemma3")


@pytest.mark.parametrize("case", [case if case in FAST else pytest.param(case, marks=pytest.mark.slow) for case in ABOUT])
def test_logits_are_those_of_transformers(case, tmp_path):
    cfg, params = huggingface.read(write_folder(tmp_path / "m", case))
    tokens_BT, wanted = jnp.asarray(SAVED["tokens"]), SAVED[case]
    whole = jax.jit(lambda params: llama.forward(cfg, params, tokens_BT)[0].logits)
    assert np.abs(np.asarray(whole(params)) - wanted).max() < 1e-4
    if case in STACKED:
        stacked = {**params, "blocks": jax.tree.map(lambda *leaves: jnp.stack(leaves), *params["blocks"])}
        assert np.abs(np.asarray(whole(stacked)) - wanted).max() < 1e-4
    assert np.abs(in_pieces(cfg, params, tokens_BT, (19, 1, 1, 19)) - wanted).max() < 1e-4  # two programs


def test_shards_and_half_precision(tmp_path):
    wanted = huggingface.read(write_folder(tmp_path / "one", "qwen2"))
    found = huggingface.read(write_folder(tmp_path / "two", "qwen2", shards=3))
    assert found[0] == wanted[0] and all(map(np.array_equal, jax.tree.leaves(found[1]), jax.tree.leaves(wanted[1])))

    def halve(config, tensors):
        tensors.update({name: array.astype(np.float16) for name, array in tensors.items()})

    half = huggingface.read(write_folder(tmp_path / "half", "qwen2", halve), dtype=None)[1]
    assert {leaf.dtype for leaf in jax.tree.leaves(half)} == {np.dtype(np.float16)}


def test_bfloat16_is_read_bit_for_bit(tmp_path):
    import ml_dtypes

    short = lambda config, tensors: tensors.update({name: array.astype(ml_dtypes.bfloat16) for name, array in tensors.items()})
    found = huggingface.read(write_folder(tmp_path / "m", "llama", short))[1]
    assert np.array_equal(found["embed"], hf_folders.draw("model.embed_tokens.weight", found["embed"].shape).astype(ml_dtypes.bfloat16).astype(np.float32))


def test_norms_of_gemma_gain_their_1_in_float32(tmp_path):
    import ml_dtypes

    name, tiny = "model.norm.weight", 0.00390625 + 2**-10  # which 1 + … of bfloat16 rounds away
    write = lambda config, tensors: tensors.update({name: np.full_like(tensors[name], tiny).astype(ml_dtypes.bfloat16)})
    found = huggingface.read(write_folder(tmp_path / "m", "gemma2", write), dtype=None)[1]["norm"]["scale"]
    assert found.dtype == np.float32 and np.all(found == np.float32(1 + tiny))


CHANGES = {
    "model_type": (dict(model_type="parrot"), "'parrot'"),
    "unknown field": (dict(residual_multiplier=0.2), "residual_multiplier = 0.2"),
    "activation": (dict(hidden_act="sin"), "'sin'"),
    "scaling": (dict(rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4}), "'dynamic'"),
    "lists": (dict(rope_parameters={"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0]}), "rope_divisors"),
    "scaling's field": (dict(rope_parameters={"rope_type": "linear", "factor": 2.0, "wobble": 3}), "wobble"),
    "size": (dict(hidden_size=-1), "hidden_size = -1"),
    "layers": (dict(num_hidden_layers=4), "lacks the tensor layers.3"),
    "fewer layers": (dict(num_hidden_layers=2), "layers.2"),
    "width": (dict(intermediate_size=64), "wants"),
    "kinds": (dict(layer_types=["linear_attention"] * 3), "linear_attention"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_is_not_known_is_refused_by_name(what, tmp_path):
    values, part = CHANGES[what]
    folder = write_folder(tmp_path / "m", "llama", lambda config, tensors: config.update(values))
    with pytest.raises(UserError) as caught:
        huggingface.read(folder)
    assert part in str(caught.value) and "\n" not in str(caught.value)


ODD = (5, "x", [], {}, [1], {"a": 1}, 0, -1, 1e400, True, None, "\n", 10**30, 0.5)


@pytest.mark.parametrize("case", ABOUT)
def test_odd_values_make_a_config_or_one_line(case):
    config = ABOUT[case]["config"]
    assert hf_config.to_config(config).n_layers == config["num_hidden_layers"]
    changed = [config | {name: value} for name in [*config, "rope_theta", "rope_scaling", "rope_local_base_freq"] for value in ODD]
    for part, inner in (config.get("rope_parameters") or {}).items():
        changed += [config | {"rope_parameters": config["rope_parameters"] | {part: value}} for value in ODD]
        for name in inner if isinstance(inner, dict) else ():
            changed += [config | {"rope_parameters": config["rope_parameters"] | {part: {**inner, name: value}}} for value in ODD]
    hf_folders.each_makes_a_config_or_one_line(changed)


SHORT = dict(vocab_size=48, hidden_size=32, intermediate_size=56, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128)
ABSENT = {  # what a family has where its config says nothing
    "llama": dict(window=None, norm_eps=1e-6, d_head=8, tie=False),
    "mistral": dict(window=4096, global_every=None, d_head=8),
    "qwen2": dict(window=None, qkv_bias=True, out_bias=False),
    "qwen3": dict(window=None, d_head=128),
    "phi3": dict(window=None, norm_eps=1e-5),
    "gemma2": dict(window=4096, global_every=2, d_head=256, attention_softcap=50, softcap=30, attention_scale=1 / 16, tie=True),
    "gemma3_text": dict(window=4096, d_head=256, attention_softcap=None, softcap=None, attention_scale=1 / 16, rope_base=1e6, rope_base_local=1e4),
}


@pytest.mark.parametrize("family", ABSENT)
def test_what_is_absent_is_as_transformers_has_it(family):
    more = dict(num_hidden_layers=6) if family == "gemma3_text" else {}
    found = hf_config.to_config(SHORT | {"model_type": family} | more)
    assert {name: getattr(found, name) for name in ABSENT[family]} == ABSENT[family]


def test_fields_of_windows():
    config = lambda family, **more: hf_config.to_config(SHORT | {"model_type": family} | more)
    nothing = dict(attn_logit_softcapping=None, final_logit_softcapping=None)
    assert config("gemma2", **nothing).softcap is None and config("mistral", sliding_window=None).window is None
    assert config("llama", sliding_window=7).window is None and config("qwen3", sliding_window=7).window is None
    assert config("qwen2", use_sliding_window=True).window is None  # the first 28 layers see all
    assert config("qwen2", use_sliding_window=True, max_window_layers=0, sliding_window=9).window == 9
    assert config("gemma3_text", _sliding_window_pattern=3).global_every == 3 and config("gemma2", sliding_window_size=4096).window == 4096
    for family, more, part in (
        ("qwen2", dict(use_sliding_window=True, max_window_layers=1), "no regular pattern"), ("gemma2", dict(sliding_window_size=9), "twice"),
        ("gemma3_text", dict(rope_parameters={"full_attention": {}, "sliding_attention": {"rope_type": "linear", "factor": 2}}), "local layers by 'linear'"),
        ("llama", dict(_wobble=1), "_wobble = 1"), ("smollm3", dict(no_rope_layers=[0, 0, 1]), "no_rope_layers"), ("phi3", dict(attention_bias=True), "attention_bias = True"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=part):
            config(family, **more)


@pytest.mark.parametrize("name", ("rope_beta_fast", "rope_beta_slow", "rope_attention_factor"))
def test_what_yarn_divides_and_multiplies_by_is_above_0(name):
    with pytest.raises(UserError, match=f"model.{name} = 0"):
        LlamaConfig(**{name: 0.0})


def test_older_and_newer_ways_of_writing_positions_agree(tmp_path):
    def old(config, tensors):
        both = config.pop("rope_parameters")
        config |= {"rope_theta": both.pop("rope_theta"), "rope_scaling": {"type": both.pop("rope_type"), **both}}

    for case in ("llama3", "linear", "yarn", "llama"):
        new = huggingface.read(write_folder(tmp_path / case, case))[0]
        assert huggingface.read(write_folder(tmp_path / f"{case}-old", case, old))[0] == new


def test_folders_without_weights(tmp_path):
    folder = write_folder(tmp_path / "m", "llama")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="no \\*.safetensors"):
        huggingface.read(folder)
    (folder / "pytorch_model.bin").write_bytes(b"PK\x03\x04")
    with pytest.raises(UserError, match="a pickle; loading one runs code"):
        huggingface.read(folder)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../../secret.safetensors"}}))
    with pytest.raises(UserError, match="weight_map"):
        huggingface.read(folder)


def test_an_earlier_token_never_sees_a_later_one_and_a_window_forgets():
    cfg = LlamaConfig(d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, vocab_size=16, context=32, window=4, global_every=None)
    params = jax.jit(llama.init, static_argnums=0)(cfg, jax.random.key(0))
    tokens_BT = jax.random.randint(jax.random.key(1), (1, 20), 0, 16)
    logits = jax.jit(lambda tokens_BT: llama.forward(cfg, params, tokens_BT)[0].logits)
    changed = tokens_BT.at[0, 10].set((tokens_BT[0, 10] + 1) % 16)
    moved = np.abs(np.asarray(logits(tokens_BT) - logits(changed))).max(axis=(0, 2)) > 0
    assert not moved[:10].any() and moved[10] and not moved[10 + 2 * 3 + 1 :].any()  # two layers see 3 tokens back each


@pytest.mark.parametrize("context, far", [(64, False), (128, True), (None, True)])
def test_the_engine_divides_by_what_its_context_asks_for(context, far):
    """As long as the first training's, it takes the divisors of short texts, as the model without a cache does; longer, the others."""
    from pikojax.infer.engine import Engine, EngineConfig

    longrope = dict(rope_scaling="longrope", rope_original_context=64, rope_factor=4.0, rope_divisors=(1.0, 1.1, 1.2, 1.3), rope_long_divisors=(3.0, 5.0, 7.0, 9.0))
    cfg = LlamaConfig(d_model=32, n_layers=2, n_heads=4, d_hidden=64, vocab_size=32, context=256, **longrope)
    shapes = jax.eval_shape(lambda: llama.init(cfg, jax.random.key(0)))
    params = jax.tree_util.tree_map_with_path(lambda path, leaf: 3 * hf_folders.draw(str(path), leaf.shape) + ("scale" in str(path[-1])), shapes)
    always = replace(cfg, rope_divisors=cfg.rope_long_divisors) if far else cfg
    step = jax.jit(lambda tokens_BT: llama.forward(always, params, tokens_BT)[0].logits.argmax(-1))
    ids = list(range(7, 31)) + [3] * 16
    while len(ids) < 64:
        tokens_BT = np.zeros((1, 64), np.int32)
        tokens_BT[0, : len(ids)] = ids
        ids.append(int(step(tokens_BT)[0, len(ids) - 1]))
    engine = Engine(llama.MODEL, cfg, params, None, EngineConfig(slots=1, context=context))
    assert engine.generate(ids[:40], max_tokens=24, temperature=0).ids == ids[40:]


@pytest.mark.slow
def test_training_reaches_every_weight():
    cfg = LlamaConfig(d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, vocab_size=16, context=32, qkv_bias=True, qk_norm=True, post_norms=True, tie=False)
    params = jax.jit(llama.init, static_argnums=0)(cfg, jax.random.key(0))
    tokens_BT = jax.random.randint(jax.random.key(1), (2, 12), 0, 16)

    def loss(params):
        logits_BTV = llama.forward(cfg, params, tokens_BT)[0].logits
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits_BTV[:, :-1]), tokens_BT[:, 1:, None], axis=-1))

    gradients = jax.jit(jax.grad(loss))(params)
    assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(gradients))
    assert jax.tree.structure(llama.axes(cfg), is_leaf=lambda x: isinstance(x, tuple)) == jax.tree.structure(params)


# ---------------------------------------------------------------- llama2.c


def stories():
    if not (STORIES / "stories260K.bin").is_file():
        pytest.skip(f"no {STORIES}")
    cfg, params = llama2c.read(STORIES / "stories260K.bin")
    return cfg, params, Tokenizer.from_tree(llama2c.read_tokenizer(llama2c.tokenizer_beside(STORIES / "stories260K.bin"), cfg.vocab_size))


def test_200_greedy_tokens_of_stories260k():
    cfg, params, tok = stories()

    @jax.jit
    def step(params, token_BT, cache):
        out, cache = llama.forward(cfg, params, token_BT, cache)
        return jnp.argmax(out.logits[:, -1:], axis=-1).astype(jnp.int32), cache

    params = jax.tree.map(jnp.asarray, layers.unstack(params) if isinstance(params["blocks"], dict) else params)
    cache, token_BT, ids = llama.new_cache(cfg, 1, 208), jnp.array([[1]], jnp.int32), []
    for _ in range(200):
        token_BT, cache = step(params, token_BT, cache)
        ids.append(int(token_BT[0, 0]))
    assert tok.decode(ids) == (STORIES / "expected_greedy_200.txt").read_text().removesuffix("\n")


def test_damaged_llama2c_files_are_one_line(tmp_path):
    stories()
    whole, file = (STORIES / "stories260K.bin").read_bytes(), tmp_path / "m.bin"
    for data, part in ((whole[:-4], "sizes make"), (whole[:-1], "cut short"), (whole + bytes(4), "sizes make"), (whole[:20], "seven sizes"),
                       (b"24ka" + whole[4:], "later version"), (b"\xff" * 28 + whole[28:], "seven sizes"), (whole[:28], "sizes make")):  # fmt: skip
        file.write_bytes(data)
        with pytest.raises(UserError, match=part):
            llama2c.read(file)
    pieces = (STORIES / "tok512.bin").read_bytes()
    for data, size in ((pieces[:-1], 512), (pieces, 511), (pieces, 513), (b"", 512), (pieces, 100)):
        file.write_bytes(data)
        with pytest.raises(UserError):
            llama2c.read_tokenizer(file, size)


def test_a_width_of_640_is_no_pickle(tmp_path):
    sizes, file = (640, 32, 1, 10, 10, 300, 8), tmp_path / "m.bin"
    n_weights = 300 * 640 + 3 * 640 + 4 * 640 * 640 + 3 * 640 * 32 + 8 * 64
    file.write_bytes(llama2c.HEADER.pack(*sizes) + bytes(4 * n_weights))
    assert file.read_bytes()[:2] == b"\x80\x02" and llama2c.read(file)[0].d_model == 640
