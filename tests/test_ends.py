"""Which tokens end an answer: as the files say it, in every format, through conversion and back; and that the engine ends there."""

import json

import jax
import numpy as np
import pytest
import test_gguf_model
import test_llama
from test_load import in_gguf

import pikojax
from pikojax.cli.main import main
from pikojax.config import UserError
from pikojax.formats import ends, hf_write
from pikojax.infer.engine import Engine, EngineConfig
from pikojax.llama_config import LlamaConfig
from pikojax.models import catalog
from pikojax.text import train_bpe
from pikojax.text.char import CharTokenizer

PLAIN = CharTokenizer(["<|endoftext|>", *"abc"], ["<|endoftext|>"])
CHATS = CharTokenizer(["<|endoftext|>", "<|im_end|>", *"abc"], ["<|endoftext|>", "<|im_end|>"])


def hugging_face(tmp_path, config=None, generation=None, tokenizer=PLAIN):
    folder = test_llama.write_folder(tmp_path / "hf", "llama", lambda raw, tensors: raw.update({"eos_token_id": config}))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": generation}))
    if tokenizer is not None:
        tokenizer.save(folder / "tokenizer.json")
    return folder


@pytest.mark.parametrize(
    "config, generation, tokenizer, wanted",
    [
        (None, None, PLAIN, (0,)),
        (3, None, PLAIN, (0, 3)),
        ([3, 4, 0], None, PLAIN, (0, 3, 4)),
        (3, [5, 6], PLAIN, (0, 5, 6)),
        (50256, -1, PLAIN, (0,)),  # of the model that it was made from; none
        (3, None, None, (3,)),
        (None, None, CHATS, (0, 1)),
    ],
)
def test_a_folder_says_it_in_three_places(config, generation, tokenizer, wanted, tmp_path):
    loaded = pikojax.load(hugging_face(tmp_path, config, generation, tokenizer), ready=False)
    assert loaded.eos_ids == wanted


def test_what_is_no_token_is_refused_by_name(tmp_path):
    for wrong in ("</s>", [1, None], True, [1] * 2000):
        loaded = pikojax.load(hugging_face(tmp_path, generation=wrong), ready=False)
        with pytest.raises(UserError, match="generation_config.json has eos_token_id = .* wanted a whole number"):
            _ = loaded.eos_ids


def test_gguf_says_it_in_its_metadata(tmp_path):
    assert pikojax.load(in_gguf(tmp_path), ready=False).eos_ids == (2,)
    file = test_gguf_model.write_model(tmp_path / "n.gguf", "llama", lambda metadata, _: metadata.update({"tokenizer.ggml.eot_token_id": 7, "tokenizer.ggml.eom_token_id": 9}))
    assert pikojax.load(file, ready=False).eos_ids == (7, 9)


def test_a_word_that_reads_like_an_end_is_none():
    assert ends.joined((), CharTokenizer(["<|im_end|>", *"abc"]), 4) == ()


def test_ends_survive_conversion_and_quantizing(tmp_path):
    tokenizer, cfg = train_bpe(["abc abd"], 260, special_tokens=("<|endoftext|>",)), LlamaConfig(d_model=32, n_layers=1, n_heads=2, n_kv_heads=2, d_hidden=32, vocab_size=288, context=16)
    shapes = jax.eval_shape(lambda: catalog["llama"].init(cfg, jax.random.key(0)))
    params = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes)
    own = tokenizer.eos_id
    folder = hf_write.write(tmp_path / "hf", cfg, params, tokenizer, eos_ids=(own, 3, 5))
    assert pikojax.load(folder, ready=False).eos_ids == (own, 3, 5)
    for verb, out in (("convert", "m.gguf"), ("convert", "again"), ("quantize", "small"), ("quantize", "small.gguf")):
        assert main([verb, str(folder), "-o", str(tmp_path / out), *(["--format", "q8_0"] if verb == "quantize" else [])]) == 0
        assert pikojax.load(tmp_path / out, ready=False).eos_ids == (own, 3, 5), (verb, out)


def test_the_engine_ends_a_text_there(tmp_path):
    loaded = pikojax.load(hugging_face(tmp_path, tokenizer=None))
    ask = dict(max_tokens=12, temperature=0.0)
    ids = Engine.of(loaded, EngineConfig(slots=1)).generate([1, 2, 3], ignore_eos=True, **ask).ids
    assert len(ids) == 12
    third = ids[2]
    written = Engine.of(pikojax.load(hugging_face(tmp_path, generation=[third], tokenizer=None)), EngineConfig(slots=1)).generate([1, 2, 3], **ask)
    assert written.stopped == "eos" and written.ids == ids[: ids.index(third)]
