"""`pikojax quantize`: what is rounded for a text loses less of what that text sees; files that load as any model does, whole or not there."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_run
from test_load import word_level

import pikojax
from pikojax.cli.main import main
from pikojax.config import GPTConfig, LlamaConfig, UserError
from pikojax.formats import gguf, hf_write, importance, quantized
from pikojax.formats import run as runs
from pikojax.models import catalog, layers
from pikojax.qtensor import FORMATS, QTensor, dequantize, quantize
from pikojax.quant import feedback, pack, quantize_tree, rules_for
from pikojax.quant.observe import observed

SHAPE = dict(d_model=64, n_layers=2, n_heads=2, n_kv_heads=1, d_hidden=96, vocab_size=48, context=32)
CONFIGS = {
    "llama": LlamaConfig(**SHAPE, tie=False),
    "mixture": LlamaConfig(**SHAPE, n_experts=3, n_experts_used=2),
    "gpt": GPTConfig(**SHAPE, positions="rope", norm="rmsnorm", qk_norm=True, activation="relu2"),
}
TOKENS = np.random.default_rng(0).integers(0, 48, (4, 16)).astype(np.int32)


def params_of(name: str) -> dict:
    """Loud enough for every matrix to matter."""
    cfg, rng = CONFIGS[name], np.random.default_rng(1)
    shapes = jax.eval_shape(lambda: catalog[cfg.name].init(cfg, jax.random.key(0)))
    return jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32) + (leaf.ndim < 3) * np.float32(len(leaf.shape) == 2), shapes)


def drawn(K: int, N: int, n_inputs: int = 400):
    """(weights, inputs that depend on one another and differ in size)."""
    rng = np.random.default_rng(K)
    x_RK = rng.normal(size=(n_inputs, K)) @ (np.eye(K) + rng.normal(0, 1.5 / K**0.5, (K, K))) * np.exp(rng.normal(0, 1, K))
    return rng.normal(size=(K, N)).astype(np.float32), x_RK.astype(np.float32)


def output_error(w_KN, q: QTensor, x_RK) -> float:
    off = x_RK @ (np.asarray(dequantize(jax.tree.map(jnp.asarray, q))) - w_KN)
    return float(np.square(off).sum() / np.square(x_RK @ w_KN).sum())


# ---------------------------------------------------------------- rounding


rarely = lambda *names: [pytest.param(*(name if isinstance(name, tuple) else (name,)), marks=pytest.mark.exhaustive) for name in names]


@pytest.mark.parametrize("format", ["q4_0", *rarely("q4_k", "nf4", "int4a_g32", "int4_g64", "q5_1", "q6_k", "int8", "q8_0")])
def test_what_is_rounded_for_its_inputs_sends_on_more_nearly_what_it_should(format):
    """On inputs that were not looked at, too. 256 inputs fill every format's block."""
    w_KN, x_RK = drawn(256, 24, 1200)
    seen_RK, new_RK = x_RK[:800], x_RK[800:]
    gram_KK = seen_RK.T @ seen_RK / len(seen_RK)
    nearest, weighed, fed = (
        output_error(w_KN, q, new_RK)
        for q in (quantize(w_KN, format), quantize(w_KN, format, np.diagonal(gram_KK)), feedback.quantize(w_KN, format, gram_KK))
    )
    assert fed < 0.75 * nearest
    if format in ("q4_0", "q4_k", "q5_1", "q6_k", "int4a_g32", "int4_g64"):  # the others have no scales to search
        assert fed < weighed < 0.97 * nearest


def test_the_feedback_is_the_least_squares_answer():
    """Against the rule written down anew: after each input the inverse of what is left of H. 70 inputs: more than are rounded at once, no whole block."""
    w_KN, x_RK = drawn(70, 5)
    gram_KK = x_RK.T @ x_RK / len(x_RK)
    found = np.asarray(dequantize(feedback.quantize(w_KN, "int8", gram_KK)))
    hessian = gram_KK.astype(np.float64) + feedback.DAMPING * gram_KK.diagonal().mean() * np.eye(70)
    step_N = np.abs(w_KN).max(axis=0) / 127
    left, w_KN, wanted = sorted(range(70), key=lambda i: -gram_KK[i, i]), w_KN.astype(np.float64), np.zeros((70, 5))
    while left:
        inverse, i = np.linalg.inv(hessian[np.ix_(left, left)]), left[0]
        wanted[i] = np.clip(np.round(w_KN[i] / step_N), -127, 127) * step_N
        w_KN[left] -= np.outer(inverse[0] / inverse[0, 0], w_KN[i] - wanted[i])
        left = left[1:]
    assert np.mean(np.abs(found - wanted) > 1e-6) < 0.02  # halves may fall either way
    assert np.abs(found - wanted).max() < 1.01 * step_N.max()


@pytest.mark.parametrize("format", ["int4_g32", *rarely("q4_k", "q6_k", "int4a_g32")])
def test_an_importance_that_is_the_same_for_all_changes_nothing(format):
    w_KN, _ = drawn(256, 8)
    plain, weighed = quantize(w_KN, format), quantize(w_KN, format, np.full(256, 4.0, np.float32))
    assert all(map(np.array_equal, jax.tree.leaves(plain), jax.tree.leaves(weighed)))


def test_large_matrices_are_packed_in_parts_with_the_same_bits(monkeypatch):
    w_KN, _ = drawn(64, 40)
    stack = np.stack([w_KN, -w_KN])
    whole = quantize(stack, "int4_g32")
    monkeypatch.setattr(pack, "WEIGHTS_AT_ONCE", 64 * 12)
    parts, error = pack.in_parts(stack, "int4_g32")
    assert parts.stack == (2,) and all(map(np.array_equal, jax.tree.leaves(whole), jax.tree.leaves(parts)))
    assert error == pytest.approx(pack.error_of(pack.in_parts(w_KN, "int4_g32")[0], w_KN), rel=0.2) and error > 0.01
    table, _ = pack.in_parts(w_KN, "int8", table=True)
    assert table.shape == (40, 64) and np.allclose(dequantize(table).T, w_KN, atol=0.05)


# ---------------------------------------------------------------- what a text sends into each matrix


def test_the_inputs_of_each_matrix_are_seen_layer_by_layer():
    """Of layer 1, as they are behind what layer 0 was rounded to: of one that is rounded to nothing, what came into it."""
    cfg, params = CONFIGS["llama"], pack.by_layers(params_of("llama"))
    walk = observed(catalog["llama"], cfg, params, TOKENS)
    seen = next(walk)
    assert set(seen) == {f"{name}/kernel" for name in ("q", "k", "v", "out", "gate", "up", "down")}
    x_BTD = params["embed"][TOKENS]
    normed = lambda layer: np.asarray(layers.rms_norm(jnp.asarray(x_BTD), jnp.asarray(params["blocks"][layer]["norm1"]["scale"]))).reshape(-1, 64)
    gram = lambda x_RK: x_RK.T @ x_RK / len(x_RK)
    np.testing.assert_allclose(seen["q/kernel"].gram, gram(normed(0)), atol=1e-4)
    np.testing.assert_allclose(seen["v/kernel"].importance, gram(normed(0)).diagonal(), rtol=1e-4)
    assert seen["down/kernel"].gram.shape == (96, 96)
    silent = jax.tree_util.tree_map_with_path(lambda path, leaf: leaf * (path[0].key not in ("out", "down")), params["blocks"][0])
    seen = walk.send(silent)
    np.testing.assert_allclose(seen["q/kernel"].gram, gram(normed(1)), atol=1e-4)
    with pytest.raises(StopIteration):
        walk.send(params["blocks"][1])


@pytest.mark.slow
def test_experts_are_weighed_one_by_one():
    cfg, params = CONFIGS["mixture"], pack.by_layers(params_of("mixture"))
    seen = next(observed(catalog["llama"], cfg, params, TOKENS))
    up = seen["experts/up/kernel"]
    assert up.importance.shape == (3, 64) and up.gram is None and seen["q/kernel"].gram is not None
    assert not np.allclose(up.importance[0], up.importance[1], rtol=0.05)
    planned = pack.plan(params, rules_for("int4_g32"))
    packed = next(pack.calibrated(catalog["llama"], cfg, params, planned, TOKENS, "feedback"))["blocks/0/experts/up/kernel"]
    alone = quantize(params["blocks"][0]["experts"]["up"]["kernel"][1], "int4_g32", up.importance[1] / up.importance[1].mean() + feedback.DAMPING)
    assert packed.stack == (3,) and np.array_equal(packed.data[1], alone.data)


# ---------------------------------------------------------------- the command


def model_folder(tmp_path: Path, name: str = "llama") -> Path:
    hf_write.write(tmp_path / name, CONFIGS[name], params_of(name), word_level(48))
    return tmp_path / name


def run_folder(tmp_path: Path) -> Path:
    config = test_run.config_at(tmp_path / "run")
    folder = runs.create_run(config, word_level(11))
    test_run.save(folder, config, {10: 3.0})
    return folder


def text_file(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text(" ".join(f"w{i}" for i in np.random.default_rng(3).integers(3, 48, 300)))
    return tmp_path / "text.txt"


def told(capsys, *argv) -> dict:
    assert main([*map(str, argv), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.slow
@pytest.mark.parametrize("name, format", [("llama", "int4_g32"), *rarely(("mixture", "q4_k"))])
def test_a_folder_holds_what_quantize_tree_makes(name, format, tmp_path, capsys):
    source, out = model_folder(tmp_path, name), tmp_path / "small"
    made = told(capsys, "quantize", source, "-o", out, "--format", format)
    params = quantize_tree(layers.unstack(jax.tree.map(jnp.asarray, params_of(name))), format)
    found = pikojax.load(out, ready=False)
    assert found.kind == "quantized" and found.config == dataclasses.replace(CONFIGS[name]) and found.tokenizer.vocab_size == 48
    assert jax.tree.structure(found.params) == jax.tree.structure(params)
    assert all(map(np.array_equal, jax.tree.leaves(found.params), jax.tree.leaves(params)))
    lines = {line["path"]: line for line in made["tensors"]}
    up = lines["blocks/0/experts/up/kernel" if name == "mixture" else "blocks/0/up/kernel"]
    assert up["format"] == format and (up["n_padded"] == 192) == (format == "q4_k") and 0.01 < up["error"] < 0.2
    assert made["bits_per_weight"] == pytest.approx(8 * sum(leaf.nbytes for leaf in jax.tree.leaves(params)) / made["parameters"])
    loaded = pikojax.load(out)
    floats = pikojax.load(source).logits(TOKENS)
    assert 0 < float(np.mean(np.square(loaded.logits(TOKENS) - floats)) / np.mean(np.square(floats))) < 0.2


@pytest.mark.slow
def test_a_run_becomes_a_folder_that_all_verbs_take(tmp_path, capsys):
    source, out = run_folder(tmp_path), tmp_path / "small"
    told(capsys, "quantize", source, "-o", out, "--format", "int8", "--keep", "embed=f16")
    assert not pikojax.load(out).framed and pikojax.load(out, ready=False).params["embed"].dtype == np.float16
    (tmp_path / "text.txt").write_text("w3 w4 w5 w3 w6 w7 w8 w9 w10 a b")
    compared = told(capsys, "eval", out, "--text", tmp_path / "text.txt", "--against", source)
    assert abs(compared["kl_mean"]) < 0.01 and compared["tokens"] == 10
    assert len(told(capsys, "generate", out, "w3 w4", "--max-tokens", "3", "--temperature", "0")["ids"]) == 3
    assert told(capsys, "info", out)["format"] == "quantized"


@pytest.mark.slow
@pytest.mark.parametrize("method", ["importance", *rarely("nearest", "feedback")])
def test_gguf_is_written_by_every_method(method, tmp_path, capsys):
    """96 inputs divide into no block of 256: q8_0, and the table says so. The file loads as the folder of the same weights does."""
    source, out = model_folder(tmp_path), tmp_path / "small.gguf"
    with_text = [] if method == "nearest" else ["--calibrate", text_file(tmp_path), "--method", method, "--save-importance", tmp_path / "told.gguf"]
    made = told(capsys, "quantize", source, "-o", out, "--format", "q4_1", "--keep", "*/down/*=q4_k", "--without-tokenizer", *with_text)
    lines = {line["path"]: line for line in made["tensors"]}
    assert lines["blocks/1/down/kernel"]["format"] == "q8_0" and "multiple of 256" in lines["blocks/1/down/kernel"]["note"]
    assert lines["blocks/1/q/kernel"]["format"] == "q4_1" and lines["norm/scale"]["format"] == "float32" and made["method"] == method
    assert gguf.read(out).tensors["blk.1.attn_q.weight"].type == "q4_1" and made["calibration_tokens"] == (0 if method == "nearest" else 288)
    floats = pikojax.load(source).logits(TOKENS)
    assert 0 < float(np.mean(np.square(pikojax.load(out).logits(TOKENS) - floats)) / np.mean(np.square(floats))) < 0.1
    if method == "importance":  # from the file it saved, the same bits; those of behind rounded layers aside
        again = told(capsys, "quantize", source, "-o", tmp_path / "again.gguf", "--format", "q4_1", "--keep", "*/down/*=q4_k", "--without-tokenizer",
                     "--importance", tmp_path / "told.gguf")  # fmt: skip
        assert again["method"] == "importance"
        assert all(np.array_equal(gguf.read(out).bytes_of(name), gguf.read(tmp_path / "again.gguf").bytes_of(name)) for name in gguf.read(out).tensors)


def test_importance_files_are_read_as_llama_cpp_writes_them(tmp_path):
    paths = ["blocks/0/q/kernel", "blocks/0/qkv/kernel", "blocks/1/down/kernel"]
    values = {paths[0]: np.array([1.0, 2.0]), paths[1]: np.array([[1.0, 2.0], [3.0, 4.0]])}
    importance.save(tmp_path / "i.gguf", values, True, "text.txt", 3, 32)
    opened = gguf.read(tmp_path / "i.gguf")
    assert opened.metadata["general.type"] == "imatrix" and opened.metadata["imatrix.chunk_size"] == 32
    assert opened.tensors["blk.0.attn_q.weight.in_sum2"].shape == (1, 2) and opened.tensors["blk.0.attn_q.weight.counts"].shape == (1, 1)
    found = importance.read(tmp_path / "i.gguf", paths)
    assert list(found) == paths[:2] and all(np.array_equal(found[path], values[path]) for path in found)
    with pytest.raises(UserError, match="another model's"):
        importance.read(tmp_path / "i.gguf", paths[2:])


MISTAKES = [
    (["--format", "q3_k"], "format 'q3_k' is unknown; choose from int8, "),
    (["--format", "int4_g32", "-o", "x.gguf"], "'int4_g32' is unknown in a .gguf; choose from q8_0, "),
    (["--format", "q4_0", "--keep", "down"], "no PATTERN=FORMAT"),
    (["--format", "q4_0", "--keep", "blocks/7/*=q8_0"], "no matrix is decided by 'blocks/7/.'"),
    (["--format", "q4_0", "--keep", "*norm1*=q8_0"], "no matrix is decided by"),
    (["--format", "q4_0", "--method", "feedback"], "give --calibrate TEXT"),
    (["--format", "q4_0", "--method", "importance"], "give one of them"),
    (["--format", "q4_0", "--save-importance", "i.gguf"], "needs the text"),
    (["--format", "q4_0", "--calibrate", "text.txt", "--save-importance", "no/such/i.gguf"], "cannot write no/such/i.gguf: its folder is missing"),
    (["--format", "q4_0", "--calibrate", "text.txt", "--save-importance", "llama", "--force"], "cannot write llama"),
    (["--format", "q4_0", "--importance", "nothing.gguf"], "cannot read nothing.gguf"),
    (["--format", "q4_0", "--importance", "llama/model.safetensors"], "is no GGUF file"),
    (["--format", "q4_0", "--calibrate", "nothing.txt"], "cannot read nothing.txt"),
    (["--format", "q4_0", "--calibrate", "empty.txt"], "no tokens"),
    (["--format", "q4_0", "-o", "text.txt"], "text.txt exists"),
    (["--format", "q4_0", "-o", "llama"], "llama exists"),
    (["--format", "q4_0", "-o", "full", "--force"], "holds something else"),
    (["--format", "q4_0", "-o", "no/such/place/x.gguf", "--without-tokenizer"], "cannot write"),
]


def test_mistakes_are_one_line_and_write_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model_folder(tmp_path), text_file(tmp_path)
    (tmp_path / "empty.txt").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.py").touch()
    before = sorted(tmp_path.rglob("*"))
    for options, message in MISTAKES:
        out = [] if "-o" in options else ["-o", "out"]
        assert main(["quantize", "llama", *out, *options]) == 2, options
        said = capsys.readouterr().err
        assert message.replace("'blocks/7/.'", "'blocks/7/*'") in said and said.count("\n") == 1, (options, said)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("out", ["out", "out.gguf"])
def test_what_fails_on_the_way_leaves_the_old_file_and_no_half_of_a_new_one(out, tmp_path, capsys, monkeypatch):
    source = model_folder(tmp_path)
    options = ["quantize", str(source), "-o", str(tmp_path / out), "--format", "q4_0", "--without-tokenizer"]
    assert main(options) == 0
    was = {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}
    assert main(options) == 2 and "--force" in capsys.readouterr().err
    calls, real = [], pack.in_parts

    def failing(*args):
        calls.append(args)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(pack, "in_parts", failing)
    assert main([*options, "--force"]) == 130
    assert {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()} == was
    monkeypatch.setattr(pack, "in_parts", real)
    assert main([*options, "--force"]) == 0


def test_packed_models_are_converted_as_they_are_and_not_packed_again(tmp_path, capsys):
    source = model_folder(tmp_path)
    for out in ("once", "once.gguf"):
        assert main(["quantize", str(source), "-o", str(tmp_path / out), "--format", "q8_0", "--without-tokenizer"]) == 0
    assert main(["convert", str(tmp_path / "once"), "-o", str(tmp_path / "same.gguf")]) == 0
    same, direct = gguf.read(tmp_path / "same.gguf"), gguf.read(tmp_path / "once.gguf")
    assert all(np.array_equal(same.bytes_of(name), direct.bytes_of(name)) for name in direct.tensors)
    assert main(["quantize", str(tmp_path / "once"), "-o", str(tmp_path / "twice"), "--format", "q4_0"]) == 2
    assert "packing it again would lose more" in capsys.readouterr().err


def test_damaged_folders_are_refused_by_name(tmp_path, capsys):
    source, out = model_folder(tmp_path), tmp_path / "small"
    assert main(["quantize", str(source), "-o", str(out), "--format", "int4a_g32"]) == 0
    about = json.loads((out / quantized.MARKER).read_text())
    packed = about["packed"]
    wrong = [
        (about | {"version": 2}, "version 2"),
        (about | {"packed": packed | {"blocks/0/q/kernel": "int5"}}, "int5"),
        (about | {"packed": packed | {"blocks/0/q/kernel": "int4_g32"}}, "blocks/0/q/kernel.mins, which its config does not use"),
        (about | {"packed": {path: format for path, format in packed.items() if path != "head"}}, "lacks the tensor head"),
        (about | {"model": about["model"] | {"d_model": 128}}, "its config wants"),
        (about | {"model": about["model"] | {"d_model": "wide"}}, "d_model"),
        (about | {"model": about["model"] | {"name": "llma"}}, "llma"),
        (about | {"model": None}, "no model and packed"),
    ]
    for changed, message in wrong:
        (out / quantized.MARKER).write_text(json.dumps(changed))
        with pytest.raises(UserError, match=message) as caught:
            pikojax.load(out)
        assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- memory

GROWTH = """
import sys
from pikojax.cli.main import main
status = lambda key: next(int(line.split()[1]) for line in open('/proc/self/status') if line.startswith(key)) * 1024
assert main(['quantize', sys.argv[1], '-o', sys.argv[2] + '-first' + sys.argv[4], '--format', sys.argv[3]]) == 0  # everything is compiled and loaded
open('/proc/self/clear_refs', 'w').write('5')  # the peak is counted from here
start = status('VmRSS')
assert main(['quantize', sys.argv[1], '-o', sys.argv[2] + sys.argv[4], '--format', sys.argv[3]]) == 0
print(status('VmHWM') - start)
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="peak memory is told by Linux's /proc")
@pytest.mark.parametrize("suffix, format", [("", "int4_g32"), (".gguf", "q8_0")])
def test_a_model_larger_than_memory_could_be_packed(suffix, format, tmp_path):
    """234 MB of float32: what it takes beside the files is far less. The pages that were read of a mapped file count, too."""
    cfg = LlamaConfig(d_model=768, n_layers=10, n_heads=12, d_hidden=1536, vocab_size=3000, context=64)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: catalog["llama"].init(cfg, jax.random.key(0)))
    params = jax.tree.map(lambda leaf: rng.random(leaf.shape, np.float32) - np.float32(0.5), shapes)
    hf_write.write(tmp_path / "hf", cfg, params)
    size = (tmp_path / "hf" / "model.safetensors").stat().st_size
    done = subprocess.run([sys.executable, "-c", GROWTH, str(tmp_path / "hf"), str(tmp_path / "out"), format, suffix], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}, check=True)  # fmt: skip
    grown = int(done.stdout.split()[-1])
    assert size > 200e6 and grown < 0.3 * size, f"{grown / 1e6:.0f} MB for a model of {size / 1e6:.0f}"
    assert pikojax.load(tmp_path / f"out{suffix}", ready=False).config.n_layers == 10


def test_every_format_can_be_asked_for():
    from pikojax.cli import quantize as verb

    assert all(name in verb.__doc__ or name.split("_g")[0] in verb.__doc__ for name in FORMATS)
