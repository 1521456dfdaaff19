"""The model's answer to spoken text and tool calls."""

import dataclasses
import json
import re
from typing import Any

from understudy.prompt.messages import ToolCall
from understudy.prompt.template import MARKERS

__all__ = ["Answer", "AnswerParser", "parse_answer"]

_OPEN = "<toolcall>"
_MARKER = re.compile("|".join(re.escape(m) for m in MARKERS))
_LONGEST_MARKER = max(map(len, MARKERS))  # all begin with "<"
_CALL_START = re.compile(r"\s*[{\[]")
# A whole JSON string, the beginning of one, a bracket, or what cannot stand outside of a string.
_JSON_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|["{}\[\]<]', re.DOTALL)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """What the model said.

    Attributes:
        text: spoken words without markers, without white space at the ends.
        tool_calls: in the model's order; their `id` is empty.
    """

    text: str
    tool_calls: tuple[ToolCall, ...] = ()


def parse_answer(text: str) -> Answer:
    """Split a complete answer, in which `<toolcall> {...} </toolcall>` still stands.

    A call that is malformed or cut off comes back as text, without its markers.
    """
    parser = AnswerParser()
    spoken = parser.push(text) + parser.finish()
    return Answer(text=spoken, tool_calls=parser.tool_calls)


class AnswerParser:
    """The same for a stream: the pieces of text joined are `parse_answer`'s text, however it was cut to chunks.

    Held back are: white space until words follow, the beginning of what may become a marker, and all from
    `<toolcall>` to its end.
    """

    def __init__(self, *, hides_broken_calls: bool = False) -> None:
        """Start an answer.

        Args:
            hides_broken_calls: what begins like a call and is malformed or cut off is left out of the text, up to the
                next marker; a player shall not hear half a call.
        """
        self._hides_broken_calls = hides_broken_calls
        self._num_broken_calls = 0
        self._rest = ""
        self._space = ""
        self._has_spoken = False
        self._calls: list[ToolCall] = []

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """Complete calls so far."""
        return tuple(self._calls)

    @property
    def num_broken_calls(self) -> int:
        """How many were hidden so far."""
        return self._num_broken_calls

    def push(self, text: str) -> str:
        """Add a chunk; the spoken text that can be given out now."""
        self._rest += text
        return self._speak(self._read(is_final=False))

    def finish(self) -> str:
        """End the answer; the spoken text that was held back."""
        return self._speak(self._read(is_final=True))

    def _read(self, *, is_final: bool) -> str:
        """Take from the rest all that is decided; its spoken part."""
        spoken = ""
        while match := _MARKER.search(self._rest):
            spoken += self._rest[: match.start()]
            after = self._rest[match.end() :]
            if match[0] == _OPEN:
                end = _end_of_call(after, is_final=is_final)
                if end is None:
                    self._rest = self._rest[match.start() :]
                    return spoken
                if calls := _calls(after[:end]):
                    self._calls += calls
                    after = after[end:]
                elif self._hides_broken_calls and _CALL_START.match(after):
                    marker = _MARKER.search(after)
                    if marker is None and not is_final:
                        self._rest = self._rest[match.start() :]
                        return spoken
                    self._num_broken_calls += 1
                    after = after[marker.start() :] if marker else ""
            self._rest = after
        border = len(self._rest) - (0 if is_final else _num_held(self._rest))
        spoken += self._rest[:border]
        self._rest = self._rest[border:]
        return spoken

    def _speak(self, spoken: str) -> str:
        """Hold back white space at the ends."""
        text = self._space + spoken
        words = text.rstrip()
        self._space = text[len(words) :]
        if not self._has_spoken:
            words = words.lstrip()
        self._has_spoken = self._has_spoken or bool(words)
        return words


def _end_of_call(text: str, *, is_final: bool) -> int | None:
    """End of the JSON value that follows `<toolcall>`; 0 if there is none, None if more text must tell."""
    start = _CALL_START.match(text)
    if start is None:
        return 0 if is_final or text.strip() else None
    depth = 0
    for match in _JSON_TOKEN.finditer(text, start.end() - 1):
        token = match[0]
        if token == "<":
            return 0
        if token == '"':
            break
        depth += (token in "{[") - (token in "}]")
        if depth == 0:
            return match.end()
    return 0 if is_final else None


def _calls(body: str) -> list[ToolCall] | None:
    """The calls that a JSON text says, one or a list; None if it says anything else."""
    try:
        value = json.loads(body, strict=False, parse_constant=_refuse)
        calls = [_call(item) for item in (value if isinstance(value, list) else [value])]
    except (ValueError, RecursionError):
        return None
    return calls


def _call(value: Any) -> ToolCall:
    """Read `{"name": ..., "arguments": {...}}`.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or not value["name"]:
        raise ValueError("no name")
    arguments = value.get("arguments", value.get("parameters"))
    if isinstance(arguments, str):
        arguments = json.loads(arguments or "{}", strict=False, parse_constant=_refuse)
    if arguments is None or isinstance(arguments, dict):
        return ToolCall(name=value["name"], arguments=json.dumps(arguments or {}, ensure_ascii=False))
    raise ValueError("arguments are no object")


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _num_held(text: str) -> int:
    """Length of the longest end of the text that begins a marker."""
    place = text.find("<", max(0, len(text) - _LONGEST_MARKER + 1))
    while place >= 0:
        end = text[place:]
        if any(len(marker) > len(end) and marker.startswith(end) for marker in MARKERS):
            return len(end)
        place = text.find("<", place + 1)
    return 0
