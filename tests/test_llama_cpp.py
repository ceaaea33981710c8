"""What llama.cpp says of GGUF files that are written here, where it is installed: the same logits, and the same words."""

import os
from pathlib import Path

import hf_folders
import numpy as np
import pytest
import test_llama

import pikojax
from pikojax.cli.convert import vocabulary
from pikojax.formats import gguf_save, huggingface
from pikojax.infer.generate import generate

llama_cpp = pytest.importorskip("llama_cpp", reason="`llama_cpp` is not installed: no live comparison")
STORIES = Path(os.environ.get("PIKOJAX_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data") / "stories260k" / "stories260K.bin"


def opened(file: Path, n_tokens: int, **more):
    return llama_cpp.Llama(str(file), n_ctx=n_tokens, n_threads=1, verbose=False, **more)


def said(llm, i: int) -> np.ndarray:
    return np.array(llama_cpp.llama_get_logits_ith(llm.ctx, i)[: llm.n_vocab()])


@pytest.mark.parametrize("case", ("llama", "llama3", "linear", "yarn", "qwen2", "qwen3"))
def test_each_architecture_means_the_same_there(case, tmp_path):
    """Order of rows, scaling, norms and biases: a file that only we understood would pass every test of ours."""
    cfg, params = huggingface.read(test_llama.write_folder(tmp_path / "hf", case))
    gguf_save.save(tmp_path / "m.gguf", cfg, params, None, {"tokenizer.ggml.model": "no_vocab"})
    saved = hf_folders.saved("llama_family.npz")[0]
    tokens = saved["tokens"][0].tolist()
    llm = opened(tmp_path / "m.gguf", len(tokens), logits_all=True, type_k=0, type_v=0)  # a float32 cache
    llm.eval(tokens)
    assert np.abs(np.stack([said(llm, i) for i in range(len(tokens))]) - saved[case][0]).max() < 1e-4


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
