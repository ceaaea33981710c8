"""Looking into models: what is shown is what the model computed, for every architecture, and a page on which nothing of a prompt acts."""

import base64
import hashlib
import html.parser
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from test_load import hugging_face

from pikojax.cli.main import main
from pikojax.config import GPTConfig, LlamaConfig, UserError
from pikojax.infer.inspect import attention_weights, look, most_tokens
from pikojax.infer.inspect_page import labels, page
from pikojax.kernels.attention import masked_attention, softcapped_attention
from pikojax.models import bert, catalog, gpt, layers, llama
from pikojax.text.char import CharTokenizer

SIZES = dict(d_model=16, n_layers=2, n_heads=2, vocab_size=16, context=32)
GEMMA = dict(n_heads=4, n_kv_heads=2, window=3, global_every=2, attention_softcap=5.0, softcap=3.0)
CASES = {
    "gpt": (catalog["gpt"], GPTConfig(**SIZES)),
    "llama": (catalog["llama"], LlamaConfig(**SIZES | GEMMA)),
    "moe": (catalog["llama"], LlamaConfig(**SIZES, d_hidden=16, n_experts=3, n_experts_used=2)),
    "bert": (catalog["bert"], bert.BertConfig(**{**SIZES, "d_hidden": 32})),
}
each = pytest.mark.parametrize("case", [case if case != "moe" else pytest.param(case, marks=pytest.mark.slow) for case in CASES])
IDS = [3, 14, 1, 5, 9, 2, 6, 5]
T = len(IDS)


@pytest.fixture(scope="module")
def looked():
    """case → (config, parameters, what was seen), each looked at once."""
    made = {}

    def get(case):
        if case not in made:
            model, cfg = CASES[case]
            shapes, rng = jax.eval_shape(lambda key: model.init(cfg, key), jax.random.key(0)), np.random.default_rng(1)
            params = jax.tree.map(lambda leaf: (0.3 * rng.normal(size=leaf.shape)).astype(np.float32), shapes)
            made[case] = cfg, params, look(model, cfg, params, IDS)
        return made[case]

    return get


@each
def test_rows_of_attention_sum_to_1_and_look_only_where_they_may(case, looked):
    cfg, _, seen = looked(case)
    assert seen.attention_LHTT.shape == (2, cfg.n_heads, T, T)
    np.testing.assert_allclose(seen.attention_LHTT.sum(axis=-1), 1, atol=1e-5)
    ahead = np.triu(np.ones((T, T), bool), 1)
    assert (seen.attention_LHTT[:, :, ahead] > 0).all() if case == "bert" else (seen.attention_LHTT[:, :, ahead] == 0).all()
    assert seen.causal == (case != "bert")
    assert seen.attention_LHTT.std(axis=(0, 1)).max() > 0.01  # heads and layers differ
    if case == "llama":  # layer 0 is local: three tokens back, its own among them
        far = np.tril(np.ones((T, T), bool), -3)
        assert (seen.attention_LHTT[0][:, far] == 0).all() and (seen.attention_LHTT[1][:, far] > 0).any()


@each
def test_the_last_layer_says_what_the_model_says(case, looked):
    cfg, params, seen = looked(case)
    out, _ = jax.jit(CASES[case][0].forward, static_argnums=0)(cfg, params, np.asarray([IDS], np.int32))
    hidden_TD = np.asarray(out.hidden[0])
    cosine_TT = hidden_TD @ hidden_TD.T / np.linalg.norm(hidden_TD, axis=1)[:, None] / np.linalg.norm(hidden_TD, axis=1)[None]
    np.testing.assert_allclose(seen.likeness_TT, cosine_TT, atol=1e-4)
    assert seen.norms_LT.shape == (3, T) and (seen.norms_LT > 0).all()
    if case == "bert":
        assert seen.words_LTK is None
        np.testing.assert_allclose(seen.norms_LT[-1], np.linalg.norm(hidden_TD, axis=1), rtol=1e-4)
        return
    prob_TV = np.asarray(jax.nn.softmax(out.logits[0], axis=-1))
    np.testing.assert_allclose(seen.probs_LTK[-1], -np.sort(-prob_TV, axis=1)[:, :6], atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(prob_TV, seen.words_LTK[-1], axis=1), seen.probs_LTK[-1], atol=1e-5)
    assert not np.allclose(seen.probs_LTK[0], seen.probs_LTK[-1], atol=1e-2)  # the layers do something


def test_what_enters_the_first_layer_is_the_embedding(looked):
    _, params, seen = looked("llama")
    np.testing.assert_allclose(seen.norms_LT[0], np.linalg.norm(np.asarray(params["embed"])[IDS], axis=1), rtol=1e-5)


@pytest.mark.slow
def test_the_experts_are_those_of_the_router(looked):
    _, _, seen = looked("moe")
    assert seen.experts_LTK.shape == (2, T, 2) and set(seen.experts_LTK.reshape(-1)) <= {0, 1, 2}
    assert (seen.experts_LTK[..., 0] != seen.experts_LTK[..., 1]).all()
    assert all(looked(case)[2].experts_LTK is None for case in ("gpt", "llama"))


@pytest.mark.parametrize("causal, window, softcap", [(True, None, None), (True, 2, None), (True, 3, 2.0), (False, None, None)])
def test_the_weights_are_those_that_the_kernels_use(causal, window, softcap):
    q, k, v = (jax.random.normal(key, (2, 7, n, 4)) for key, n in zip(jax.random.split(jax.random.key(0), 3), (4, 2, 2), strict=True))
    weights_BHTS = attention_weights(q, k, causal=causal, window=window, softcap=softcap)
    mine = jnp.einsum("BHTS,BSHC->BTHC", weights_BHTS, jnp.repeat(v, 2, axis=2))
    back_TS = np.arange(7)[:, None] - np.arange(7)[None]
    mask_BTS = jnp.asarray((back_TS >= (0 if causal else -99)) & (back_TS < (window or 99)))[None]
    if softcap is None:
        kernel = masked_attention(q, k, v, mask_BTS)
    else:
        kernel = softcapped_attention(q, k.swapaxes(1, 2), v.swapaxes(1, 2), mask_BTS, softcap)
    np.testing.assert_allclose(mine, kernel, atol=1e-5)


def test_who_does_not_look_leaves_no_trace():
    _, cfg = CASES["gpt"]
    params = jax.eval_shape(lambda key: layers.unstack(gpt.init(cfg, key)), jax.random.key(0))
    plain = str(jax.make_jaxpr(lambda params: gpt.forward(cfg, params, np.asarray([IDS], np.int32))[0].logits)(params))
    with layers.taking_notes() as notes:
        noted = str(jax.make_jaxpr(lambda params: gpt.forward(cfg, params, np.asarray([IDS], np.int32))[0].logits)(params))
    assert plain == noted and {name for name, _ in notes} == {"stream", "attention", "readout"}
    n = len(notes)
    jax.eval_shape(lambda params: gpt.forward(cfg, params, np.asarray([IDS], np.int32)), params)
    assert len(notes) == n


def test_a_model_that_notes_nothing_is_shown_as_far_as_it_goes():
    def forward(cfg, params, tokens_BT, cache=None):
        hidden_BTD = params["blocks"][0][tokens_BT]
        return layers.Output(hidden_BTD, hidden_BTD, {}), None

    model, cfg = llama.MODEL._replace(forward=forward), CASES["gpt"][1]
    seen = look(model, cfg, {"blocks": (jnp.eye(16),)}, IDS)
    assert seen.attention_LHTT is None and seen.words_LTK is None and seen.norms_LT.shape == (1, T)
    assert "<script" in page(seen, IDS, None, "t", {})


def test_what_makes_no_page_is_refused(looked):
    model, cfg = CASES["gpt"]
    with pytest.raises(UserError, match="^the prompt has 33 tokens, a page of this model holds 32; leave out 1 of them$"):
        look(model, cfg, {}, [0] * 33)
    with pytest.raises(UserError, match="no tokens"):
        look(model, cfg, {}, [])
    broken = {**looked("gpt")[1], "embed": np.full((16, 16), np.nan, np.float32)}
    with pytest.raises(UserError, match=r"^the model's vectors are no numbers from layer 0 on; .*$"):
        look(model, cfg, broken, IDS)
    large = LlamaConfig(d_model=128, n_layers=48, n_heads=64, vocab_size=8, context=4096)
    assert 48 * 64 * most_tokens(large) ** 2 <= 3_000_000 and most_tokens(large) > 20


# ---------------------------------------------------------------- the page

EVIL = ["</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>", "\x00\x1b[31m\u202e", "&amp;\"'", "\u2028", "@DATA@", "é中"]
TOKENIZER = CharTokenizer([*EVIL, *"abcdefghi"], EVIL[:2])


class Page(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.scripts, self.open = [], [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attributes]
        if tag == "script":
            self.scripts.append((dict(attributes), ""))

    def handle_data(self, text):
        if self.scripts and self.lasttag == "script" and text.strip():
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + text)


@each
def test_nothing_of_a_prompt_or_a_vocabulary_acts_on_the_page(case, looked):
    seen = looked(case)[2]
    ids = [*range(len(EVIL)), 9]
    text = page(seen, ids, TOKENIZER, EVIL[0] + EVIL[2] + EVIL[5], {"a<b>": EVIL[1]})
    found = Page(text)
    assert found.tags.count("script") == 2 and "img" not in found.tags and not [name for name in found.attributes if name.startswith("on")]
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e\u2028]", text)
    assert not {"src", "href", "style"} & set(found.attributes) and "http:" not in text and "https:" not in text
    assert text.count("@DATA@</h1>") == 1  # a title that holds one of the page's own marks
    data = json.loads(found.scripts[0][1])
    assert [data["labels"][i] for i in data["tokens"]] == labels(TOKENIZER, ids) and len(data["tokens"]) == T
    digest = re.search("sha256-([^']+)'", text)[1]
    assert base64.b64decode(digest) == hashlib.sha256(found.scripts[1][1].encode()).digest()  # or no browser would run it


def test_the_numbers_on_the_page_are_those_that_were_seen(looked):
    _, _, seen = looked("llama")
    data = json.loads(Page(page(seen, IDS, None, "t", {})).scripts[0][1])
    weights = np.frombuffer(base64.b64decode(data["attention"]), np.uint8).reshape(*data["heads"], T, T) / 255
    np.testing.assert_allclose(weights, seen.attention_LHTT, atol=0.5 / 255 + 1e-6)
    names = np.asarray(data["labels"])[np.asarray(data["words"])]
    assert names.tolist() == [[[f"#{id}" for id in row] for row in rows] for rows in seen.words_LTK]


def test_labels_are_short_and_spelled_out():
    found = labels(TOKENIZER, range(len(EVIL)))
    assert found[2] == "\\x00\\x1b[31m\\u202e" and found[6] == "é中" and all(len(label) <= 24 for label in found)
    assert found[0].startswith("</script>")  # a special token is shown by its name; the page escapes it


def test_the_command_writes_a_page_and_says_what_is_on_it(tmp_path, capsys):
    folder, out = str(hugging_face(tmp_path)), tmp_path / "page.html"
    assert main(["inspect", folder, "--prompt", "b w7 w9", "-o", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["tokens"] == [" b", " w7", " w9"] and told["ids"] == [1, 7, 9] and len(told["norms"]) == told["layers"] + 1
    assert out.stat().st_size == told["bytes"] and len(told["lens"]) == told["layers"] + 1
    assert told["next"][0]["token"] == told["lens"][-1] and told["next"][0]["probability"] >= told["next"][1]["probability"]
    before = out.read_bytes()
    assert main(["inspect", folder, "--prompt-ids", "3, 4", "-o", str(out)]) == 2 and "--force" in capsys.readouterr().err
    assert out.read_bytes() == before
    assert main(["inspect", folder, "--prompt-ids", "3, 4", "-o", str(out), "--force"]) == 0
    assert out.read_bytes() != before and {file.name for file in tmp_path.iterdir()} == {"hf", "page.html"}


@pytest.mark.parametrize(
    "args, part",
    [
        ([], "give a text to look at"),
        (["--prompt", "a", "--prompt-ids", "1"], "not both"),
        (["--prompt-ids", "1 x"], "whole numbers from 0 to 47"),
        (["--prompt-ids", "9" * 5000], "whole numbers from 0 to 47"),
        (["--prompt-ids", "48"], "whole numbers from 0 to 47"),
        (["--prompt", ""], "no tokens"),
        (["--prompt", "a", "-o", "nowhere/page.html"], "its folder is missing"),
        (["--prompt", "a " * 300], "leave out"),
    ],
)
def test_a_mistake_is_one_line(args, part, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = str(hugging_face(tmp_path))
    capsys.readouterr()
    assert main(["inspect", folder, *args]) == 2
    err = capsys.readouterr().err
    assert part in err and err.count("\n") == 1 and not list(tmp_path.glob("*.html"))
