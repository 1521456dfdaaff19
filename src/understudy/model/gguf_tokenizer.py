"""A tokenizer from a GGUF file's metadata."""

from collections.abc import Mapping
from typing import Any

from understudy.errors import ModelFileError
from understudy.model.mapped_file import parse_json_object
from understudy.tokenizer import Tokenizer

__all__ = ["TokenType", "tokenizer_from_gguf"]

_SPACE = "\u2581"
_GPT2_SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
# llama.cpp's split for files that name no pre-tokenizer
_DEFAULT_SPLITS = (r"[\p{P}\$\+<=>\^~\|]+", _GPT2_SPLIT, r"\p{N}+", r"[0-9][0-9][0-9]")


class TokenType:
    """GGUF's kinds of tokens."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


def tokenizer_from_gguf(metadata: Mapping[str, Any]) -> Tokenizer:
    """Build the tokenizer.

    The file's own `tokenizer.huggingface.json` is used where there is one; otherwise the definition is rebuilt from the
    `tokenizer.ggml.*` keys, for byte-level BPE ("gpt2") and for SentencePiece BPE ("llama").

    Raises:
        ModelFileError: no tokenizer, one of another kind, or a malformed one.
    """
    tokens, types = _vocabulary(metadata)
    controls = {t: i for i, (t, kind) in enumerate(zip(tokens, types, strict=True)) if kind == TokenType.CONTROL}
    own = metadata.get("tokenizer.huggingface.json")
    if isinstance(own, str):
        definition = parse_json_object(own.encode(), "tokenizer.huggingface.json")
        return Tokenizer(definition, specials=controls)
    model = metadata.get("tokenizer.ggml.model")
    if not tokens:
        raise ModelFileError("The GGUF file has no tokenizer (tokenizer.ggml.tokens); convert the model again.")
    if model == "gpt2":
        return Tokenizer(_byte_level_definition(tokens, types, metadata), specials=controls)
    if model == "llama":
        return Tokenizer(_sentencepiece_definition(tokens, types, metadata), specials=controls)
    raise ModelFileError(
        f"The GGUF file's tokenizer is of the kind {str(model)[:40]!r}; Understudy reads 'gpt2' (byte-level BPE) and "
        "'llama' (SentencePiece BPE): convert the model again with its tokenizer.json."
    )


def _vocabulary(metadata: Mapping[str, Any]) -> tuple[list[str], list[int]]:
    tokens = metadata.get("tokenizer.ggml.tokens", [])
    if not _is_list_of(tokens, str):
        raise ModelFileError("tokenizer.ggml.tokens must be a list of texts; convert the model again.")
    types = metadata.get("tokenizer.ggml.token_type", [TokenType.NORMAL] * len(tokens))
    if not _is_list_of(types, int) or len(types) != len(tokens):
        raise ModelFileError(f"tokenizer.ggml.token_type must hold {len(tokens)} numbers; convert the model again.")
    return tokens, types


def _is_list_of(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(type(v) is kind for v in value)


def _added_tokens(tokens: list[str], types: list[int]) -> list[dict[str, Any]]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return [
        {"id": i, "content": text, "special": kind == TokenType.CONTROL, **flags}
        for i, (text, kind) in enumerate(zip(tokens, types, strict=True))
        if text and (kind == TokenType.CONTROL or (kind == TokenType.USER_DEFINED and _SPACE not in text))
    ]


def _definition(tokens: list[str], types: list[int], **parts: Any) -> dict[str, Any]:
    empty = {"version": "1.0", "truncation": None, "padding": None, "post_processor": None, "pre_tokenizer": None}
    return {**empty, "normalizer": None, "added_tokens": _added_tokens(tokens, types), **parts}


def _numbered(tokens: list[str]) -> dict[str, int]:
    """Ids by text; the first of doubled texts counts."""
    vocab: dict[str, int] = {}
    for i, text in enumerate(tokens):
        vocab.setdefault(text, i)
    return vocab


def _byte_level_definition(tokens: list[str], types: list[int], metadata: Mapping[str, Any]) -> dict[str, Any]:
    merges = metadata.get("tokenizer.ggml.merges")
    if not _is_list_of(merges, str):
        raise ModelFileError("tokenizer.ggml.merges must be a list of texts; convert the model again.")
    assert merges is not None
    kind = metadata.get("tokenizer.ggml.pre", "default")
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": kind == "gpt-2"}
    if kind == "gpt-2":
        pre_tokenizer: dict[str, Any] = byte_level
    elif kind == "default":
        splits = [
            {"type": "Split", "pattern": {"Regex": r}, "behavior": "Isolated", "invert": False} for r in _DEFAULT_SPLITS
        ]
        pre_tokenizer = {"type": "Sequence", "pretokenizers": [*splits, byte_level]}
    else:
        raise ModelFileError(
            f"The GGUF file splits words as {str(kind)[:40]!r}; Understudy knows 'gpt-2' and 'default': convert "
            "the model again with its tokenizer.json."
        )
    model = {"type": "BPE", "vocab": _numbered(tokens), "merges": merges, "unk_token": None}
    return _definition(tokens, types, model=model, pre_tokenizer=pre_tokenizer, decoder=byte_level)


def _sentencepiece_definition(tokens: list[str], types: list[int], metadata: Mapping[str, Any]) -> dict[str, Any]:
    scores = metadata.get("tokenizer.ggml.scores")
    if not _is_list_of(scores, float) or scores is None or len(scores) != len(tokens):
        raise ModelFileError(f"tokenizer.ggml.scores must hold {len(tokens)} numbers; convert the model again.")
    spaces: list[dict[str, Any]] = [{"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}]
    if metadata.get("tokenizer.ggml.add_space_prefix", True):
        spaces.insert(0, {"type": "Prepend", "prepend": _SPACE})
    model = {
        "type": "BPE",
        "vocab": _numbered(tokens),
        "merges": _merges_from_scores(tokens, types, scores),
        "unk_token": next((t for t, kind in zip(tokens, types, strict=True) if kind == TokenType.UNKNOWN), None),
        "fuse_unk": True,
        "byte_fallback": TokenType.BYTE in types,
    }
    decoder = [
        {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    return _definition(
        tokens,
        types,
        model=model,
        normalizer={"type": "Sequence", "normalizers": spaces},
        decoder={"type": "Sequence", "decoders": decoder},
    )


def _merges_from_scores(tokens: list[str], types: list[int], scores: list[float]) -> list[list[str]]:
    """Every pair of pieces that makes a piece, best score first: SentencePiece's greedy merging as BPE ranks."""
    usable = (TokenType.NORMAL, TokenType.USER_DEFINED, TokenType.UNUSED)
    ids = {t: i for i, t in enumerate(tokens) if types[i] in usable}
    ranked: list[tuple[float, int, int]] = []
    for text, i in ids.items():
        for cut in range(1, len(text)):
            left, right = ids.get(text[:cut]), ids.get(text[cut:])
            if left is not None and right is not None:
                ranked.append((-scores[i], left, right))
    ranked.sort()
    return [[tokens[left], tokens[right]] for _, left, right in ranked]
