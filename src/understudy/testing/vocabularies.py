"""Tokenizers of odd vocabularies: byte fallback without markers, and tokens that hold several marks of JSON."""

from collections.abc import Sequence

from understudy.tokenizer import Tokenizer
from understudy.tokenizer.byte_level import byte_level_definition

__all__ = ["json_tokenizer", "sentencepiece_tokenizer"]

_SPACE = "\u2581"
_MARKS = (
    '": "',
    '", "',
    '": {"',
    '"}}',
    '}, {"',
    "[[",
    "]]}",
    "{}",
    '\\"',
    '\\n"',
    "-1",
    "00",
    "0.5",
    "true",
    'e"',
    "</",
)


def json_tokenizer(specials: Sequence[str]) -> Tokenizer:
    """Byte-level, with merges over words and marks; a token may close a string, two objects, and more.

    Args:
        specials: special tokens, ids from 0 on.
    """
    definition = byte_level_definition(specials)
    definition["pre_tokenizer"] = {
        **definition["pre_tokenizer"],
        "use_regex": False,
    }  # which would part words and marks
    vocab, merges = definition["model"]["vocab"], definition["model"]["merges"]
    letters = [*vocab][len(specials) :]
    halves = (b'"\xc3', b"\xb3\xc5", b'\xa9"', "żó".encode())  # half a character, at a border and alone
    for data in (*(mark.encode() for mark in _MARKS), *halves):
        spelled = [letters[byte] for byte in data]
        for size in range(2, len(spelled) + 1):
            joined = "".join(spelled[:size])
            if joined not in vocab:
                vocab[joined] = len(vocab)
                merges.append(f"{''.join(spelled[: size - 1])} {spelled[size - 1]}")
    return Tokenizer(definition)


def sentencepiece_tokenizer(*, has_lead: bool) -> Tokenizer:
    """Byte fallback, spaces as U+2581, a few merges, no markers; published models come so.

    Args:
        has_lead: a space is put before every text's first character.
    """
    pieces = ["<pad>", "<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256))]
    letters = [_SPACE, *'abcdefghijklmnopqrstuvwxyz{}[]:,"<>/_\n']
    merges = [(_SPACE, "t"), ("t", "h"), ("th", "e"), (_SPACE, "the"), ('"', ":"), ("{", '"')]
    pieces += [*letters, *("".join(m) for m in merges)]
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    lead = [{"type": "Prepend", "prepend": _SPACE}] if has_lead else []
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return Tokenizer(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [{"id": i, "content": pieces[i], **flags} for i in range(4)],
            "normalizer": {"type": "Sequence", "normalizers": [*lead, replace]},
            "pre_tokenizer": None,
            "post_processor": None,
            "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
            "model": {
                "type": "BPE",
                "unk_token": "<unk>",
                "byte_fallback": True,
                "fuse_unk": True,
                "vocab": {p: i for i, p in enumerate(pieces)},
                "merges": [list(m) for m in merges],
            },
        }
    )
