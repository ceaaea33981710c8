"""GGUF beyond the plain Llama family: mixtures of experts, Phi-3's long contexts and partly rotated heads, SmolLM3; read, written, packed."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_gguf_model
import test_llama
from hf_folders import draw, saved, write_folder
from test_gguf_model import as_tensor, permuted

import pikojax
from pikojax.cli.main import main
from pikojax.config import UserError
from pikojax.formats import gguf, gguf_model, gguf_save, gguf_write, hf_write, huggingface
from pikojax.qtensor import QTensor, dequantize

SAVED, ABOUT = saved("hf_families.npz")
# As llama.cpp's converter spells it, written down anew here.
ARCHITECTURES = {"mixtral": "llama", "qwen2_moe": "qwen2moe", "qwen3_moe": "qwen3moe"}
ROUTERS = {"block_sparse_moe.gate": "ffn_gate_inp", "mlp.gate": "ffn_gate_inp", "mlp.shared_expert_gate": "ffn_gate_inp_shexp"}
SHARED = {f"mlp.shared_expert.{part}_proj": f"ffn_{part}_shexp" for part in ("gate", "up", "down")}
OF_EXPERTS = {"w1": "gate", "w3": "up", "w2": "down", "gate_proj": "gate", "up_proj": "up", "down_proj": "down"}


def converted(case: str) -> tuple[dict, dict[str, np.ndarray]]:
    """(metadata, tensors) as llama.cpp's converter makes them of a Hugging Face mixture."""
    config, tensors, experts = ABOUT[case]["config"], {}, {}
    arch = ARCHITECTURES[config["model_type"]]
    for name, shape in ABOUT[case]["tensors"].items():
        array = draw(name, tuple(shape))
        _, _, rest = name.partition("layers.")
        if not rest:
            tensors[test_gguf_model.TOPS[name]] = array
            continue
        layer, part = rest.split(".", 1)
        part, kind = part.rsplit(".", 1)
        if ".experts." in part:
            number, which = part.split(".experts.")[1].split(".")
            experts.setdefault(f"blk.{layer}.ffn_{OF_EXPERTS[which]}_exps.weight", {})[int(number)] = array
            continue
        if arch == "llama" and part.endswith(("q_proj", "k_proj")):
            array = permuted(array, config["num_attention_heads" if part.endswith("q_proj") else "num_key_value_heads"])
        array = array.reshape(-1) if part.endswith("shared_expert_gate") else array
        tensors[f"blk.{layer}.{(test_gguf_model.NAMES | ROUTERS | SHARED)[part]}.{kind}"] = array
    tensors |= {name: np.stack([parts[i] for i in range(len(parts))]) for name, parts in experts.items()}
    metadata = test_gguf_model.metadata_of(config, arch)
    found = {"expert_count": config.get("num_local_experts") or config["num_experts"], "expert_used_count": config["num_experts_per_tok"]}
    theirs = {"moe_intermediate_size": "expert_feed_forward_length", "shared_expert_intermediate_size": "expert_shared_feed_forward_length"}
    found |= {key: config[field] for field, key in theirs.items() if field in config}
    return metadata | {f"{arch}.{key}": value for key, value in found.items()}, tensors


def logits(cfg, params, saved=SAVED) -> np.ndarray:
    return np.asarray(jax.jit(lambda params: pikojax.catalog["llama"].forward(cfg, params, jnp.asarray(saved["tokens"]))[0].logits)(params))


@pytest.mark.parametrize("case", ["qwen2_moe", *(pytest.param(case, marks=pytest.mark.slow) for case in ("mixtral", "qwen3_moe"))])
def test_a_mixture_has_the_logits_of_transformers(case, tmp_path):
    metadata, tensors = converted(case)
    gguf_write.write(tmp_path / "m.gguf", metadata, [as_tensor(name, array) for name, array in tensors.items()])
    cfg, params = gguf_model.read(tmp_path / "m.gguf")
    assert np.abs(logits(cfg, params) - SAVED[case]).max() < 1e-4


@pytest.mark.parametrize("case", ARCHITECTURES)
def test_a_mixture_is_written_as_a_converter_makes_it(case, tmp_path):
    cfg, params = huggingface.read(write_folder(tmp_path / "hf", ABOUT[case]), dtype=None)
    gguf_save.save(tmp_path / "m.gguf", dataclasses.replace(cfg, window=None), params)  # Mixtral's, which llama.cpp would not apply
    opened, (metadata, tensors) = gguf.read(tmp_path / "m.gguf"), converted(case)
    assert opened.tensors.keys() == tensors.keys()
    for name, array in tensors.items():
        assert np.array_equal(opened.tensor(name), array), name
    for key, value in metadata.items():
        idle = key.endswith(("finetuned", "sliding_window")) or key.startswith("qwen") and key.endswith(".feed_forward_length")
        assert idle or opened.metadata[key] == (pytest.approx(value) if isinstance(value, float) else value), key


def wide(**more):
    """A mixture whose rows divide into blocks."""
    cfg = pikojax.config.LlamaConfig(d_model=64, n_layers=2, n_heads=4, d_hidden=64, vocab_size=40, context=64, tie=False, n_experts=4, d_expert=96, **more)
    shapes = jax.eval_shape(lambda: pikojax.catalog["llama"].init(cfg, jax.random.key(0)))
    return cfg, jax.tree_util.tree_map_with_path(lambda path, leaf: draw(str(path), leaf.shape) + ("scale" in str(path[-1])), shapes)


@pytest.mark.parametrize("more", [{"d_shared": 32, "qkv_bias": True, "norm_topk": False}, *(pytest.param(more, marks=pytest.mark.slow) for more in ({}, {"qk_norm": True}))])
def test_experts_are_packed_and_stay_packed(more, tmp_path):
    cfg, params = wide(**more)
    gguf_save.save(tmp_path / "m.gguf", cfg, params, "q8_0")
    again, found = gguf_model.read(tmp_path / "m.gguf")
    experts, wanted = found["blocks"][1]["experts"], params["blocks"]["experts"]
    assert dataclasses.replace(again, norm_eps=cfg.norm_eps, d_hidden=cfg.d_hidden) == cfg
    for name, shape in (("gate", (64, 96)), ("up", (64, 96)), ("down", (96, 64))):
        w = experts[name]["kernel"]
        assert isinstance(w, QTensor) and (w.format, w.shape, w.stack) == ("q8_0", shape, (4,))
        floats = wanted[name]["kernel"][1]
        assert np.abs(np.asarray(dequantize(w)) - floats).max() < np.abs(floats).max() / 250
    assert np.array_equal(experts["router"], wanted["router"][1])
    if "d_shared" in more:
        assert np.array_equal(experts["shared"]["weight"], wanted["shared"]["weight"][1]) and experts["shared"]["down"]["kernel"].shape == (32, 64)
    gguf_save.save(tmp_path / "again.gguf", again, found)  # as they are
    a, b = gguf.read(tmp_path / "m.gguf"), gguf.read(tmp_path / "again.gguf")
    assert all(np.array_equal(a.bytes_of(name), b.bytes_of(name)) for name in a.tensors)
    tokens_BT = np.arange(12, dtype=np.int32)[None]
    logits = np.asarray(pikojax.catalog["llama"].forward(cfg, params, tokens_BT)[0].logits)
    assert np.abs(pikojax.load(tmp_path / "m.gguf").logits(tokens_BT) - logits).max() < 0.05 * np.abs(logits).max()


LONGROPE = dict(rope_scaling="longrope", rope_original_context=32, rope_factor=2.0, rope_divisors=(1.0,) * 4, rope_long_divisors=(2.0,) * 4)


@pytest.mark.parametrize("change, part", [
    ({"norm_topk": False}, "architecture llama cannot say norm_topk = False"), ({"window": 8}, "a window of 8 tokens in a context of 64"),
    ({"d_shared": 32, "norm_topk": True}, "architecture qwen2moe cannot say norm_topk = True"),
    ({"d_shared": 32, "norm_topk": False, "d_head": 8}, "cannot say heads that are together 32 wide"), ({"qk_norm": True, "out_bias": True}, "cannot say biases"),
    ({"d_shared": 32, "norm_topk": False}, "qwen2moe cannot say qkv_bias = False"), ({"qk_norm": True, "qkv_bias": True}, "qwen3moe cannot say qkv_bias = True"),
    ({"rope_fraction": 0.5}, "llama cannot say rope_fraction = 0.5"), (LONGROPE | {"rope_fraction": 0.5}, "llama cannot say rope_scaling = longrope"),
    (LONGROPE | {"qk_norm": True, "rope_fraction": 0.5}, "qwen3moe cannot say rope_scaling = longrope"), ({"nope_every": 4}, "smollm3 cannot say n_experts = 4"),
])  # fmt: skip
def test_a_mixture_that_gguf_cannot_say_is_refused(change, part, tmp_path):
    cfg, params = wide(**change)
    with pytest.raises(UserError, match=part):
        gguf_save.save(tmp_path / "m.gguf", cfg, params)
    assert not list(tmp_path.iterdir())


def test_the_commands_write_a_mixture_packed(tmp_path, capsys):
    cfg, params = wide(qk_norm=True)
    folder, out = hf_write.write(tmp_path / "hf", cfg, params), tmp_path / "small.GGUF"  # a name in capitals is one too
    assert main(["quantize", str(folder), "-o", str(out), "--format", "q8_0", "--without-tokenizer"]) == 0
    found, tokens_BT = pikojax.load(out, ready=False), np.arange(12, dtype=np.int32)[None]
    assert found.params["blocks"][0]["experts"]["up"]["kernel"].format == "q8_0"
    wanted = np.asarray(pikojax.load(folder).logits(tokens_BT))
    assert np.abs(pikojax.load(out).logits(tokens_BT) - wanted).max() < 0.05 * np.abs(wanted).max()
    assert main(["convert", str(out), "-o", str(tmp_path / "again.gguf")]) == 0
    assert main(["info", str(out)]) == 0 and "experts" in capsys.readouterr().out


# ---------------------------------------------------------------- Phi-3, SmolLM3


@pytest.mark.parametrize("case", ("longrope", "smollm3", "phi3"))
def test_phi_3_and_smollm3_go_there_and_back(case, tmp_path):
    """Phi-3's window is as long as its context, or longer, in all but the first of its models: it hides nothing. SmolLM3 has one number of layers with
    positions there, three of four."""
    windows = {"phi3": 128, "longrope": 262144}
    cfg, params = huggingface.read(test_llama.write_folder(tmp_path / "hf", case, lambda config, tensors: config.update(sliding_window=windows.get(case))))
    assert cfg.window == windows.get(case) and cfg.context == 128
    cfg = dataclasses.replace(cfg, nope_every=cfg.nope_every and 4)
    wanted = logits(cfg, params, test_llama.SAVED)
    gguf_save.save(tmp_path / "m.gguf", cfg, params)
    opened = gguf.read(tmp_path / "m.gguf")
    names = {name.removeprefix("blk.0.") for name in opened.tensors}
    assert opened.metadata["general.architecture"] == ("smollm3" if case == "smollm3" else "phi3")
    assert ("attn_qkv.weight" in names) == ("ffn_gate.weight" not in names) == (case != "smollm3") and ("rope_factors_long.weight" in names) == (case == "longrope")
    again, found = gguf_model.read(tmp_path / "m.gguf")
    assert np.abs(logits(again, found, test_llama.SAVED) - wanted).max() < 1e-5 and again.nope_every == cfg.nope_every and again.window is None
    assert opened.metadata.get("phi3.attention.sliding_window") == (None if case == "smollm3" else 0), "some llama.cpp have one of their own where none is said"
    if case == "longrope":
        assert np.abs(wanted - test_llama.SAVED[case]).max() < 1e-4


def test_longrope_is_said_by_the_key_and_the_divisors_or_the_divisors_alone(tmp_path):
    """Newer converters write the key, older ones did not."""
    cfg, params = huggingface.read(test_llama.write_folder(tmp_path / "hf", "longrope"))
    gguf_save.save(tmp_path / "m.gguf", cfg, params)
    opened, key = gguf.read(tmp_path / "m.gguf"), "phi3.rope.scaling.type"
    assert opened.metadata[key] == "longrope"

    def without(*names):
        kept = [as_tensor(name, opened.tensor(name)) for name in opened.tensors if name not in names]
        gguf_write.write(tmp_path / "part.gguf", {name: value for name, value in opened.metadata.items() if name not in names}, kept)
        return gguf_model.read(tmp_path / "part.gguf")[0]

    assert without(key) == without() == gguf_model.read(tmp_path / "m.gguf")[0]
    of_short, of_long = gguf_model.FACTORS
    for names in ((of_short,), (of_long,), (of_short, of_long), (key, of_short)):
        with pytest.raises(UserError, match="by longrope, which needs rope_factors_short.weight and rope_factors_long.weight"):
            without(*names)


def test_matrices_that_are_joined_have_one_type(tmp_path):
    cfg, params = huggingface.read(test_llama.write_folder(tmp_path / "hf", "longrope"))
    types = {path: "f32" for path in gguf_save._matrices(cfg)}
    with pytest.raises(UserError, match="q, k, v are one matrix .* not f16 and f32"):
        gguf_save.save(tmp_path / "m.gguf", cfg, params, types=types | {"blocks/0/k/kernel": "f16"})
