"""Ready-made tokens: others' files are read as they lie, split so that neither part is empty, and never out of range."""

import numpy as np
import pytest

from pikojax.config import UserError, config_from_dict
from pikojax.data import TokenStream, batch_at, open_dataset, resolve_vocab
from pikojax.data.shards import OPEN_FILES, Piece
from pikojax.text import train_char


def write_shards(folder, n_shards, rows=5, width=7, dtype=np.uint16, start=0):
    for i in range(n_shards):
        first = start + i * rows * width
        np.save(folder / f"shard_{i:05d}.npy", (np.arange(first, first + rows * width) % 1000).reshape(rows, width).astype(dtype))
    return folder


def config_for(path, **data):
    return config_from_dict({"data": {"path": str(path), **data}, "model": {"context": 4, "vocab_size": 1000}})


@pytest.mark.parametrize(
    ("n_shards", "val_fraction", "n_val"), [(2, None, 1), (3, None, 1), (50, None, 1), (100, None, 2), (120, None, 3), (10, 0.5, 5), (4, 0.99, 3)]
)
def test_the_last_shards_are_for_validation(tmp_path, n_shards, val_fraction, n_val):
    config = config_for(write_shards(tmp_path, n_shards), val_fraction=val_fraction)
    dataset = open_dataset(config)
    tokens = np.arange(n_shards * 35) % 1000
    np.testing.assert_array_equal(dataset.train.tokens, tokens[: -n_val * 35])
    np.testing.assert_array_equal(dataset.val.tokens, tokens[-n_val * 35 :])
    assert dataset.train.tokens.dtype == np.int32 and dataset.tokenizer is None and dataset.train.n_bytes is None
    assert dataset.facts["train_tokens"] == len(dataset.train) and dataset.facts["unk_rate"] is None


@pytest.mark.parametrize(("rows", "n_val"), [(2, 1), (10, 1), (100, 2)])
def test_a_single_shard_is_split_by_rows(tmp_path, rows, n_val):
    dataset = open_dataset(config_for(write_shards(tmp_path, 1, rows)))
    assert (len(dataset.train), len(dataset.val)) == ((rows - n_val) * 7, n_val * 7)
    assert dataset.val.read(0, 1)[0] == (rows - n_val) * 7 % 1000
    one_file = open_dataset(config_for(tmp_path / "shard_00000.npy"))
    np.testing.assert_array_equal(one_file.train.tokens, dataset.train.tokens)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, ">i4"])
def test_any_integer_type_is_read(tmp_path, dtype):
    for i in range(2):
        np.save(tmp_path / f"shard_{i}.npy", np.arange(100).reshape(10, 10).astype(dtype))
    np.testing.assert_array_equal(open_dataset(config_for(tmp_path)).train.tokens, np.arange(100))


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros((3, 3)), "holds 2-D float64, wanted 2-D rows of whole numbers"),
        (np.zeros(9, int), "holds 1-D int64"),
        (np.asfortranarray(np.zeros((3, 3), int)), "in C order"),
        (np.array([[{}]], object), "is no .npy array of ids"),
    ],
)
def test_other_arrays_are_refused(tmp_path, array, says):
    np.save(write_shards(tmp_path, 1) / "shard_00009.npy", array, allow_pickle=True)
    with pytest.raises(UserError, match=says) as error:
        open_dataset(config_for(tmp_path))
    assert "shard_00009.npy" in str(error.value) and "\n" not in str(error.value)


def test_a_cut_or_empty_shard_is_named(tmp_path):
    write_shards(tmp_path, 2)
    file = tmp_path / "shard_00001.npy"
    whole = file.read_bytes()
    for content, says in ((whole[:-3], "is no .npy"), (whole[:20], "is no .npy"), (b"", "is empty"), (b"PK\x03\x04 zip", "shard_00001.npy")):
        file.write_bytes(content)
        with pytest.raises(UserError, match=says) as error:
            open_dataset(config_for(tmp_path))
        assert "\n" not in str(error.value)


def test_splits_that_would_be_empty_are_refused(tmp_path):
    np.save(tmp_path / "shard_0.npy", np.zeros((1, 100), np.uint16))
    with pytest.raises(UserError, match="is the only shard and has one row"):
        open_dataset(config_for(tmp_path))
    np.save(tmp_path / "shard_0.npy", np.zeros((0, 100), np.uint16))
    with pytest.raises(UserError, match="are empty"):
        open_dataset(config_for(tmp_path))


@pytest.mark.parametrize("bad", [1000, -1, 2**32 + 5])
def test_an_id_beyond_the_vocabulary_is_named_when_opened(tmp_path, bad):
    write_shards(tmp_path, 3, dtype=np.int64)
    file = tmp_path / "shard_00001.npy"
    rows = np.load(file)
    rows[3, 2] = bad
    np.save(file, rows)
    with pytest.raises(UserError, match=rf"shard_00001.npy: row 3, column 2 holds the id {bad}, the vocabulary has 1000") as error:
        open_dataset(config_for(tmp_path))
    assert "\n" not in str(error.value)


def test_an_id_that_the_first_look_missed_never_reaches_a_batch(tmp_path, monkeypatch):
    monkeypatch.setattr("pikojax.data.shards.CHECK_BYTES", 0)
    monkeypatch.setattr("pikojax.data.shards.BLOCK_TOKENS", 35)
    write_shards(tmp_path, 3)
    rows = np.load(tmp_path / "shard_00001.npy")
    rows[:] = 65535
    np.save(tmp_path / "shard_00001.npy", rows)
    stream = open_dataset(config_for(tmp_path)).train  # looked at the first block only
    with pytest.raises(UserError, match="shard_00001.npy: row . holds|shard_00001.npy: row ., column . holds the id 65535"):
        for step in range(30):
            batch_at(stream, seed=0, step=step, grad_accum=1, batch_size=1, context=4)


def test_reading_over_the_borders_of_shards(tmp_path):
    stream = open_dataset(config_for(write_shards(tmp_path, 6, rows=2, width=3))).train
    for start in range(0, 20, 3):
        np.testing.assert_array_equal(stream.read(start, 10), np.arange(start, start + 10))


def test_more_shards_than_files_may_be_open(tmp_path):
    write_shards(tmp_path, OPEN_FILES + 50, rows=2, width=5)
    stream = open_dataset(config_for(tmp_path)).train
    np.testing.assert_array_equal(stream.tokens, np.arange(len(stream)) % 1000)
    assert stream._map.cache_info().currsize == OPEN_FILES


def test_nanogpt_folder(tmp_path):
    np.arange(500, dtype=np.uint16).tofile(tmp_path / "train.bin")
    np.arange(50, dtype=np.uint16).tofile(tmp_path / "val.bin")
    (tmp_path / "meta.pkl").write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")  # must not be unpickled
    dataset = open_dataset(config_for(tmp_path))
    assert (len(dataset.train), len(dataset.val)) == (500, 50)
    np.testing.assert_array_equal(dataset.train.tokens, np.arange(500))
    assert "pickle" not in dataset.description and not (tmp_path / "pwned").exists()


def test_bin_types_go_by_the_name(tmp_path):
    for name, dtype in (("a.bin", "<u2"), ("a.u32.bin", "<u4"), ("a.uint32.bin", "<u4")):
        np.arange(100, dtype=dtype).tofile(tmp_path / name)
        dataset = open_dataset(config_for(tmp_path / name))
        np.testing.assert_array_equal(np.concatenate([dataset.train.tokens, dataset.val.tokens]), np.arange(100))
        assert len(dataset.val) == 2  # the last 2%
    assert len(open_dataset(config_for(tmp_path / "a.bin", val_fraction=0.3)).val) == 30
    np.arange(100, dtype="<u4").tofile(tmp_path / "b.bin")
    with pytest.raises(UserError, match="looks like uint32 ids.*b.u32.bin"):
        open_dataset(config_for(tmp_path / "b.bin"))
    (tmp_path / "b.bin").write_bytes((tmp_path / "b.bin").read_bytes()[:-1])
    with pytest.raises(UserError, match="399 bytes, no whole number of uint16"):
        open_dataset(config_for(tmp_path / "b.bin"))


def test_a_folder_of_other_bins_is_refused(tmp_path):
    for name in ("train.bin", "other.bin"):
        np.arange(100, dtype=np.uint16).tofile(tmp_path / name)
    with pytest.raises(UserError, match="wanted train.bin and val.bin"):
        open_dataset(config_for(tmp_path))


def test_the_vocabulary_is_the_tokenizers_or_the_models(tmp_path):
    write_shards(tmp_path, 2, rows=2)
    with pytest.raises(UserError, match="set model.vocab_size, or tokenizer.path"):
        open_dataset(config_from_dict({"data": {"path": str(tmp_path)}, "model": {"context": 4}}))
    tokenizer = train_char(["".join(map(chr, range(100, 200)))], ["<|endoftext|>"])
    file = tokenizer.save(tmp_path / "t.json")
    tree = {"data": {"path": str(tmp_path)}, "tokenizer": {"path": str(file)}, "model": {"context": 4}}
    dataset = open_dataset(config_from_dict(tree))
    assert dataset.vocab_size == 101 and dataset.train.eos_id == tokenizer.eos_id == 0
    assert resolve_vocab(config_from_dict(tree), dataset).model.vocab_size == 101
    assert resolve_vocab(config_from_dict({**tree, "model": {"vocab_size": 128}}), dataset).model.vocab_size == 128
    with pytest.raises(UserError, match="model.vocab_size = 100 is below the tokenizer's 101"):
        resolve_vocab(config_from_dict({**tree, "model": {"vocab_size": 100}}), dataset)


def test_a_split_shorter_than_a_window_is_said(tmp_path):
    write_shards(tmp_path, 2, rows=2)
    tree = {"data": {"path": str(tmp_path)}, "model": {"context": 64, "vocab_size": 1000}}
    with pytest.raises(UserError, match="training split of .* has 14 tokens, one window needs 65"):
        open_dataset(config_from_dict(tree))


def test_a_file_that_vanishes_is_one_line(tmp_path):
    np.arange(100, dtype=np.uint16).tofile(tmp_path / "a.bin")
    stream = TokenStream([Piece(str(tmp_path / "a.bin"), "<u2", 0, 101)], 1000)
    with pytest.raises(UserError, match="shorter than when it was opened"):
        stream.read(0, 5)
    (tmp_path / "a.bin").unlink()
    with pytest.raises(UserError, match="No such file"):
        stream.read(0, 5)
