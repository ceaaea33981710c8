"""`pikojax.load`: whatever lies at the path becomes the same kind of object; what is no model is one line that says what to give."""

import json
import os
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import test_gguf_model
import test_llama
import test_run
from test_llama import SAVED

import pikojax
from pikojax.cli.main import main
from pikojax.config import UserError
from pikojax.formats import load as loading
from pikojax.formats import run as runs
from pikojax.formats.describe import describe
from pikojax.formats.gguf_write import Tensor
from pikojax.formats.mapped import Stack
from pikojax.qtensor import QTensor, quantize
from pikojax.text.tokenizer import Tokenizer

STORIES = Path(os.environ.get("PIKOJAX_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data") / "stories260k"


def word_level(size: int) -> Tokenizer:
    vocab = {"a": 0, "b": 1, "<s>": 2} | {f"w{i}": i for i in range(3, size)}
    return Tokenizer.from_tree({"version": "1.0", "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "a"}, "added_tokens": [], "pre_tokenizer": {"type": "Whitespace"}})


def hugging_face(tmp_path: Path) -> Path:
    folder = test_llama.write_folder(tmp_path / "hf", "llama")
    word_level(48).save(folder / "tokenizer.json")
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    return folder


def in_gguf(tmp_path: Path) -> Path:
    words = {"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", *(f"t{i}" for i in range(45))]}
    words |= {"tokenizer.ggml.scores": np.arange(0, -48, -1, dtype=np.float32), "tokenizer.ggml.token_type": np.array([2, 3, 3] + [1] * 45, np.int32)}
    words |= {"tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2, "tokenizer.chat_template": "{{ bos_token }}"}
    return test_gguf_model.write_model(tmp_path / "m.gguf", "llama", lambda metadata, tensors: metadata.update(words))


@pytest.mark.parametrize("make, kind", [(hugging_face, "huggingface"), (in_gguf, "gguf")])
def test_a_model_from_elsewhere_computes(make, kind, tmp_path):
    loaded = pikojax.load(make(tmp_path))
    assert loaded.kind == kind and np.abs(loaded.logits(SAVED["tokens"]) - SAVED["llama"]).max() < 1e-4
    assert loaded.tokenizer.vocab_size == 48 and list(loaded.chat_templates.sources) == ["default"]
    out, _ = loaded.model.forward(loaded.config, loaded.params, SAVED["tokens"])
    assert np.allclose(out.logits, SAVED["llama"], atol=1e-4)


def test_chat_templates_in_gguf_know_the_special_tokens(tmp_path):
    assert pikojax.load(in_gguf(tmp_path)).chat_templates.specials == {"bos_token": "<s>", "eos_token": "</s>"}


def in_the_hub_s_cache(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    here = tmp_path / "models--tiny--llama"
    (here / "refs").mkdir(parents=True)
    (here / "refs" / "main").write_text("abc123")
    (here / "snapshots").mkdir()
    return hugging_face(tmp_path).rename(here / "snapshots" / "abc123")


def test_a_name_on_the_hub_is_found_in_its_cache(tmp_path, monkeypatch):
    folder = in_the_hub_s_cache(tmp_path, monkeypatch)
    loaded = pikojax.load("tiny/llama")
    assert loaded.path == folder and np.abs(loaded.logits(SAVED["tokens"]) - SAVED["llama"]).max() < 1e-4
    weights = folder / "model.safetensors"
    weights.rename(folder / "pytorch_model-00001-of-00002.bin")
    with pytest.raises(UserError, match="pytorch_model-00001-of-00002.bin, a pickle; loading one runs code"):
        pikojax.load("tiny/llama")
    (tmp_path / "tiny").mkdir()  # then it is a path
    with pytest.raises(UserError, match="cannot read the model tiny/llama"):
        pikojax.load("tiny/llama")


@pytest.mark.parametrize("installed", (False, True))
def test_a_name_that_cannot_be_had_is_one_line(installed, tmp_path, monkeypatch):
    in_the_hub_s_cache(tmp_path, monkeypatch)

    def refuse(*_, **__):
        raise OSError("no\nnetwork")

    package = type("huggingface_hub", (), {"snapshot_download": staticmethod(refuse)}) if installed else None
    monkeypatch.setitem(sys.modules, "huggingface_hub", package)
    with pytest.raises(UserError) as caught:
        pikojax.load("tiny/other")
    said = "cannot be downloaded (no network)" if installed else "pip install 'pikojax[hub]'"
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_memory_holds_a_model_once(tmp_path):
    """Its pages go when a layer is placed; what was read of the file is not kept beside what was made of it."""
    if not Path("/proc/self/smaps").is_file():
        pytest.skip("no /proc/self/smaps")
    widen = lambda metadata, tensors: tensors.update({"token_embd.weight": np.zeros((48, 32), np.float32)})
    file = test_gguf_model.write_model(tmp_path / "m.gguf", "llama", widen)

    def resident() -> int:
        lines = Path("/proc/self/smaps").read_text().splitlines()
        starts = [i for i, line in enumerate(lines) if line.endswith(str(file))]
        return sum(int(line.split()[1]) for at in starts for line in lines[at : at + 8] if line.startswith("Rss"))

    kept = pikojax.load(file, ready=False)
    _ = [np.array(leaf).sum() for leaf in jax.tree.leaves(kept.params)]
    assert resident() > 0
    del kept
    loaded = pikojax.load(file)
    assert resident() == 0 and loaded.config.vocab_size == 48


def test_experts_become_one_array_that_is_not_copied_again():
    """Cast and transposed as they are copied; JAX takes the array as it lies."""
    parts = [np.arange(6, dtype=np.float16).reshape(2, 3) + i for i in range(5)]
    stack = Stack(parts).astype(np.float32).swapaxes(1, 2)
    made = np.asarray(stack)
    assert made.dtype == stack.dtype == np.float32 and np.array_equal(made, np.stack(parts).swapaxes(1, 2)) and stack.shape == made.shape == (5, 3, 2)
    assert stack[1].dtype == np.float32 and all(map(np.array_equal, stack, made)) and stack.nbytes == made.nbytes
    if jax.default_backend() == "cpu":
        assert jax.device_put(made).unsafe_buffer_pointer() == made.ctypes.data


def test_a_run_folder_computes_what_it_was_trained_to(tmp_path):
    config = test_run.config_at(tmp_path / "run")
    folder = runs.create_run(config, word_level(11))
    test_run.save(folder, config, {10: 3.0, 20: 1.5})
    tokens_BT = np.arange(4, dtype=np.int32)[None]
    for path, step in ((folder, 20), (folder / "checkpoints" / "10", 10)):
        loaded = pikojax.load(path)
        expected, _ = loaded.model.forward(config.model, test_run.params_of(config, step), tokens_BT)
        assert loaded.kind == "run" and np.allclose(loaded.logits(tokens_BT), expected.logits, atol=1e-6) and loaded.tokenizer.vocab_size == 11


def test_packed_weights_are_laid_out_once_for_the_kernels_and_on_request_not(tmp_path):
    def pack(metadata, tensors):
        name = "blk.0.attn_q.weight"
        packed = np.asarray(quantize(tensors[name].T, "q8_0").data)
        tensors[name] = Tensor(name, tensors[name].shape, "q8_0", lambda: packed)

    file = test_gguf_model.write_model(tmp_path / "m.gguf", "llama", pack)
    kernel = lambda **options: pikojax.load(file, **options).params["blocks"][0]["q"]["kernel"]
    raw, ready = kernel(ready=False), kernel()
    assert isinstance(raw.data, np.ndarray) and raw.layout == "canonical" and isinstance(ready.data, jax.Array)
    assert ready.layout == ("rows16" if loading.prepare(jax.tree.map(jax.numpy.asarray, raw)).layout == "rows16" else "canonical") and isinstance(ready, QTensor)
    assert np.abs(pikojax.load(file).logits(SAVED["tokens"]) - SAVED["llama"]).max() < 0.05


def test_a_vocabulary_that_is_not_understood_leaves_the_model(tmp_path):
    strange = {"tokenizer.ggml.model": "rwkv", "tokenizer.ggml.tokens": ["a"]}
    loaded = pikojax.load(test_gguf_model.write_model(tmp_path / "m.gguf", "llama", lambda metadata, tensors: metadata.update(strange)))
    assert loaded.logits(SAVED["tokens"]).shape == SAVED["llama"].shape
    with pytest.raises(UserError, match="'rwkv'"):
        loaded.tokenizer


MISTAKES = {
    "nothing there": (lambda at: at / "none.gguf", "cannot read the model"),
    "an empty folder": (lambda at: at, "neither config.toml nor config.json; give a run folder"),
    "a folder around a gguf": (lambda at: (at / "x.gguf").write_bytes(b"") and None or at, "x.gguf"),
    "a text": (lambda at: _file(at / "model.bin", b"hello " * 90), "no model that is known here; give a run folder, a Hugging Face folder"),
    "a pickle": (lambda at: _file(at / "model.bin", b"PK\x03\x04" + bytes(600)), "loading pickles runs code"),
    "a pointer": (lambda at: _file(at / "model.gguf", b"version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
    "weights of a folder": (lambda at: test_llama.write_folder(at / "hf", "llama") / "model.safetensors", "part of a model; give its folder"),
    "a long name": (lambda at: "x" * 5000, "the model = "),
}


def _file(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("what", MISTAKES)
def test_what_is_no_model_is_one_line(what, tmp_path):
    make, part = MISTAKES[what]
    with pytest.raises(UserError) as caught:
        pikojax.load(make(tmp_path))
    assert part in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("tokens, part", [
    (np.zeros(3, np.int32), "of shape (3,)"), (np.zeros((1, 3)), "float64"), (np.zeros((1, 129), np.int32), "the context holds 128"),
    (np.full((1, 3), 48), "tokens from 48 to 48"), (np.full((1, 3), -1), "from -1"), (np.zeros((0, 3), np.int32), "of shape (0, 3)"),
])  # fmt: skip
def test_tokens_that_a_model_cannot_read_are_one_line(tokens, part, tmp_path):
    loaded = pikojax.load(test_gguf_model.write_model(tmp_path / "m.gguf", "llama"))
    with pytest.raises(UserError, match="logits got") as caught:
        loaded.logits(tokens)
    assert part in str(caught.value)


# ---------------------------------------------------------------- the command


@pytest.fixture
def stories(tmp_path):
    if not (STORIES / "stories260K.bin").is_file():
        pytest.skip(f"no {STORIES}")
    for name in ("stories260K.bin", "tok512.bin"):
        shutil.copy(STORIES / name, tmp_path)
    return tmp_path / "stories260K.bin"


def test_generate_takes_a_model_from_elsewhere(stories, capsys):
    expected = (STORIES / "expected_greedy_200.txt").read_text().removesuffix("\n")
    assert main(["generate", str(stories), "--temperature", "0", "--max-tokens", "200", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["text"] == expected
    begin, rest = expected[:40], expected[40:]
    assert main(["generate", str(stories), begin, "--temperature", "0", "--max-tokens", "20", "--json"]) == 0  # <s> stands before it
    assert rest.startswith(json.loads(capsys.readouterr().out)["text"])
    (stories.parent / "tok512.bin").unlink()
    assert main(["generate", str(stories), "a"]) == 2 and "no tokenizer; put its tokenizer.bin beside it" in capsys.readouterr().err


def test_info_counts_every_weight_once(stories, tmp_path, capsys):
    assert main(["info", str(stories), "--json"]) == 0
    said = capsys.readouterr()
    shown, told = said.err, json.loads(said.out)
    block = 64 * (64 + 32 + 32 + 64 + 3 * 172 + 2)  # q, k, v, out; gate, up, down; two norms
    assert told["parameters"] == 512 * 64 + 64 + 5 * block and type(told["parameters"]) is int and told["architecture"] == "llama"
    assert told["parameters_by_part"]["embed"] == 512 * 64 and told["parameters_by_part"]["blocks/k"] == 5 * 64 * 32 and "head" not in told["parameters_by_part"]
    assert told["bytes"] == 4 * told["parameters"] == sum(told["bytes_by_kind"].values()) == sum(told["bytes_by_layer"]) + 4 * (512 * 64 + 64)
    assert told["bytes_by_layer"] == [4 * block] * 5 and told["bytes_by_kind"] == {"float32": told["bytes"]}
    assert told["tokenizer"] == {"kind": "BPE", "vocab_size": 512, "special": 3} and told["chat_templates"] == [] and told["context"] == 512
    assert f"{told['parameters']:,}" in shown and "each of 5 layers" in shown and "█" in shown
    assert main(["info", str(tmp_path / "none")]) == 2


def test_info_tells_a_bad_template_from_a_bad_tokenizer(tmp_path, capsys):
    folder = hugging_face(tmp_path)
    (folder / "chat_template.jinja").unlink()
    (folder / "tokenizer_config.json").write_text('{"chat_template": 5}')
    assert main(["info", str(folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["tokenizer"]["vocab_size"] == 48 and told["chat_templates"] == [] and "chat_template" in told["chat_template_error"]
    (folder / "tokenizer_config.json").unlink()
    (folder / "tokenizer.json").write_text("{}")
    assert main(["info", str(folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert "has no model" in told["tokenizer"]["error"] and "chat_template_error" not in told


def test_info_says_what_the_file_has_and_computing_is_in_float32(tmp_path):
    halve = lambda metadata, tensors: tensors.update({name: array.astype(np.float16) for name, array in tensors.items() if array.ndim == 2})
    file = test_gguf_model.write_model(tmp_path / "m.gguf", "llama", halve)
    assert set(describe(pikojax.load(file, ready=False).params)["bytes_by_kind"]) == {"float16", "float32"}
    assert set(describe(pikojax.load(file).params)["bytes_by_kind"]) == {"float32"}


def test_info_of_packed_and_of_stacked_weights():
    packed = quantize(jax.numpy.ones((32, 4)), "q8_0")
    found = describe({"embed": np.zeros((3, 2), np.float16), "blocks": ({"q": {"kernel": packed}}, {"q": {"kernel": np.zeros((32, 4), np.float32)}})})
    assert found["parameters"] == 6 + 2 * 128 and found["bytes_by_kind"] == {"float16": 12, "q8_0": 4 * 34, "float32": 512}
    assert found["bytes_by_layer"] == [136, 512] and found["parameters_by_part"] == {"embed": 6, "blocks/q": 256}
    stacked = describe({"blocks": {"q": {"kernel": np.zeros((3, 4, 2), np.float32)}, "norm": {"scale": np.zeros((3, 2), np.float32)}}})
    assert stacked["parameters"] == 30 and stacked["bytes_by_layer"] == [40] * 3
