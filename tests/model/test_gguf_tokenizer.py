"""Tokenizers rebuilt from a GGUF's vocabulary, against what SentencePiece itself encodes.

The golden files hold vocabularies that `sentencepiece` trained (BPE, byte fallback, digits split) and its ids for 272
texts.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from understudy.errors import ModelFileError
from understudy.model.gguf_tokenizer import tokenizer_from_gguf
from understudy.model.gguf_tokenizer_keys import tokenizer_to_gguf
from understudy.testing.tiny import tiny_config

GOLDEN = Path(__file__).parents[1] / "golden" / "sentencepiece"


def metadata_of(golden: dict[str, Any]) -> dict[str, Any]:
    keys = {f"tokenizer.ggml.{k}": golden[k] for k in ("tokens", "scores", "token_type", "add_space_prefix")}
    return {"tokenizer.ggml.model": "llama", **keys}


@pytest.fixture(params=["prefix", "no_prefix"])
def golden(request: pytest.FixtureRequest) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((GOLDEN / f"{request.param}.json").read_text(encoding="utf-8"))
    return loaded


def test_ids_are_those_of_sentencepiece(golden: dict[str, Any]) -> None:
    tokenizer = tokenizer_from_gguf(metadata_of(golden))
    assert len(golden["cases"]) > 200
    for text, ids in golden["cases"]:
        assert tokenizer.encode(text) == ids, text


def test_text_comes_back(golden: dict[str, Any]) -> None:
    tokenizer = tokenizer_from_gguf(metadata_of(golden))
    for text, _ in golden["cases"]:
        prefix = " " if golden["add_space_prefix"] and text else ""
        # a literal ▁ is a space to SentencePiece
        assert tokenizer.decode(tokenizer.encode(text)) == (prefix + text).replace("\u2581", " ")


def test_control_tokens_are_special(golden: dict[str, Any]) -> None:
    tokenizer = tokenizer_from_gguf(metadata_of(golden))
    marker = tokenizer.special_id("<extra_id_1>")
    assert marker == golden["tokens"].index("<extra_id_1>")
    assert marker not in tokenizer.encode("<extra_id_1>User")
    assert tokenizer.token_bytes(golden["tokens"].index("<0x0A>")) == b"\n"


def test_sentencepiece_vocabularies_are_written(golden: dict[str, Any]) -> None:
    """Written to GGUF and rebuilt from llama.cpp's own keys alone, it encodes as SentencePiece does."""
    tokenizer = tokenizer_from_gguf(metadata_of(golden))
    config = tiny_config(vocab_size=len(golden["tokens"]) + 3)
    keys = tokenizer_to_gguf(tokenizer.definition, config)
    assert keys["tokenizer.ggml.model"] == "llama"
    assert keys["tokenizer.ggml.add_space_prefix"] == golden["add_space_prefix"]
    assert keys["tokenizer.ggml.tokens"][:-3] == golden["tokens"]
    assert keys["tokenizer.ggml.token_type"][:-3] == golden["token_type"]
    del keys["tokenizer.huggingface.json"]
    rebuilt = tokenizer_from_gguf(keys)
    for text, ids in golden["cases"]:
        assert rebuilt.encode(text) == ids, text
    metaspace = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": False}
    other = {**tokenizer.definition, "normalizer": None, "pre_tokenizer": metaspace}
    assert tokenizer_to_gguf(other, config)["tokenizer.ggml.add_space_prefix"] is True


def test_a_split_that_gguf_cannot_name_is_refused(golden: dict[str, Any]) -> None:
    definition = {**tokenizer_from_gguf(metadata_of(golden)).definition, "normalizer": None}
    with pytest.raises(ModelFileError, match="no name for"):
        tokenizer_to_gguf(definition, tiny_config(vocab_size=len(golden["tokens"])))


@pytest.mark.parametrize("key", ["tokens", "scores", "token_type"])
@pytest.mark.parametrize("value", [None, 3, "abc", [None], ["a", 1]])
def test_malformed_vocabularies_are_refused(golden: dict[str, Any], key: str, value: Any) -> None:
    with pytest.raises(ModelFileError):
        tokenizer_from_gguf({**metadata_of(golden), f"tokenizer.ggml.{key}": value})
