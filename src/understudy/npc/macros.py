"""The macros of character cards: `{{char}}`, `{{user}}`, `{{random:a,b}}` and the others of the V3 specification."""

import dataclasses
import re
from collections.abc import Callable, Mapping

from understudy.npc.draw import draw

__all__ = ["MacroScope", "fill_macros", "has_original", "unknown_macros"]

_MAX_DEPTH = 8  # of macros in macros; braces beyond are text
_MAX_SIDES = 10**9
_TOKEN = re.compile(r"\{\{|\}\}|<(?:bot|char|user)>", re.IGNORECASE)
_ORIGINAL = re.compile(r"\{\{\s*original\s*\}\}", re.IGNORECASE)
_SILENT = ("//", "comment", "hidden_key")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MacroScope:
    """What macros become.

    Attributes:
        char: the character's nickname or name.
        user: the player's name.
        original: what the application itself would say here.
        seed: of `{{random}}`, `{{pick}}` and `{{roll}}`.
        turn: `{{random}}` and `{{roll}}` are drawn anew for each turn; `{{pick}}` stays.
        shows_hidden: `{{hidden_key:x}}` becomes x: the text is searched for keys, not shown to the model.
    """

    char: str
    user: str
    original: str = ""
    seed: int = 0
    turn: int = 0
    shows_hidden: bool = False


def fill_macros(text: str, scope: MacroScope) -> str:
    """Replace the macros of a card's text; what is put in is not read again. Unknown macros stay as they are.

    Inner macros go first. Names are read in any case. Takes time in proportion to the text.
    """
    stack: list[list[str]] = [[]]
    drawn = 0
    end = 0
    for token in _TOKEN.finditer(text):
        stack[-1].append(text[end : token.start()])
        end = token.end()
        if token[0] == "{{" and len(stack) <= _MAX_DEPTH:
            stack.append([])
        elif token[0] == "}}" and len(stack) > 1:
            inner = "".join(stack.pop())
            value = _value(inner, scope, drawn)
            drawn += 1
            stack[-1].append(f"{{{{{inner}}}}}" if value is None else _as_argument(value, len(stack)))
        elif token[0].startswith("<"):
            value = scope.user if token[0].lower() == "<user>" else scope.char
            stack[-1].append(_as_argument(value, len(stack)))
        else:
            stack[-1].append(token[0])
    stack[-1].append(text[end:])
    return "{{".join("".join(part) for part in stack)


def has_original(text: str) -> bool:
    """Whether the text asks for what the application itself would say."""
    return _ORIGINAL.search(text) is not None


def unknown_macros(text: str) -> list[str]:
    """Names in double braces that mean nothing here; they would be shown to the model as they are."""
    scope = MacroScope(char="", user="")
    found = re.findall(r"\{\{([^{}]*)\}\}", text)
    return list(dict.fromkeys(name.strip() for name in found if _value(name, scope, 0) is None))


def _value(inner: str, scope: MacroScope, number: int) -> str | None:
    """What a macro becomes; None where there is no such macro.

    Args:
        inner: what stands between the braces.
        scope: names and seed.
        number: how many macros were read before it in the same text.
    """
    stripped = inner.strip()
    if stripped.startswith("//"):
        return ""
    plain: Mapping[str, str] = {"char": scope.char, "user": scope.user, "original": scope.original}
    if (name := stripped.lower()) in plain:
        return plain[name]
    name, colon, argument = stripped.partition(":")
    name = name.strip().lower()
    if not colon:
        return None
    if name in _SILENT:
        return f" {argument.strip()} " if name == "hidden_key" and scope.shows_hidden else ""
    kinds: Mapping[str, Callable[[], str | None]] = {
        "random": lambda: _choice(argument, draw(scope.seed, "random", scope.turn, number, argument)),
        "pick": lambda: _choice(argument, draw(scope.seed, "pick", number, argument)),
        "roll": lambda: _roll(argument, draw(scope.seed, "roll", scope.turn, number, argument)),
        "reverse": lambda: argument.replace("\\,", ",")[::-1],
    }
    return kinds[name]() if name in kinds else None


def _choice(argument: str, luck: float) -> str:
    argument = argument.removeprefix(":")  # {{pick::a,b}} and {{random::a::b}} are written too
    parts = argument.split("::") if "::" in argument else re.split(r"(?<!\\),", argument)
    return parts[int(luck * len(parts))].strip().replace("\\,", ",")


def _roll(argument: str, luck: float) -> str | None:
    sides = re.fullmatch(r":?\s*d?([0-9]{1,10})\s*", argument, re.IGNORECASE)
    if not sides or not 1 <= int(sides[1]) <= _MAX_SIDES:
        return None
    return str(1 + int(luck * int(sides[1])))


def _as_argument(value: str, depth: int) -> str:
    """A name with a comma in it is one choice, not two."""
    return value.replace(",", "\\,") if depth > 1 else value
