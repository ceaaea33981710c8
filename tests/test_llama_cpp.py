"""What llama.cpp says of GGUF files that are written here, where it is installed: the same logits, and the same words."""

import dataclasses
import os
import unicodedata
from pathlib import Path

import hf_folders
import numpy as np
import pytest

import pikojax
from pikojax.cli.convert import vocabulary
from pikojax.formats import gguf, gguf_save, gguf_write, huggingface
from pikojax.infer.generate import generate
from pikojax.text import gguf_vocab
from pikojax.text.tokenizer import Tokenizer

llama_cpp = pytest.importorskip("llama_cpp", reason="`llama_cpp` is not installed: no live comparison")
DATA = Path(os.environ.get("PIKOJAX_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
STORIES = DATA / "stories260k" / "stories260K.bin"


def opened(file: Path, n_tokens: int, **more):
    return llama_cpp.Llama(str(file), n_ctx=n_tokens, n_threads=1, verbose=False, **more)


def said(llm, i: int) -> np.ndarray:
    return np.array(llama_cpp.llama_get_logits_ith(llm.ctx, i)[: llm.n_vocab()])


MIXTURES = ("mixtral", "qwen2_moe", "qwen3_moe")


@pytest.mark.parametrize("case", ("llama", "llama3", "linear", "yarn", "qwen2", "qwen3", "longrope", "smollm3", *MIXTURES))
def test_each_architecture_means_the_same_there(case, tmp_path):
    """Order of rows, scaling, norms, biases and experts: a file that only we understood would pass every test of ours."""
    saved, about = hf_folders.saved("hf_families.npz" if case in MIXTURES else "llama_family.npz")
    cfg, params = huggingface.read(hf_folders.write_folder(tmp_path / "hf", about[case]))
    cfg = dataclasses.replace(cfg, window=None, nope_every=cfg.nope_every and 4)  # what GGUF can say of Mixtral and SmolLM3
    gguf_save.save(tmp_path / "m.gguf", cfg, params, None, {"tokenizer.ggml.model": "no_vocab"})
    tokens = saved["tokens"][0].tolist()
    wanted = saved[case][0] if case not in ("mixtral", "smollm3") else pikojax.load(tmp_path / "m.gguf").logits([tokens])[0]
    llm = opened(tmp_path / "m.gguf", len(tokens), logits_all=True, type_k=0, type_v=0)  # a float32 cache
    llm.eval(tokens)
    assert np.abs(np.stack([said(llm, i) for i in range(len(tokens))]) - wanted).max() < 1e-4


@pytest.fixture(scope="module")
def stories():
    if not STORIES.is_file():
        pytest.skip(f"no {STORIES}")
    return pikojax.load(STORIES, ready=False)


@pytest.mark.slow
@pytest.mark.parametrize("type, n_same", [("f32", 200), ("f16", 200), ("q8_0", 40)])
def test_a_trained_model_goes_on_with_the_same_words(type, n_same, stories, tmp_path):
    """Of floats all 200; eight bits are multiplied with activations rounded otherwise, so a near tie falls otherwise in the end."""
    file = tmp_path / "m.gguf"
    gguf_save.save(file, stories.config, stories.params, type, vocabulary(stories))
    loaded = pikojax.load(file)
    ours = generate(loaded.model, loaded.config, loaded.params, loaded.tokenizer, "", max_tokens=200, temperature=0, framed=True)
    llm, theirs, new = opened(file, 256), [], [loaded.tokenizer.bos_id]
    for _ in range(n_same):
        llm.eval(new)
        new = [int(said(llm, -1).argmax())]
        theirs += new
    assert ours.ids[:n_same] == theirs


def test_both_read_text_as_the_same_tokens(stories, tmp_path):
    file = tmp_path / "m.gguf"
    gguf_save.save(file, stories.config, stories.params, "f16", vocabulary(stories))
    tok, llm = pikojax.load(file, ready=False).tokenizer, llama_cpp.Llama(str(file), vocab_only=True, verbose=False)
    for text in ("Once upon a time, there was a little girl.", "  two  spaces\nand a line, naïve 🙂"):
        assert tok.encode(text, add_special_tokens=False).tolist() == llm.tokenize(text.encode(), add_bos=False)


VOCABULARY = DATA / "gguf" / "ggml-vocab-gpt-2.gguf"


FIRST = {patterns: name for name, patterns in reversed(gguf_vocab.SPLITS.items())}  # of the names for the same


@pytest.mark.parametrize("pre", [name if FIRST[patterns] == name else pytest.param(name, marks=pytest.mark.slow) for name, patterns in gguf_vocab.SPLITS.items()])
def test_each_way_to_split_text_is_theirs(pre, tmp_path):
    """GPT-2's merges under another name of how text is split. (NFC, which Qwen's tokenizer.json has, is not done there: the texts have it already.)"""
    if not VOCABULARY.is_file():
        pytest.skip(f"no {VOCABULARY}")
    metadata = gguf.read(VOCABULARY).metadata | {"tokenizer.ggml.pre": pre}
    gguf_write.write(tmp_path / "m.gguf", metadata, [])
    tok, llm = Tokenizer.from_tree(gguf_vocab.tree(metadata, "x")), llama_cpp.Llama(str(tmp_path / "m.gguf"), vocab_only=True, verbose=False)
    texts = Path(f"{VOCABULARY}.inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    texts += ["It's 12345 or 1,234.5; (a+b)=c ~ 7%\r\n\r\n  x  ", "naïve Ünïcode ½ ² ٣٤ 日本語テスト 한국어 test。、！ Ⅷ", "tab\tand  two   three    \n \n end   "]
    for text in texts:
        text = unicodedata.normalize("NFC", text)
        assert tok.encode(text, add_special_tokens=False).tolist() == llm.tokenize(text.encode(), add_bos=False), text
