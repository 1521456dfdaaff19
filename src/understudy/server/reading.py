"""The model's text as it comes: words for the client, and pieces of tool calls."""

import dataclasses
import json
import re
import secrets
from typing import Protocol

from understudy.prompt import AnswerParser
from understudy.prompt.template import call_line

__all__ = ["CallPart", "CallsReader", "FormReader", "Reader", "WordsReader"]

_OPEN = "<toolcall>"
_HEAD = re.compile(r'\s*\{"name": ("[^"]*"), "arguments": ')


@dataclasses.dataclass(frozen=True, kw_only=True)
class CallPart:
    """What a call grows by.

    Attributes:
        number: of the call in its answer, from 0.
        id: of the call; empty but in its first part.
        name: of the function; empty but in the first part.
        arguments: the next piece of their JSON.
        is_last: the arguments are complete.
    """

    number: int
    id: str = ""
    name: str = ""
    arguments: str = ""
    is_last: bool = False


class Reader(Protocol):
    """Reads one answer."""

    def read(self, text: str, *, is_final: bool) -> tuple[str, tuple[CallPart, ...]]:
        """Take the next text; what can be given out of it now: words, and parts of calls, which come after them."""
        ...


class FormReader:
    """An answer of a given form: every character counts, also one that looks like a marker."""

    def read(self, text: str, *, is_final: bool) -> tuple[str, tuple[CallPart, ...]]:  # noqa: ARG002 (as the protocol)
        """The text as it is."""
        return text, ()


class WordsReader:
    """An answer to a client that offered no functions: a call that the model makes all the same is only words."""

    def __init__(self) -> None:
        self._parser = AnswerParser()
        self._num_calls = 0
        self._has_spoken = False

    def read(self, text: str, *, is_final: bool) -> tuple[str, tuple[CallPart, ...]]:
        """Words without markers, and without white space at the answer's ends."""
        words = self._parser.push(text) + (self._parser.finish() if is_final else "")
        for call in self._parser.tool_calls[self._num_calls :]:
            self._num_calls += 1
            words += ("\n" if self._has_spoken or words else "") + call_line(call)
        self._has_spoken = self._has_spoken or bool(words)
        return words, ()


class CallsReader:
    """An answer under a grammar of tool calls: whole calls follow the words, and nothing else follows a call."""

    def __init__(self, *, is_form: bool = False) -> None:
        """Start an answer.

        Args:
            is_form: an answer without calls is of a given form; calls then come first or never.
        """
        self._words: Reader = FormReader() if is_form else WordsReader()
        self._may_turn = not is_form  # from words to calls, once there are words
        self._has_words = False
        self._rest = ""
        self._arguments: _ObjectEnd | None = None
        self._number = -1  # of the call that was opened last

    def read(self, text: str, *, is_final: bool) -> tuple[str, tuple[CallPart, ...]]:
        """Words, and the calls' parts as far as they have come."""
        self._rest += text
        words = self._read_words(is_final=is_final) if self._number < 0 else ""
        parts: list[CallPart] = []
        while self._number >= 0 and (part := self._next_part()) is not None:
            parts.append(part)
        return words, tuple(parts)

    def _read_words(self, *, is_final: bool) -> str:
        """Take what stands before the first call; with the call's marker, if that has come."""
        may_open = self._may_turn or not self._has_words
        begin = self._rest.find(_OPEN) if may_open else -1
        if begin > 0 and not self._may_turn:
            begin = -1
        num_held = self._num_held() if may_open and begin < 0 and not is_final else 0
        end = begin if begin >= 0 else len(self._rest) - num_held
        words = self._words.read(self._rest[:end], is_final=is_final or begin >= 0)[0]
        self._has_words = self._has_words or end > 0
        self._rest = self._rest[end:]
        if begin >= 0:
            self._number = 0
            self._rest = self._rest.removeprefix(_OPEN)
        return words

    def _num_held(self) -> int:
        """Length of the longest end of the text that may be the marker's beginning."""
        sizes = range(min(len(_OPEN) - 1, len(self._rest)), 0, -1)
        return next((n for n in sizes if self._rest.endswith(_OPEN[:n])), 0)

    def _next_part(self) -> CallPart | None:
        """The next part of a call; None if more text must come."""
        if self._arguments is not None:
            return self._next_arguments(self._arguments)
        head = _HEAD.match(self._rest)
        if head is None:
            return None
        self._rest = self._rest[head.end() :]
        self._arguments = _ObjectEnd()
        return CallPart(number=self._number, id=f"call_{secrets.token_hex(12)}", name=json.loads(head[1]))

    def _next_arguments(self, arguments: "_ObjectEnd") -> CallPart | None:
        if arguments.is_found:
            begin = self._rest.find(_OPEN)
            if begin < 0:
                return None
            self._rest = self._rest[begin + len(_OPEN) :]
            self._arguments = None
            self._number += 1
            return self._next_part()
        piece = self._rest[: arguments.search(self._rest)]
        if not piece:
            return None
        self._rest = self._rest[len(piece) :]
        return CallPart(number=self._number, arguments=piece, is_last=arguments.is_found)


class _ObjectEnd:
    """Looks for the end of a JSON object that comes in pieces and is known to be right."""

    def __init__(self) -> None:
        self.is_found = False
        self._depth = 0
        self._is_text = False
        self._is_escaped = False

    def search(self, piece: str) -> int:
        """How many characters of the next piece belong to the object."""
        for place, character in enumerate(piece):
            if self._is_escaped:
                self._is_escaped = False
            elif self._is_text:
                self._is_escaped = character == "\\"
                self._is_text = character != '"'
            elif character == '"':
                self._is_text = True
            else:
                self._depth += (character in "{[") - (character in "}]")
                if self._depth == 0:
                    self.is_found = True
                    return place + 1
        return len(piece)
