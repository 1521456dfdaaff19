import json
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.errors import DataError, ModelFileError
from understudy.model.tensor_names import expected_shapes
from understudy.prompt import MARKERS
from understudy.pruning.tensors import stored_tensors
from understudy.pruning.vocabulary import TrimmedVocabulary, check_encodings, prune_vocabulary, trim_vocabulary
from understudy.testing import byte_tokenizer, tiny_config, tiny_model
from understudy.tokenizer import Tokenizer
from understudy.training.model import NemotronLM, from_hf_tensors

CORPUS = [
    "The ferry crosses the river at dawn, and the ferryman sings of rivers and of dawns.",
    "Seven silver sturgeons swam south; é ü 🙂 naïve cafés; banana bandana, aaaaaaa baaaab.",
    '{"name": "give_item", "arguments": {"item": "lantern", "count": 2}}\n\n    indented',
    "Nobody at the crossing remembers the older ferry, the slower ferry, or its bell.",
]
KEPT = [CORPUS[0], "banana é\n\n    lantern"]
FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


def byte_level(**changes: Any) -> Tokenizer:
    """Trained byte-level BPE, special tokens in front, one more behind."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=460,
        special_tokens=["<pad>", "<unk>", "<s>", "</s>", *MARKERS],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS * 4, trainer)
    definition = json.loads(tokenizer.to_str())
    last_id = len(definition["model"]["vocab"])
    definition["added_tokens"].append({"id": last_id, "content": "<extra_id_9>", **FLAGS})
    special = {
        "</s>": {"id": "</s>", "ids": [3], "tokens": ["</s>"]},
        "<extra_id_9>": {"id": "<extra_id_9>", "ids": [last_id], "tokens": ["<extra_id_9>"]},
    }
    piece: dict[str, Any] = {"Sequence": {"id": "A", "type_id": 0}}
    last = {"SpecialToken": {"id": "<extra_id_9>", "type_id": 0}}
    definition["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [piece, last],
        "pair": [piece, last],
        "special_tokens": special,
    }
    definition["model"] |= changes
    return Tokenizer(definition)


def sentencepiece() -> Tokenizer:
    """Character BPE with byte fallback and a visible space, its merges learnt from the same texts."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = tokenizers.normalizers.Replace(" ", "\u2581")
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=480,
        special_tokens=["<pad>", "<unk>", "<s>", "</s>", *MARKERS, *(f"<0x{b:02X}>" for b in range(256))],
        show_progress=False,
    )
    tokenizer.train_from_iterator([t.replace(" ", "\u2581") for t in CORPUS] * 4, trainer)
    definition = json.loads(tokenizer.to_str())
    definition["added_tokens"] = [t for t in definition["added_tokens"] if not t["content"].startswith("<0x")]
    back = {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}
    definition["decoder"] = {"type": "Sequence", "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}]}
    return Tokenizer(definition)


KINDS = {"byte level": byte_level(), "sentencepiece": sentencepiece(), "whole words": byte_level(ignore_merges=True)}


def trim(tokenizer: Tokenizer, texts: list[str], **options: Any) -> TrimmedVocabulary:
    return trim_vocabulary(tokenizer, tiny_config(vocab_size=tokenizer.vocab_size), texts=texts, **options)


def check(before: Tokenizer, trimmed: TrimmedVocabulary, texts: list[str]) -> None:
    old, new = (
        np.concatenate([np.zeros(0, np.int64), *t.encode_batch(texts)]).astype(np.int64)
        for t in (before, trimmed.tokenizer)
    )
    check_encodings(trimmed, old, new)


def strings(tokenizer: Tokenizer) -> dict[int, str]:
    full = tokenizers.Tokenizer.from_str(json.dumps(tokenizer.definition))
    return {i: text for text, i in full.get_vocab(with_added_tokens=True).items()}


@pytest.mark.parametrize("kind", KINDS)
def test_texts_encode_to_the_same_token_strings(kind: str) -> None:
    before = KINDS[kind]
    trimmed = trim(before, KEPT)
    after = trimmed.tokenizer
    assert after.vocab_size < before.vocab_size - 20
    assert trimmed.config.vocab_size == after.vocab_size == len(trimmed.kept)
    old, new = strings(before), strings(after)
    for text in KEPT:
        assert [new[i] for i in after.encode(text)] == [old[i] for i in before.encode(text)]
        assert after.decode(after.encode(text)) == text
    check(before, trimmed, KEPT)
    assert all(new[n] == old[int(o)] for n, o in enumerate(trimmed.kept))


@pytest.mark.parametrize("kind", KINDS)
@given(kept=st.lists(st.text("abn ferydw\u00e9\U0001f642\n", max_size=30), min_size=1, max_size=4))
@settings(max_examples=25, deadline=None)
def test_any_texts_are_safe(kind: str, kept: list[str]) -> None:
    trimmed = trim(KINDS[kind], kept)
    check(KINDS[kind], trimmed, kept)


@pytest.mark.parametrize("kind", KINDS)
def test_every_byte_can_still_be_written(kind: str) -> None:
    trimmed = trim(KINDS[kind], ["banana"])
    for text in (*CORPUS, "\u4f60\u597d \U0001f40e", "\x00\x7f\xff", "<extra_id_1>User</s>"):
        assert trimmed.tokenizer.decode(trimmed.tokenizer.encode(text)) == text


@pytest.mark.parametrize("kind", KINDS)
def test_merges_are_closed(kind: str) -> None:
    before = KINDS[kind]
    trimmed = trim(before, KEPT)
    model, whole = (t.definition["model"] for t in (trimmed.tokenizer, before))
    vocab = model["vocab"]
    pairs = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in model["merges"]]
    all_pairs = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in whole["merges"]]
    assert pairs == [(a, b) for a, b in all_pairs if {a, b, a + b} <= vocab.keys()]
    assert 0 < len(pairs) < len(all_pairs)
    made = {a + b for a, b in pairs}
    was_made = {a + b for a, b in all_pairs}
    if kind != "whole words":
        assert all(text in made for text in vocab if text in was_made)


def test_specials_stay_in_front_and_are_renumbered() -> None:
    before = KINDS["byte level"]
    trimmed = trim(before, KEPT)
    after = trimmed.tokenizer
    for n, marker in enumerate(("<pad>", "<unk>", "<s>", "</s>", *MARKERS)):
        assert after.special_id(marker) == before.special_id(marker) == n
    last = after.vocab_size - 1
    assert after.special_id("<extra_id_9>") == last < before.special_id("<extra_id_9>")  # type: ignore[operator]
    full = tokenizers.Tokenizer.from_str(json.dumps(after.definition))
    assert full.encode("dawn<extra_id_9>").ids[-2:] == [last, last]
    assert (trimmed.config.bos_token_id, trimmed.config.eos_token_id, trimmed.config.pad_token_id) == (2, 3, 0)


def test_streams_are_kept_and_renumbered() -> None:
    before = KINDS["byte level"]
    stream = np.asarray([before.encode(CORPUS[1])[:12], before.encode(CORPUS[3])[:12]], np.uint16)
    trimmed = trim_vocabulary(before, tiny_config(vocab_size=before.vocab_size), streams=[stream])
    new = trimmed.new_ids(stream)
    assert new.shape == stream.shape
    assert np.array_equal(trimmed.kept[new], stream)
    assert [trimmed.tokenizer.token_bytes(int(i)) for i in new[0]] == [before.token_bytes(int(i)) for i in stream[0]]
    foreign = sorted(set(range(before.vocab_size)) - set(trimmed.kept.tolist()))[0]
    with pytest.raises(DataError, match=f"Token {foreign} was trimmed away"):
        trimmed.new_ids(np.asarray([2, foreign]))


def test_room_is_filled_with_the_earliest_merges() -> None:
    before = KINDS["byte level"]
    bare = trim(before, ["x"])
    filled = trim(before, ["x"], size=300, multiple_of=64)
    assert (len(bare.kept), filled.config.vocab_size, len(filled.kept)) == (269, 320, 320)
    assert filled.kept.tolist() == [
        *range(319),
        before.vocab_size - 1,
    ]  # ids 12 to 267 are bytes, merges follow in their order
    check(before, filled, ["x"])
    with pytest.raises(DataError, match="need 269 tokens, more than 200"):
        trim(before, ["x"], size=200)


def test_rows_that_only_fill_up_repeat_the_pad_tokens() -> None:
    trimmed = trim(byte_tokenizer(), ["x"], multiple_of=256)
    assert trimmed.config.vocab_size == 512
    assert trimmed.tokenizer.vocab_size == 268
    assert trimmed.kept.tolist() == [*range(268), *[0] * 244]


def test_logits_of_kept_tokens_are_unchanged() -> None:
    before = KINDS["byte level"]
    files = tiny_model(seed=3, vocab_size=before.vocab_size)
    trimmed = trim_vocabulary(before, files.config, texts=KEPT)
    tensors = stored_tensors(files)
    smaller = prune_vocabulary(tensors, trimmed)
    assert {n: tuple(t.shape) for n, t in smaller.items()} == expected_shapes(trimmed.config)
    models = NemotronLM(files.config), NemotronLM(trimmed.config)
    from_hf_tensors(models[0], tensors)
    from_hf_tensors(models[1], smaller)
    ids = before.encode(KEPT[0])
    with torch.no_grad():
        old = models[0].hidden(torch.tensor([ids]))
        new = models[1].hidden(torch.from_numpy(trimmed.new_ids(np.asarray([ids]))))
        rows = models[0].lm_head.weight[torch.from_numpy(trimmed.kept)]
        assert torch.equal(old, new)
        assert torch.equal(rows, models[1].lm_head.weight)
        assert torch.equal((old @ rows.T), models[1].lm_head(new))
        assert torch.allclose(models[0].lm_head(old)[..., trimmed.kept], models[1].lm_head(new), rtol=0, atol=1e-5)


def test_a_text_that_encodes_otherwise_is_found() -> None:
    before = KINDS["byte level"]
    trimmed = trim(before, KEPT)
    with pytest.raises(DataError, match="encode otherwise than before, from token 0 of"):
        check(before, trimmed, [CORPUS[1]])
    ids = np.asarray(before.encode(KEPT[0]))
    with pytest.raises(DataError, match=f"from token {len(ids) - 1} of {len(ids)} on"):
        check_encodings(trimmed, ids, trimmed.new_ids(ids)[:-1])


def test_markers_that_merges_can_build_are_safe() -> None:
    """Specials that are also merged from characters: `Tokenizer` breaks them up, before and after alike."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["<extra_id_1>User</s>"] * 20, trainer)
    definition = json.loads(tokenizer.to_str())
    vocab = definition["model"]["vocab"]
    special = ["<pad>", "<unk>", "<s>", "</s>", "<extra_id_1>User</s>"]
    for text in special:
        vocab.setdefault(text, len(vocab))
    definition["added_tokens"] = [{"id": vocab[t], "content": t, **FLAGS} for t in special]
    before = Tokenizer(definition)
    texts = ["say <extra_id_1>User</s> twice", "<extra_id_1>User</s>", "plain <extra"]
    config = tiny_config(
        vocab_size=before.vocab_size, bos_token_id=vocab["<s>"], eos_token_id=vocab["</s>"], pad_token_id=vocab["<pad>"]
    )
    trimmed = trim_vocabulary(before, config, texts=texts)
    check(before, trimmed, texts)
    assert trimmed.config.eos_token_id == trimmed.tokenizer.special_id("</s>")


def test_other_tokenizers_are_refused() -> None:
    words = {"type": "WordLevel", "vocab": {"<s>": 0, "</s>": 1}, "unk_token": "<s>"}
    definition = {**byte_tokenizer().definition, "model": words, "added_tokens": []}
    with pytest.raises(ModelFileError, match=r"Only BPE .* 'WordLevel'"):
        trim_vocabulary(Tokenizer(definition), tiny_config(), texts=["x"])
    with pytest.raises(ModelFileError, match="dropout"):
        trim(byte_level(dropout=0.1), ["x"])
    plain = {**byte_tokenizer().definition, "pre_tokenizer": None, "decoder": None}
    with pytest.raises(ModelFileError, match="spells neither bytes"):
        trim(Tokenizer(plain), ["x"])


def test_foreign_ids_are_refused() -> None:
    with pytest.raises(DataError, match="ids from 5 to 999"):
        trim_vocabulary(byte_tokenizer(), tiny_config(), streams=[np.asarray([5, 999])])
    with pytest.raises(DataError, match="Token 270 is in a stream"):
        trim_vocabulary(byte_tokenizer(), tiny_config(vocab_size=300), streams=[np.asarray([270])])
