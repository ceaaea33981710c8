"""Tokenizers: nothing is lost, nothing is guessed, files mean the same to Hugging Face's `tokenizers`."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pikojax.config import UserError
from pikojax.text import load, train_char, train_word
from pikojax.text.word import safe_cut

EOS = "<|endoftext|>"
PROSE = 'Once, Tim said: "Don\'t go!"\nMia’s 2 dogs ran  away;\tthey\'ve 10 bones — né Ⅷ ½.\r\n\r\n' * 3
DATA = Path(os.environ.get("PIKOJAX_DATA") or Path(__file__).parent.parent.parent / "shared" / "data")
text_of_anything = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@pytest.fixture(scope="module")
def char():
    return train_char([PROSE], [EOS])


@pytest.fixture(scope="module")
def word():
    return train_word([PROSE], 200, ["<unk>", EOS])


def test_char_ids_are_the_sorted_characters():
    tokenizer = train_char(["cab", "\n b"])
    assert tokenizer.tokens == ["\n", " ", "a", "b", "c"] and tokenizer.eos_id is None
    ids = tokenizer.encode("cab\n")
    assert ids.dtype == np.int32 and ids.tolist() == [4, 2, 3, 0]


def test_tinyshakespeare_has_65_characters():
    file = DATA / "text" / "tinyshakespeare.txt"
    if not file.exists():
        pytest.skip(f"no {file}")
    text = file.read_text()
    tokenizer = train_char([text])
    assert tokenizer.vocab_size == 65
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("kind", [train_char, train_word])
@settings(deadline=None, max_examples=60)
@given(text=text_of_anything.filter(bool))
def test_nothing_is_lost_that_the_vocabulary_holds(kind, text):
    tokenizer = kind([text])
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_word_pieces_are_words_with_their_space():
    tokenizer = train_word(["Don't go, Tim!\n\n Tim's 20  dogs"])
    pieces = [tokenizer.id_to_token(i) for i in tokenizer.encode("Don't go, Tim!\n\n Tim's 20  dogs")]
    assert pieces == ["Don", "'t", " go", ",", " Tim", "!", "\n", "\n", " Tim", "'s", " 2", "0", " ", " dogs"]
    quoted = train_word(["'so", "it's"])
    assert [quoted.id_to_token(i) for i in quoted.encode("'soit's")] == ["'", "<unk>", "'s"]  # no ending, an ending


def test_word_keeps_the_most_common_and_calls_the_rest_unk():
    tokenizer = train_word(["a a a c c b b d"], vocab_size=3)
    assert tokenizer.tokens == ["<unk>", " a", " b"]  # of the equally common " b" and " c" the first in order
    assert tokenizer.encode("a a d b").tolist() == [0, 1, 0, 2]
    assert tokenizer.decode([0, 1, 0, 2]) == "<unk> a<unk> b"


def test_special_tokens_in_a_text(char, word):
    for tokenizer in (char, word):
        text = f"Mia{EOS}\nMia"
        ids = tokenizer.encode(text).tolist()
        assert ids.count(tokenizer.eos_id) == 1 and tokenizer.decode(ids) == text
        assert tokenizer.decode(ids, skip_special_tokens=True) == "Mia\nMia"
    plain = train_char([f"Tim{EOS}Mia"], [EOS])
    ids = plain.encode(f"Tim{EOS}Mia", allowed_special=())
    assert plain.eos_id not in ids and len(ids) == 19 and plain.decode(ids) == f"Tim{EOS}Mia"
    with pytest.raises(UserError, match="no special token.*<|endoftext|>"):
        char.encode("x", allowed_special=["<pad>"])


def test_the_longest_special_token_wins():
    tokenizer = train_char(["ab<>"], ["<a>", "<a><b>"])
    assert tokenizer.encode("a<a><b>b<a>").tolist() == [4, 1, 5, 0]


def test_an_unknown_character_is_named(char):
    with pytest.raises(UserError, match=r"'ß' \(U\+00DF\).*\n?") as error:
        char.encode("Tim ßo")
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="U\\+10348"):  # beyond the table's end
        char.encode("\U00010348")
    assert train_char(["ab"], ["<unk>"]).encode("aßb\U00010348").tolist() == [1, 0, 2, 0]
    assert not train_char(["ab"], ["<unk>"]).encode("".join(map(chr, range(99, 400)))).any()
    with pytest.raises(UserError, match="surrogate"):
        char.encode("\ud800")


def test_ids_of_another_vocabulary_are_refused(char):
    for id in (-1, char.vocab_size):
        with pytest.raises(UserError, match=f"id {id} is not in"):
            char.decode([0, id])
    assert char.id_to_token(char.vocab_size) is None and char.id_to_token(-1) is None and char.token_to_id("ß") is None


@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_streaming_gives_what_decode_gives(char, word, data):
    for tokenizer in (char, word):
        ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=30))
        stream = tokenizer.stream()
        assert "".join(stream.push(i) for i in ids) + stream.finish() == tokenizer.decode(ids)


@settings(deadline=None, max_examples=200)
@given(text=st.text("aé1 '’st.\n\t_", max_size=40), more=st.text("aé1 '’st.\n\t_", max_size=5))
def test_a_safe_cut_does_not_change_the_ids(text, more):
    tokenizer = train_word([text + more + "x"])
    cut = safe_cut(text)
    parts = [tokenizer.encode(text[:cut]), tokenizer.encode(text[cut:] + more)]
    assert np.concatenate(parts).tolist() == tokenizer.encode(text + more).tolist()


def test_a_file_gives_the_tokenizer_back(char, word, tmp_path):
    for tokenizer in (char, word):
        again = load(tokenizer.save(tmp_path))
        assert (type(again), again.tokens, again.specials) == (type(tokenizer), tokenizer.tokens, tokenizer.specials)
        assert (again.eos_id, again.unk_id, again.n_special) == (tokenizer.eos_id, tokenizer.unk_id, tokenizer.n_special)
        assert load(tmp_path).encode(PROSE).tolist() == tokenizer.encode(PROSE).tolist()
    assert [file.name for file in tmp_path.iterdir()] == ["tokenizer.json"]  # no temporary file stays


def broken(change):
    tree = train_char(["ab"], [EOS]).to_json()
    change(tree)
    return json.dumps(tree)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "is cut short"),
        ("[]", "has no model"),
        (broken(lambda t: t["model"].update(type="Magic")), "type 'Magic'; the types known here are: BPE, WordPiece, Unigram, WordLevel"),
        (broken(lambda t: t["model"].update(vocab={EOS: 0, "a": 1, "b": 1})), "'b' has the id 1; ids must be 0 to 2"),
        (broken(lambda t: t["model"].update(vocab={EOS: 0, "a": 1, "b": 3})), "'b' has the id 3"),
        (broken(lambda t: t["model"].update(vocab={EOS: 0, "a": True})), "'a' has the id True"),
        (broken(lambda t: t.update(normalizer={"type": "Lower"})), "the normalizer 'Lower' is not known"),
        (broken(lambda t: t.update(pre_tokenizer={"type": "White"})), "the pre_tokenizer 'White' is not known"),
        (broken(lambda t: t.update(decoder={"type": "Glue"})), "the decoder 'Glue' is not known"),
        (broken(lambda t: t["added_tokens"][0].update(lstrip=True)), "sets lstrip"),
        (broken(lambda t: t["added_tokens"][0].update(id=7)), "has two ids"),
        (broken(lambda t: t.update(added_tokens=[3])), "each needs an id and its content"),
    ],
)
def test_a_file_that_is_not_understood_is_refused(content, says, tmp_path):
    file = tmp_path / "tokenizer.json"
    file.write_text(content)
    with pytest.raises(UserError) as error:
        load(file)
    assert says in str(error.value) and str(file) in str(error.value) and "\n" not in str(error.value)


def test_a_missing_file_or_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="cannot read the tokenizer.*tokenizer.json"):
        load(tmp_path)
    with pytest.raises(UserError, match="cannot write"):
        train_char(["ab"]).save(tmp_path / "no" / "tokenizer.json")


def test_nothing_to_learn_from_is_said():
    for make in (train_char, train_word):
        with pytest.raises(UserError, match="the text is empty"):
            make([""])
    with pytest.raises(UserError, match="vocab_size = 1 leaves no room"):
        train_word(["a"], vocab_size=1)


@pytest.mark.parametrize("specials", [(), (EOS,), ("<unk>", EOS)])
@pytest.mark.parametrize("kind", [train_char, train_word])
def test_hugging_face_agrees(kind, specials, tmp_path):
    tokenizers = pytest.importorskip("tokenizers", reason="`tokenizers` is not installed: no live comparison")
    ours = kind([PROSE], specials=specials)
    theirs = tokenizers.Tokenizer.from_file(str(ours.save(tmp_path)))
    unseen = " brand-new ñ" if "<unk>" in specials else ""
    marks = EOS if EOS in specials else ""
    text = PROSE + unseen + marks + PROSE[5:40] + marks
    ids = ours.encode(text)
    assert theirs.encode(text).ids == ids.tolist()
    assert theirs.decode(ids.tolist(), skip_special_tokens=False) == ours.decode(ids)
    assert theirs.decode(ids.tolist()) == ours.decode(ids, skip_special_tokens=True)
    assert theirs.get_vocab_size() == ours.vocab_size


def test_a_special_token_that_looks_like_a_word_is_unknown_as_plain_text():
    for specials, unk in ((("<unk>", "PAD"), "<unk>"), (("PAD",), None)):
        tok = train_word(["a PAD b"], specials=specials)
        pad = tok.token_to_id("PAD")
        assert tok.encode("PAD", False).tolist() == [pad]
        if unk is None:
            with pytest.raises(UserError, match="'PAD' is a special token and no word of this tokenizer, which has no <unk>"):
                tok.encode("PAD b", False, ())
            continue
        assert tok.encode("PAD", False, ()).tolist() == [tok.unk_id]
        assert tok.encode("PAD", False, ("PAD",)).tolist() == [pad]
        assert tok.encode_with_offsets("PAD", None, False, ()).ids.tolist() == [tok.unk_id]
        assert tok.encode_batch(["PAD"], None, False, ())[0].tolist() == [tok.unk_id]


@pytest.mark.parametrize("ids", ([1.9, 2.2], ["1"], [[1, 2]], np.ones((1, 2), np.int32), np.ones(2), [True], "12", 5, [None], [1, [2]], np.int32(1)))
def test_ids_are_whole_numbers_in_one_row(ids):
    tok = train_char(["abc"])
    for read in (tok.decode, tok.decode_bytes):
        with pytest.raises(UserError, match="^decode got .*; give a list") as error:
            read(ids)
        assert "\n" not in str(error.value)


def test_ids_come_in_many_containers():
    import jax.numpy as jnp

    tok = train_char(["abc"])
    many = ([0, 2], (0, 2), iter([0, 2]), (i for i in (0, 2)), range(0, 3, 2), np.array([0, 2], np.uint64), jnp.array([0, 2]), [np.int32(0), 2], b"\0\2")
    assert {tok.decode(ids) for ids in many} == {"ac"}
    assert tok.decode([]) == tok.decode(np.zeros(0)) == tok.decode(iter([])) == ""
    for bad in ([10**30], [-1], np.array([2**64 - 1], np.uint64)):
        with pytest.raises(UserError, match="belongs to another tokenizer"):
            tok.decode(bad)


def test_an_array_on_a_device_comes_in_one_go():
    class Device:  # as slow as one, when asked for single numbers
        def __array__(self, dtype=None, copy=None):
            return np.array([0, 2])

        def __iter__(self):
            raise AssertionError("one at a time")

    assert train_char(["abc"]).decode(Device()) == "ac"
