"""Text to token ids and back; text that is not trusted can never become a special token."""

import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from understudy.errors import ModelFileError
from understudy.tokenizer.recent import RecentTexts

__all__ = ["Tokenizer"]

_RECENT_CHARS = 1 << 18
_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Tokenizer:
    """A `tokenizers` tokenizer with three guarantees on top.

    `encode` never yields a special token, whatever the text says; `special_id` is the only way to one; and
    `token_bytes` gives the exact bytes of each token, so that a stream can hold back half a UTF-8 character.
    """

    def __init__(self, definition: Mapping[str, Any], *, specials: Mapping[str, int] | None = None) -> None:
        """Build from the content of a `tokenizer.json`.

        Args:
            definition: the parsed JSON.
            specials: further special tokens by text, where the source (a GGUF's token types) knows more than the JSON.

        Raises:
            ModelFileError: `tokenizers` refuses the definition.
        """
        added = definition.get("added_tokens") or []
        if not _are_added_tokens(added):
            raise ModelFileError("The tokenizer's added_tokens must be a list of objects with 'id' and 'content'.")
        self.specials: dict[str, int] = {
            str(t["content"]): int(t["id"]) for t in added if t.get("special") or _looks_special(str(t["content"]))
        }
        self.specials.update(specials or {})
        plain = {**definition, "added_tokens": [t for t in added if str(t["content"]) not in self.specials]}
        try:
            self._text = json.dumps(definition)
            self._is_byte_level = '"ByteLevel"' in json.dumps(definition.get("decoder"))
            full = tokenizers.Tokenizer.from_str(self._text)
            self._vocab_size: int = full.get_vocab_size(with_added_tokens=True)
            of_added = {text: full.token_to_id(text) for text in (str(t["content"]) for t in added)}
            del full  # it takes as much memory as the other one
            self._plain = tokenizers.Tokenizer.from_str(json.dumps(plain))
        except Exception as error:  # tokenizers raises bare Exception for every malformed definition
            raise ModelFileError(f"The tokenizer definition cannot be used: {error}.") from error
        self._added_ids = {text: token_id for text, token_id in of_added.items() if token_id is not None}
        # Added tokens behind the model's own have their ids by their order, which special ones have a part in.
        ordinary = ((self._plain.token_to_id(text), i) for text, i in self._added_ids.items())
        self._moved = {was: i for was, i in ordinary if was is not None and was != i}
        self._plain.no_padding()
        self._plain.no_truncation()
        self._recent = RecentTexts(_RECENT_CHARS)
        self._special_ids = frozenset(self.specials.values())
        self._special_pattern = (
            re.compile("|".join(re.escape(s) for s in sorted(self.specials, key=len, reverse=True)))
            if self.specials
            else None
        )

    @classmethod
    def from_file(cls, path: Path) -> "Tokenizer":
        """Read a `tokenizer.json`.

        Raises:
            ModelFileError: the file is missing or not a tokenizer.
        """
        try:
            definition = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ModelFileError(f"There is no tokenizer at {path}; put the model's tokenizer.json there.") from error
        except (OSError, ValueError, RecursionError) as error:
            raise ModelFileError(f"{path} is not a readable tokenizer.json: {error}.") from error
        if not isinstance(definition, dict) or "model" not in definition:
            raise ModelFileError(f"{path} is not a tokenizer.json: it has no 'model'.")
        return cls(definition)

    @property
    def definition(self) -> dict[str, Any]:
        """The content of a `tokenizer.json`, parsed at each look: it takes four times the text's memory."""
        content: dict[str, Any] = json.loads(self._text)
        return content

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included."""
        return self._vocab_size

    def encode(self, text: str) -> list[int]:
        """Turn text of any origin into ids, none of them special.

        A marker such as `<extra_id_1>` inside the text comes out as its ordinary characters.
        """
        known = self._recent.get(text)
        if known is None:
            known = tuple(self._encode(text))
            self._recent.put(text, known)
        return list(known)

    def _encode(self, text: str) -> list[int]:
        ids = self._plain_ids(text)
        if self._special_ids.isdisjoint(ids):
            return ids
        # A vocabulary whose merges can build a marker: break every marker after its first character.
        assert self._special_pattern is not None
        pieces: list[str] = []
        end = 0
        for match in self._special_pattern.finditer(text):
            pieces += [text[end : match.start() + 1]]
            end = match.start() + 1
        pieces.append(text[end:])
        ids = [i for piece in pieces if piece for i in self._plain_ids(piece)]
        return [i for i in ids if i not in self._special_ids]

    def _plain_ids(self, text: str) -> list[int]:
        return self._settled(self._plain.encode(text, add_special_tokens=False).ids)

    def _settled(self, ids: list[int]) -> list[int]:
        return [self._moved.get(i, i) for i in ids] if self._moved else ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode many texts on all cores; like `encode`, one list of ids a text."""
        encoded = self._plain.encode_batch_fast(list(texts), add_special_tokens=False)
        found = [self._settled(e.ids) for e in encoded]
        return [
            ids if self._special_ids.isdisjoint(ids) else self.encode(t) for ids, t in zip(found, texts, strict=True)
        ]

    def special_id(self, marker: str) -> int | None:
        """Id of a special token by its text, or None where the vocabulary has no such token."""
        return self.specials.get(marker)

    def is_special(self, token_id: int) -> bool:
        """Whether the id is a control token, whose text a player never sees."""
        return token_id in self._special_ids

    def token_bytes(self, token_id: int) -> bytes:
        """Exact bytes that a token adds to the text; empty for special tokens and ids without a token."""
        if token_id in self._special_ids or not 0 <= token_id < len(self._pieces):
            return b""
        return self._pieces[token_id]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids; special tokens vanish, bytes that are no UTF-8 become U+FFFD."""
        data = b"".join(self.token_bytes(i) for i in ids)
        return data.decode("utf-8", errors="replace")

    @cached_property
    def _pieces(self) -> list[bytes]:
        size = self.vocab_size
        texts: list[str | None] = [None] * size
        for text, token_id in {**self._plain.get_vocab(with_added_tokens=False), **self._added_ids}.items():
            if token_id < size:
                texts[token_id] = text
        added = frozenset(self._added_ids.values())
        to_bytes = _byte_level_bytes if self._is_byte_level else _sentencepiece_bytes
        return [
            b"" if text is None else (text.encode() if i in added else to_bytes(text)) for i, text in enumerate(texts)
        ]


def _are_added_tokens(added: Any) -> bool:
    return isinstance(added, list) and all(
        isinstance(t, dict) and isinstance(t.get("content"), str) and type(t.get("id")) is int for t in added
    )


def _looks_special(text: str) -> bool:
    return bool(re.fullmatch(r"<extra_id_\d+>|</?s>|<unk>|<pad>|<\|[^|]*\|>", text))


def _byte_level_alphabet() -> dict[str, int]:
    """GPT-2's table from printable characters to the bytes they stand for."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(b): b for b in printable}
    others = (b for b in range(256) if b not in set(printable))
    table.update({chr(256 + n): b for n, b in enumerate(others)})
    return table


_ALPHABET = _byte_level_alphabet()


def _byte_level_bytes(piece: str) -> bytes:
    try:
        return bytes(_ALPHABET[c] for c in piece)
    except KeyError:
        return piece.encode()


def _sentencepiece_bytes(piece: str) -> bytes:
    if match := _BYTE_PIECE.fullmatch(piece):
        return bytes([int(match[1], 16)])
    return piece.replace("\u2581", " ").encode()
