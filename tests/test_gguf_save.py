"""Models written as GGUF: the tensors that llama.cpp's converter makes, packed as asked, whole or not there; the vocabulary with them."""

import dataclasses
import json
import os
import shutil
import struct
from pathlib import Path

import jax
import numpy as np
import pytest
import test_gguf_model
import test_llama
from test_llama import SAVED

import pikojax
from pikojax.cli.main import main
from pikojax.config import GPTConfig, UserError
from pikojax.formats import gguf, gguf_model, gguf_save, gguf_write, huggingface
from pikojax.qtensor import QTensor, dequantize
from pikojax.text import files, gguf_vocab, gguf_vocab_save
from pikojax.text.tokenizer import Tokenizer

DATA = Path(os.environ.get("PIKOJAX_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")


def saved(tmp_path: Path, case: str, type=None, **changed) -> Path:
    cfg, params = huggingface.read(test_llama.write_folder(tmp_path / "hf", case))
    gguf_save.save(tmp_path / "out.gguf", dataclasses.replace(cfg, **changed), params, type)
    return tmp_path / "out.gguf"


@pytest.mark.parametrize("case", ("llama", "llama3", "linear", "yarn", "qwen2", "qwen3"))
def test_the_file_is_what_a_converter_makes(case, tmp_path):
    """Names, order of rows, types and keys as written down anew in test_gguf_model.py."""
    opened = gguf.read(saved(tmp_path, case))
    metadata, tensors = test_gguf_model.converted(case)
    assert opened.tensors.keys() == tensors.keys()
    for name, array in tensors.items():
        assert opened.tensor(name).dtype == np.float32 and np.allclose(opened.tensor(name), array, rtol=1e-6, atol=0), name
    for key, value in metadata.items():
        assert key.endswith("finetuned") or opened.metadata[key] == (pytest.approx(value) if isinstance(value, float) else value), key
    if case == "llama":
        assert np.abs(pikojax.load(opened.path).logits(SAVED["tokens"]) - SAVED[case]).max() < 1e-4


@pytest.mark.parametrize("case", ("gemma2", "gemma3"))
def test_gemma_goes_there_and_back(case, tmp_path):
    """Its scores' scale is not in a file: the usual one alone can be written."""
    cfg, params = huggingface.read(test_llama.write_folder(tmp_path / "hf", case))
    cfg = dataclasses.replace(cfg, attention_scale=cfg.d_head**-0.5)
    gguf_save.save(tmp_path / "out.gguf", cfg, params)
    again, found = gguf_model.read(tmp_path / "out.gguf")
    assert all(map(np.array_equal, jax.tree.leaves(found), jax.tree.leaves(params)))
    assert dataclasses.replace(again, attention_scale=cfg.attention_scale, norm_eps=cfg.norm_eps) == cfg


@pytest.mark.parametrize("case, part", [
    ("mistral", "a window of 16 tokens in a context of 128"), ("qwen2 with a window", "a window of 16"), ("phi3", "a window of 20"),
    ("gemma2", "gemma2 cannot say attention_scale"),
])  # fmt: skip
def test_what_gguf_cannot_say_is_refused_before_anything_is_written(case, part, tmp_path):
    with pytest.raises(UserError, match=part):
        saved(tmp_path, case)
    assert not list(tmp_path.glob("*.gguf"))


def test_a_window_as_long_as_the_context_hides_nothing_and_a_shorter_one_is_refused(tmp_path):
    """As of Phi-3-mini-4k, which rotates heads in full and by no divisors: nothing tells it from Llama but the window."""
    sizes = dict(d_model=32, n_layers=1, n_heads=2, d_hidden=32, vocab_size=16, context=64, tie=False)
    for window in (64, 65, 63):
        cfg = pikojax.config.LlamaConfig(**sizes, window=window)
        params = jax.jit(pikojax.catalog["llama"].init, static_argnums=0)(cfg, jax.random.key(0))
        if window < 64:
            with pytest.raises(UserError, match="^llama.cpp .* a window of 63 tokens in a context of 64"):
                gguf_save.save(tmp_path / "no.gguf", cfg, params)
            continue
        gguf_save.save(tmp_path / "m.gguf", cfg, params)
        again, found = gguf_model.read(tmp_path / "m.gguf")
        tokens_BT = np.arange(64, dtype=np.int32)[None] % 16
        logits = [pikojax.catalog["llama"].forward(c, p, tokens_BT)[0].logits for c, p in ((cfg, params), (again, found))]
        assert again.window is None and np.abs(np.asarray(logits[0] - logits[1])).max() < 1e-5


@pytest.mark.parametrize("change, part", [
    (dict(qk_norm=True, qkv_bias=True), "qwen3 cannot say qkv_bias = True"), (dict(nope_every=4, qkv_bias=True), "smollm3 cannot say qkv_bias = True"),
    (dict(post_norms=True, qk_norm=True, window=8, global_every=6, rope_base_local=1e4, embed_scale=32**0.5, activation="gelu_tanh", qkv_bias=True), "gemma3 cannot say qkv_bias"),
])  # fmt: skip
def test_biases_that_an_architecture_has_not_are_refused(change, part, tmp_path):
    cfg = pikojax.config.LlamaConfig(d_model=32, n_layers=1, n_heads=2, d_hidden=32, vocab_size=16, context=64, **change)
    with pytest.raises(UserError, match=part):
        gguf_save.save(tmp_path / "m.gguf", cfg, jax.jit(pikojax.catalog["llama"].init, static_argnums=0)(cfg, jax.random.key(0)))
    assert not list(tmp_path.iterdir())


def test_other_architectures_and_types_are_one_line(tmp_path):
    with pytest.raises(UserError, match="only models of the Llama family"):
        gguf_save.save(tmp_path / "x.gguf", GPTConfig(), {})
    with pytest.raises(UserError, match="'q3_k' is unknown"):
        saved(tmp_path, "llama", "q3_k")


def wide(tmp_path: Path):
    """A model whose rows divide into blocks of 256, but for one that divides into 32 and one that does not."""
    cfg = pikojax.config.LlamaConfig(d_model=256, n_layers=2, n_heads=4, d_hidden=72, vocab_size=40, context=64, tie=False)
    return cfg, jax.tree.map(np.asarray, jax.jit(pikojax.catalog["llama"].init, static_argnums=0)(cfg, jax.random.key(0)))


@pytest.mark.parametrize("type", gguf_save.TYPES)
def test_types_are_those_asked_for(type, tmp_path):
    cfg, params = wide(tmp_path)
    gguf_save.save(tmp_path / "m.gguf", cfg, params, type)  # from stacked blocks
    opened = gguf.read(tmp_path / "m.gguf")
    types = {name: info.type for name, info in opened.tensors.items()}
    packed = type not in ("f32", "f16")
    assert types["blk.1.attn_q.weight"] == type and types["token_embd.weight"] == types["output.weight"] == ("q8_0" if packed else type)
    assert types["blk.1.ffn_down.weight"] == ("f16" if packed else type) and types["blk.0.attn_norm.weight"] == "f32"
    assert ("general.quantization_version" in opened.metadata) == packed
    again, found = gguf_model.read(tmp_path / "m.gguf")
    assert again == dataclasses.replace(cfg, norm_eps=again.norm_eps)
    for layer in (0, 1):
        for name in ("q", "k"):
            w, wanted = found["blocks"][layer][name]["kernel"], params["blocks"][name]["kernel"][layer]
            w = np.asarray(dequantize(w)) if isinstance(w, QTensor) else w
            assert np.square(w - wanted).sum() / np.square(wanted).sum() < {"f32": 1e-12, "f16": 1e-6, "q8_0": 1e-4, "q6_k": 1e-3}.get(type, 1e-2)


def test_packed_weights_go_on_as_they_are_and_are_not_packed_again(tmp_path):
    cfg, params = wide(tmp_path)
    first, second = tmp_path / "a.gguf", tmp_path / "b.gguf"
    gguf_save.save(first, cfg, params, "q4_k")
    loaded = pikojax.load(first, ready=False)
    gguf_save.save(second, loaded.config, loaded.params)
    a, b = gguf.read(first), gguf.read(second)
    assert all(a.tensors[name].type == b.tensors[name].type and np.array_equal(a.bytes_of(name), b.bytes_of(name)) for name in a.tensors)
    with pytest.raises(UserError, match="packing it again as q4_0 would lose more"):
        gguf_save.save(second, loaded.config, loaded.params, "q4_0")
    gguf_save.save(second, loaded.config, loaded.params, "f32")
    floats = gguf_model.read(second)[1]["blocks"][0]["q"]["kernel"]
    assert np.array_equal(floats, np.asarray(dequantize(jax.tree.map(jax.numpy.asarray, loaded.params["blocks"][0]["q"]["kernel"]))))


def test_strings_stay_as_they_are_and_names_become_unicode(tmp_path):
    """Tokens of some vocabularies are no UTF-8; a file name may hold half a character."""
    from test_gguf import array, built, entry, text

    odd = struct.pack("<Q", 2) + b"\xffa"
    (tmp_path / "a.gguf").write_bytes(built((entry("general.architecture", 8, text("llama")), entry("tokenizer.ggml.tokens", 9, array(8, [text("é"), odd])))))
    first = gguf.read(tmp_path / "a.gguf").metadata
    gguf_write.write(tmp_path / "b.gguf", {**first, "general.name": "a\udcff"}, [])
    second = gguf.read(tmp_path / "b.gguf").metadata
    assert [second["tokenizer.ggml.tokens"].bytes_of(i) for i in (0, 1)] == ["é".encode(), b"\xffa"] and second["general.name"] == "a?"


def test_a_file_is_whole_or_not_there(tmp_path):
    tensors = [gguf_write.Tensor("a", (4,), "f32", lambda: np.ones(4, np.float32)), gguf_write.Tensor("b", (4,), "f32", lambda: 1 / 0)]
    (tmp_path / "old.gguf").write_bytes(b"old")
    with pytest.raises(ZeroDivisionError):
        gguf_write.write(tmp_path / "old.gguf", {}, tensors)
    assert (tmp_path / "old.gguf").read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(UserError, match="cannot write"):
        gguf_write.write(tmp_path / "none" / "x.gguf", {}, tensors)


@pytest.mark.parametrize("type", gguf_save.TYPES)
def test_the_gguf_package_reads_the_same_numbers(type, tmp_path):
    peer = pytest.importorskip("gguf")
    cfg, params = wide(tmp_path)
    gguf_save.save(tmp_path / "m.gguf", cfg, params, type, {"tokenizer.ggml.tokens": ["a", "né"], "x.int": -3, "x.flag": True, "x.large": 1 << 40})
    reader, (_, ours) = peer.GGUFReader(tmp_path / "m.gguf"), gguf_model.read(tmp_path / "m.gguf")
    assert [reader.fields[key].contents() for key in ("tokenizer.ggml.tokens", "x.int", "x.flag", "x.large", "llama.embedding_length")] == [["a", "né"], -3, True, 1 << 40, 256]
    theirs = {tensor.name: peer.dequantize(tensor.data, tensor.tensor_type) for tensor in reader.tensors}
    for name, w in (("blk.1.ffn_up.weight", ours["blocks"][1]["up"]["kernel"]), ("output.weight", ours["head"])):
        assert np.array_equal(theirs[name].T, np.asarray(dequantize(w)) if isinstance(w, QTensor) else w)


# ---------------------------------------------------------------- vocabularies


@pytest.mark.parametrize("name", ("gpt-2", "llama-spm"))
def test_a_published_vocabulary_is_written_as_it_was(name):
    file = DATA / "gguf" / f"ggml-vocab-{name}.gguf"
    if not file.is_file():
        pytest.skip(f"no {file}")
    published = gguf.read(file).metadata
    made = gguf_vocab_save.metadata(Tokenizer.from_tree(gguf_vocab.tree(published, str(file))))
    for key in ("model", "tokens", "merges", "token_type", "bos_token_id", "eos_token_id"):
        theirs, ours = published.get(f"tokenizer.ggml.{key}"), made.get(f"tokenizer.ggml.{key}")
        assert ours == theirs if isinstance(theirs, (str, int, type(None))) else list(ours) == list(theirs), key


@pytest.mark.parametrize("name", ("gpt2.json", "llama2.json", "llama2.model"))
def test_usual_vocabularies_can_be_said(name):
    if not (DATA / "tokenizers" / name).is_file():
        pytest.skip(f"no {DATA / 'tokenizers'}")
    tok = files.load(DATA / "tokenizers" / name)
    again = Tokenizer.from_tree(gguf_vocab.tree(gguf_vocab_save.metadata(tok), "x"))
    rows = tok.vocab_size + 3  # of an embedding that is padded, as most are: llama.cpp wants a name for each
    padded = gguf_vocab_save.metadata(tok, rows)
    assert len(padded["tokenizer.ggml.tokens"]) == len(padded["tokenizer.ggml.token_type"]) == len(set(padded["tokenizer.ggml.tokens"])) == rows
    with pytest.raises(UserError, match="1 more than the model"):
        gguf_vocab_save.metadata(tok, tok.vocab_size - 1)
    for text in ("The quick brown fox jumps, doesn't it?", "Äpfel und 北京 12345 \n\n x"):
        for read in (again, Tokenizer.from_tree(gguf_vocab.tree(padded, "x"))):
            assert np.array_equal(tok.encode(text), read.encode(text))


def test_vocabularies_that_gguf_cannot_say_are_refused():
    words = Tokenizer.from_tree({"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}})
    tree = {"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}, "pre_tokenizer": {"type": "Whitespace"}}
    for tok in (words, Tokenizer.from_tree(tree)):
        with pytest.raises(UserError, match="GGUF .* leave the tokenizer out"):
            gguf_vocab_save.metadata(tok)


# ---------------------------------------------------------------- the command


def test_convert_gives_the_same_200_tokens(tmp_path, capsys):
    stories = DATA / "stories260k"
    if not (stories / "stories260K.bin").is_file():
        pytest.skip(f"no {stories}")
    for name in ("stories260K.bin", "tok512.bin"):
        shutil.copy(stories / name, tmp_path)
    model, out = str(tmp_path / "stories260K.bin"), str(tmp_path / "out.gguf")
    assert main(["convert", model, "-o", out, "--type", "F32", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["bytes"] == Path(out).stat().st_size and told["tokenizer"] is True
    assert main(["generate", out, "--temperature", "0", "--max-tokens", "200", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["text"] == (stories / "expected_greedy_200.txt").read_text().removesuffix("\n")
    for words, part in ((["-o", out], "exists"), (["-o", str(tmp_path / "folder"), "--type", "q8_0"], "none of a Hugging Face folder's"), (["-o", out, "--force", "--type", "q2"], "--type q2 is unknown"), ([], "-o")):
        assert main(["convert", model, *words]) == 2
        error = capsys.readouterr().err
        assert part in error and error.count("\n") == 1
    for name, said in ((" ", "-o is empty"), ("", "-o is empty")):
        assert main(["convert", model, "-o", name]) == 2 and said in capsys.readouterr().err
    assert main(["convert", model, "-o", str(tmp_path / "LOUD.GGUF")]) == 0 and gguf.read(tmp_path / "LOUD.GGUF").tensors
    assert main(["convert", out, "-o", out, "--force", "--type", "q8_0", "--without-tokenizer"]) == 0
    small = pikojax.load(out, ready=False)
    assert small.tokenizer is None and small.params["embed"].format == "q8_0" and Path(out).stat().st_size < told["bytes"] * 0.6


@pytest.mark.slow
def test_a_trained_model_goes_round_and_says_the_same_200_tokens(tmp_path, capsys):
    """llama2.c → a Hugging Face folder → GGUF in float32 → a folder again: at each stop the text that llama2.c's author's program writes."""
    stories = DATA / "stories260k"
    if not (stories / "stories260K.bin").is_file():
        pytest.skip(f"no {stories}")
    expected = (stories / "expected_greedy_200.txt").read_text().removesuffix("\n")
    for name in ("stories260K.bin", "tok512.bin"):
        shutil.copy(stories / name, tmp_path)
    stops = [tmp_path / name for name in ("stories260K.bin", "folder", "f32.gguf", "again")]
    for before, out in zip(stops, stops[1:]):
        assert main(["convert", str(before), "-o", str(out), *(["--type", "f32"] if out.suffix else [])]) == 0
        capsys.readouterr()
        assert main(["generate", str(out), "--temperature", "0", "--max-tokens", "200", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["text"] == expected, out.name
    first, last = (pikojax.load(stop, ready=False) for stop in (stops[0], stops[-1]))
    assert all(map(np.array_equal, jax.tree.leaves(first.params), jax.tree.leaves(last.params))) and first.tokenizer.tokens == last.tokenizer.tokens
