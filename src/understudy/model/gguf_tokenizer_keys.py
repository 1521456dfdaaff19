"""A byte-level BPE tokenizer in GGUF's words."""

import json
from collections.abc import Mapping
from typing import Any

from understudy.errors import ModelFileError
from understudy.model.config import NemotronConfig
from understudy.model.gguf_tokenizer import TokenType
from understudy.tokenizer import Tokenizer

__all__ = ["tokenizer_to_gguf"]


def tokenizer_to_gguf(definition: Mapping[str, Any], config: NemotronConfig) -> dict[str, Any]:
    """Metadata keys and values of a tokenizer: llama.cpp's own, and the whole `tokenizer.json` for everyone else.

    Ids of the model that the tokenizer has no token for become unused `[PAD...]` tokens.

    Raises:
        ModelFileError: the tokenizer is no byte-level BPE with GPT-2's split, or has more tokens than the model.
    """
    model = definition.get("model")
    if not isinstance(model, Mapping) or model.get("type") != "BPE" or not _is_gpt2_split(definition):
        raise ModelFileError(
            "Only byte-level BPE tokenizers with GPT-2's split can be written to GGUF (pre_tokenizer ByteLevel, "
            "add_prefix_space false, no normalizer)."
        )
    specials = Tokenizer(definition).specials
    tokens = [f"[PAD{i}]" for i in range(config.vocab_size)]
    types = [TokenType.UNUSED] * config.vocab_size
    ids = {**model["vocab"], **{t["content"]: t["id"] for t in definition.get("added_tokens") or []}}
    for text, token_id in ids.items():
        if not 0 <= token_id < config.vocab_size:
            raise ModelFileError(
                f"The tokenizer's token {text!r} has id {token_id}, but the model has {config.vocab_size}."
            )
        tokens[token_id] = text
        types[token_id] = TokenType.CONTROL if text in specials else TokenType.NORMAL
    for token in definition.get("added_tokens") or []:
        if token["content"] not in specials:
            types[token["id"]] = TokenType.USER_DEFINED
    keys: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": [m if isinstance(m, str) else " ".join(m) for m in model["merges"]],
        "tokenizer.ggml.bos_token_id": config.bos_token_id,
        "tokenizer.ggml.eos_token_id": config.eos_token_id,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.huggingface.json": json.dumps(dict(definition), ensure_ascii=False),
    }
    if config.pad_token_id is not None:
        keys["tokenizer.ggml.padding_token_id"] = config.pad_token_id
    if "<unk>" in ids:
        keys["tokenizer.ggml.unknown_token_id"] = ids["<unk>"]
    return keys


def _is_gpt2_split(definition: Mapping[str, Any]) -> bool:
    split = definition.get("pre_tokenizer")
    return (
        isinstance(split, Mapping)
        and split.get("type") == "ByteLevel"
        and not split.get("add_prefix_space")
        and split.get("use_regex", True)
        and not definition.get("normalizer")
    )
