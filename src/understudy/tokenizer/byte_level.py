"""A tokenizer that spells: one token a byte."""

from collections.abc import Sequence
from typing import Any

__all__ = ["byte_level_definition"]


def byte_level_definition(specials: Sequence[str], *, vocab_size: int | None = None) -> dict[str, Any]:
    """The `tokenizer.json` of a byte-level BPE without merges: special tokens first, then the bytes 0-255.

    Args:
        specials: special tokens, ids from 0 on.
        vocab_size: number of ids; those left over have names and are never used. None for no more than needed.

    Raises:
        ValueError: the vocabulary is too small for specials and bytes.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    letters = {**{b: chr(b) for b in printable}, **{b: chr(256 + n) for n, b in enumerate(others)}}
    names = [*specials, *(letters[b] for b in range(256))]
    size = len(names) if vocab_size is None else vocab_size
    if size < len(names):
        raise ValueError(f"A vocabulary of {size} cannot hold {len(names)} bytes and special tokens.")
    names += [f"<unused_{n}>" for n in range(size - len(names))]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": text, **flags} for i, text in enumerate(specials)],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {"type": "BPE", "unk_token": None, "vocab": {text: i for i, text in enumerate(names)}, "merges": []},
    }
