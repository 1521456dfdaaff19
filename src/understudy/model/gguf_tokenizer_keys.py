"""A tokenizer in GGUF's words: byte-level BPE, or SentencePiece's BPE as the published models have it."""

import json
import re
from collections.abc import Mapping
from typing import Any

from understudy.errors import ModelFileError
from understudy.model.config import NemotronConfig
from understudy.model.gguf_tokenizer import TokenType
from understudy.tokenizer import Tokenizer

__all__ = ["tokenizer_to_gguf"]

_SPACE = "\u2581"
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


def tokenizer_to_gguf(definition: Mapping[str, Any], config: NemotronConfig) -> dict[str, Any]:
    """Metadata keys and values of a tokenizer: llama.cpp's own, and the whole `tokenizer.json` for everyone else.

    Ids of the model that the tokenizer has no token for become unused `[PAD...]` tokens.

    Raises:
        ModelFileError: the tokenizer is neither byte-level BPE with GPT-2's split nor SentencePiece's BPE, or has more
            tokens than the model.
    """
    model = definition.get("model")
    if not isinstance(model, Mapping) or model.get("type") != "BPE":
        raise ModelFileError(
            "Only BPE tokenizers can be written to GGUF: byte-level ones with GPT-2's split, and SentencePiece's."
        )
    if _is_gpt2_split(definition):
        keys = _byte_level_keys(model)
    elif (prefix := _space_prefix(definition)) is not None:
        keys = {"tokenizer.ggml.model": "llama", "tokenizer.ggml.add_space_prefix": prefix}
    else:
        raise ModelFileError(
            "The tokenizer splits words in a way that GGUF has no name for; known are GPT-2's byte-level split "
            "(pre_tokenizer ByteLevel, add_prefix_space false, no normalizer) and SentencePiece's (spaces are \u2581)."
        )
    tokens, types = _token_lists(definition, config)
    if keys["tokenizer.ggml.model"] == "llama":
        keys["tokenizer.ggml.scores"] = _scores(tokens, model["merges"])
        types = [_sentencepiece_type(text, kind, model) for text, kind in zip(tokens, types, strict=True)]
    keys |= {
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.bos_token_id": config.bos_token_id,
        "tokenizer.ggml.eos_token_id": config.eos_token_id,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.huggingface.json": json.dumps(dict(definition), ensure_ascii=False),
    }
    if config.pad_token_id is not None:
        keys["tokenizer.ggml.padding_token_id"] = config.pad_token_id
    if "<unk>" in tokens:
        keys["tokenizer.ggml.unknown_token_id"] = tokens.index("<unk>")
    return keys


def _byte_level_keys(model: Mapping[str, Any]) -> dict[str, Any]:
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    return {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.merges": merges}


def _token_lists(definition: Mapping[str, Any], config: NemotronConfig) -> tuple[list[str], list[int]]:
    """Texts and kinds of all ids."""
    specials = Tokenizer(definition).specials
    added = definition.get("added_tokens") or []
    tokens = [f"[PAD{i}]" for i in range(config.vocab_size)]
    types = [TokenType.UNUSED] * config.vocab_size
    for text, token_id in {**definition["model"]["vocab"], **{t["content"]: t["id"] for t in added}}.items():
        if not 0 <= token_id < config.vocab_size:
            raise ModelFileError(
                f"The tokenizer's token {text!r} has id {token_id}, but the model has {config.vocab_size}."
            )
        tokens[token_id] = text
        types[token_id] = TokenType.CONTROL if text in specials else TokenType.NORMAL
    for token in added:
        if token["content"] not in specials:
            types[token["id"]] = TokenType.USER_DEFINED
    return tokens, types


def _scores(tokens: list[str], merges: list[Any]) -> list[float]:
    """SentencePiece merges the pair whose piece has the best score: the earlier a merge, the better.

    What no merge makes comes last, the higher its id the later; of single characters the score never counts.
    """
    rank: dict[str, int] = {}
    for number, merge in enumerate(merges):
        left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
        rank.setdefault(left + right, number)
    return [float(-rank.get(text, len(merges) + i)) for i, text in enumerate(tokens)]


def _sentencepiece_type(text: str, kind: int, model: Mapping[str, Any]) -> int:
    if text == (model.get("unk_token") or "<unk>"):
        return TokenType.UNKNOWN
    if kind == TokenType.NORMAL and model.get("byte_fallback") and _BYTE.fullmatch(text):
        return TokenType.BYTE
    return kind


def _space_prefix(definition: Mapping[str, Any]) -> bool | None:
    """Whether a text gets a space in front; None if the tokenizer does not write spaces as SentencePiece does."""
    normalizer = definition.get("normalizer") or {}
    steps = normalizer.get("normalizers", [normalizer])
    split = definition.get("pre_tokenizer") or {}
    splits = split.get("pretokenizers", [split])
    for one in splits:
        if one.get("type") == "Metaspace" and one.get("replacement", _SPACE) == _SPACE:
            scheme = one.get("prepend_scheme", "always" if one.get("add_prefix_space", True) else "never")
            return bool(scheme != "never")
    for one in steps:
        if one.get("type") == "Replace" and one.get("pattern") == {"String": " "} and one.get("content") == _SPACE:
            return any(step.get("type") == "Prepend" and step.get("prepend") == _SPACE for step in steps)
    return None


def _is_gpt2_split(definition: Mapping[str, Any]) -> bool:
    split = definition.get("pre_tokenizer")
    return (
        isinstance(split, Mapping)
        and split.get("type") == "ByteLevel"
        and not split.get("add_prefix_space")
        and split.get("use_regex", True)
        and not definition.get("normalizer")
    )
