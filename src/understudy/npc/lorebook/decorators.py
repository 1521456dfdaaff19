"""Decorators: the lines `@@name value` that open a V3 lorebook entry's content."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["DECORATOR_NAMES", "Decorators", "read_decorators", "split_decorators"]

_LINE = re.compile(r"(@{2,3})([A-Za-z_]+)(?:[ \t]+(.*))?")
_LEADING = re.compile(r"[\r\n]*(@@[^\n]*)(?:\n|\Z)")
_ROLES = ("assistant", "system", "user")
_POSITIONS = ("after_desc", "before_desc", "personality", "scenario")
_PROMPTS = ("post_history_instructions", "system_prompt")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decorators:
    """What the decorators of an entry say; None or empty where they say nothing.

    Attributes:
        activate: it is always in.
        dont_activate: it is never in, unless `activate`.
        activate_only_after: not before the character has said so many lines.
        activate_only_every: only when the number of the character's lines divides by it.
        keep_activate_after_match: once in, always in.
        dont_activate_after_match: in once at most.
        depth: how many messages stand after it.
        reverse_depth: how many messages stand before it.
        role: who says it.
        scan_depth: how many of the last messages are searched for its keys.
        is_greeting: only with this greeting; 0 is the first.
        position: where in the description of the character it goes.
        ignore_on_max_context: the first to go when the context is full.
        additional_keys: one of these must be found too.
        exclude_keys: none of these may be found.
        is_user_icon: only with the player's picture of this name.
        disable_ui_prompt: which of the card's prompts is left out with it.
        ignored: lines that mean nothing here, as they are written.
    """

    activate: bool = False
    dont_activate: bool = False
    activate_only_after: int | None = None
    activate_only_every: int | None = None
    keep_activate_after_match: bool = False
    dont_activate_after_match: bool = False
    depth: int | None = None
    reverse_depth: int | None = None
    role: str | None = None
    scan_depth: int | None = None
    is_greeting: int | None = None
    position: str | None = None
    ignore_on_max_context: bool = False
    additional_keys: tuple[str, ...] = ()
    exclude_keys: tuple[str, ...] = ()
    is_user_icon: str | None = None
    disable_ui_prompt: str | None = None
    ignored: tuple[str, ...] = ()


def split_decorators(content: str) -> tuple[list[str], str]:
    """An entry's decorator lines and the text after them, without the empty lines around the decorators."""
    lines: list[str] = []
    end = 0
    while found := _LEADING.match(content, end):
        lines.append(found[1].rstrip())
        end = found.end()
    return lines, content[end:].lstrip("\r\n") if lines else content


def read_decorators(lines: Sequence[str]) -> Decorators:
    """Read decorator lines.

    Of several with one name the first counts. One that is unknown, has a wrong value, or makes sense only for plain
    text (the `instruct_` ones: a conversation is messages) is ignored; then its fallback lines `@@@name value` are
    tried in turn.
    """
    values: dict[str, Any] = {}
    ignored: list[str] = []
    wants_fallback = False
    for line in lines:
        found = _LINE.fullmatch(line)
        is_fallback = line.startswith("@@@")
        if is_fallback and not wants_fallback:
            continue  # what it stands in for was understood
        name = found[2] if found else ""
        value = _VALUES[name](found[3] or "") if found and name in _VALUES else None
        wants_fallback = value is None
        if value is None:
            ignored.append(line)
        else:
            values.setdefault(name, value)
    return Decorators(**values, ignored=tuple(ignored))


def _flag(text: str) -> bool | None:
    return None if text.strip().lower() == "false" else True


def _count(text: str, *, least: int = 0) -> int | None:
    number = re.fullmatch(r"\s*([+-]?[0-9]{1,9})(?:\.0*)?\s*", text)
    return max(int(number[1]), 0) if number and int(number[1]) >= least else None


def _depth(text: str) -> int | None:
    return _count(text, least=-(10**9))  # less than 1 is after the last message


def _keys(text: str) -> tuple[str, ...] | None:
    return tuple(filter(None, (key.strip() for key in text.split(",")))) or None


def _one_of(*known: str) -> Callable[[str], str | None]:
    return lambda text: text.strip().lower() if text.strip().lower() in known else None


def _word(text: str) -> str | None:
    return text.strip() or None


_VALUES: Mapping[str, Callable[[str], Any]] = {
    "activate": _flag,
    "activate_only_after": _count,
    "activate_only_every": lambda text: _count(text, least=1),
    "additional_keys": _keys,
    "depth": _depth,
    "disable_ui_prompt": _one_of(*_PROMPTS),
    "dont_activate": _flag,
    "dont_activate_after_match": _flag,
    "exclude_keys": _keys,
    "ignore_on_max_context": _flag,
    "is_greeting": _count,
    "is_user_icon": _word,
    "keep_activate_after_match": _flag,
    "position": _one_of(*_POSITIONS),
    "reverse_depth": _depth,
    "role": _one_of(*_ROLES),
    "scan_depth": _count,
}
DECORATOR_NAMES = frozenset(_VALUES) | {"instruct_depth", "instruct_scan_depth", "reverse_instruct_depth"}
