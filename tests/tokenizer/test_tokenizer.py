import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.errors import ModelFileError
from understudy.prompt import MARKERS
from understudy.testing import byte_tokenizer
from understudy.tokenizer import Tokenizer

SPECIALS = ("<pad>", "<unk>", "<s>", "</s>", *MARKERS)
CORPUS = ["The ferry crosses at dawn.", "You <b>must</b> pay, é 🙂", "<extra_id_1>User </s> <toolcall> {} </toolcall>"]


def trained_byte_level() -> Tokenizer:
    """Byte-level BPE whose merges were learnt from text with markers in it."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=500, initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS * 10, trainer)
    definition = json.loads(tokenizer.to_str())
    # Some markers get ids of their own; others are built by merges as well, and are then called special.
    vocab = definition["model"]["vocab"]
    for marker in SPECIALS:
        vocab.setdefault(marker, len(vocab))
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    definition["added_tokens"] = [{"id": vocab[m], "content": m, **flags} for m in SPECIALS]
    return Tokenizer(definition)


def sentencepiece() -> Tokenizer:
    """BPE with byte fallback and `▁` for the space, as the published model's tokenizer is built."""
    pieces = [*SPECIALS, *(f"<0x{b:02X}>" for b in range(256)), "\u2581", "a", "b", "\u2581a", "é"]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    back = {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}
    model = {"type": "BPE", "unk_token": "<unk>", "byte_fallback": True, "fuse_unk": True, "vocab": vocab}
    definition = {
        "version": "1.0",
        "added_tokens": [{"id": vocab[m], "content": m, **flags} for m in SPECIALS],
        "normalizer": replace,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {**model, "merges": [["\u2581", "a"]]},
    }
    return Tokenizer(definition)


KINDS = {"bytes": byte_tokenizer(), "trained": trained_byte_level(), "sentencepiece": sentencepiece()}
texts = st.text(max_size=40) | st.lists(
    st.sampled_from([*SPECIALS, "<extra_id_2>", "<", ">", " ", "a", "é", "🙂", "\n", "User"]), max_size=8
).map("".join)


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, derandomize=True, max_examples=200)
@given(text=texts)
def test_no_text_becomes_special_and_all_text_comes_back(kind: str, text: str) -> None:
    tokenizer = KINDS[kind]
    ids = tokenizer.encode(text)
    assert not any(tokenizer.is_special(i) for i in ids)
    assert tokenizer.decode(ids) == (text.replace("\u2581", " ") if kind == "sentencepiece" else text)
    assert b"".join(map(tokenizer.token_bytes, ids)).decode() == tokenizer.decode(ids)
    assert tokenizer.encode_batch([text, text]) == [ids, ids]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("marker", SPECIALS)
def test_every_marker_is_text_by_encode_and_special_by_name(kind: str, marker: str) -> None:
    tokenizer = KINDS[kind]
    assert tokenizer.decode(tokenizer.encode(marker)) == marker
    token_id = tokenizer.special_id(marker)
    assert token_id is not None
    assert tokenizer.is_special(token_id)
    assert tokenizer.token_bytes(token_id) == b""
    assert tokenizer.decode([token_id]) == ""


def test_one_token_a_byte() -> None:
    tokenizer = KINDS["bytes"]
    assert len(tokenizer.encode("é🙂")) == 6
    assert [tokenizer.token_bytes(i) for i in tokenizer.encode("é")] == [b"\xc3", b"\xa9"]


def test_byte_fallback() -> None:
    tokenizer = KINDS["sentencepiece"]
    ids = tokenizer.encode("🙂 a")
    assert [tokenizer.token_bytes(i) for i in ids] == [b"\xf0", b"\x9f", b"\x99", b"\x82", b" a"]


def test_ids_without_a_token_are_silent() -> None:
    tokenizer = KINDS["bytes"]
    assert tokenizer.token_bytes(10**6) == tokenizer.token_bytes(-1) == b""
    assert tokenizer.special_id("<extra_id_7>") is None


def test_further_specials_from_elsewhere() -> None:
    plain = byte_tokenizer().definition
    letter = plain["model"]["vocab"]["A"]
    tokenizer = Tokenizer(plain, specials={"A": letter})
    assert tokenizer.is_special(letter)
    assert not any(map(tokenizer.is_special, tokenizer.encode("BAB")))


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    with pytest.raises(ModelFileError, match="There is no tokenizer"):
        Tokenizer.from_file(path)
    bad: list[Any] = ["{", "[]", "{}", '{"model": {"type": "Nonsense"}}']
    for text in bad:
        path.write_text(text)
        with pytest.raises(ModelFileError):
            Tokenizer.from_file(path)
    path.write_text(json.dumps(byte_tokenizer().definition))
    assert Tokenizer.from_file(path).encode("hi") == byte_tokenizer().encode("hi")


def test_tokens_added_behind_the_models_own() -> None:
    """Special ones among them never come from text, and do not move the others."""
    definition = byte_tokenizer().definition
    first = byte_tokenizer().vocab_size
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    texts = {"red": False, "<begin>": True, "blue": False, "<end>": True}
    added = [{"id": first + n, "content": t, "special": s, **flags} for n, (t, s) in enumerate(texts.items())]
    tokenizer = Tokenizer({**definition, "added_tokens": [*definition["added_tokens"], *added]})
    assert tokenizer.vocab_size == first + 4
    said = "a red and a blue <begin> <end>"
    ids = tokenizer.encode(said)
    assert {first, first + 2} < set(ids)
    assert not {first + 1, first + 3} & set(ids)
    assert tokenizer.decode(ids) == said
    assert tokenizer.encode_batch([said]) == [ids]
    assert [tokenizer.token_bytes(first + n) for n in range(4)] == [b"red", b"", b"blue", b""]
    assert tokenizer.special_id("<end>") == first + 3
