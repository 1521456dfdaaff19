"""Whether a key is in a text: as words, or as a regular expression in time linear in the text.

Python's own regular expressions can take hours on a hostile pattern, and a limit in seconds would make the same game
go differently on a slower machine. So they run on the engine inside pydantic (Rust's `regex`), which never goes back
in the text: no look-around, no back-references. See docs/adr.
"""

import functools
import re
import unicodedata
from collections.abc import Sequence

from pydantic_core import SchemaError, SchemaValidator, core_schema

__all__ = ["MAX_PATTERNS", "MAX_SCANNED", "KeySearch", "pattern_problem", "regex_of"]

MAX_PATTERNS = 2000  # of a book
MAX_SCANNED = 16_384  # characters; of a longer text the last ones are searched
_MAX_PATTERN = 500
_MAX_REPEATS = 100  # of all counted repetitions of a pattern, multiplied: (a{10}){10}
_SLASHED = re.compile(r"/((?:[^/\\\n]|\\.)+)/([a-z]*)", re.DOTALL)
_FLAGS = frozenset("dgimsuvy")
_MAX_SCRIPTS = 4  # of \\p{...}, with repetitions, and
_MAX_RANGES = 8  # of ranges beyond ASCII: large, and slow to make ready
_IN_CLASS = {r"\w": "0-9A-Za-z_", r"\W": "[^0-9A-Za-z_]", r"\d": "0-9", r"\D": "[^0-9]"}
_ASCII = {**_IN_CLASS, r"\w": "[0-9A-Za-z_]", r"\d": "[0-9]", r"\b": r"(?-u:\b)", r"\B": r"(?-u:\B)"}
_WIDE_RANGE = re.compile(r"-(?:[^\x00-\x7f]|\\[ux])")
_COUNTED = re.compile(r"\{(\d+)(?:,(\d*))?\}")


class KeySearch:
    """Texts to search, folded once for all entries that ask for the same.

    Args:
        lines: messages, oldest first.
    """

    def __init__(self, lines: Sequence[str]) -> None:
        self._lines = lines
        self._extra: list[str] = []
        self._texts: dict[tuple[int, bool, int], str] = {}

    def add(self, text: str) -> None:
        """Search this text too, at any depth: what an entry called up says."""
        self._extra.append(text)

    def finds(self, key: str, *, depth: int, is_regex: bool, case_sensitive: bool, whole_words: bool) -> bool:
        """Whether the key is in the last `depth` messages or in an added text.

        A key of one word must stand alone if `whole_words`; one of several words may end within a word. Letters of
        scripts that are written without spaces (east Asian ones) never join two words.
        """
        pattern = regex_of(key, is_regex=is_regex)
        if pattern is not None:
            search = _compiled(pattern)
            return not isinstance(search, str) and search.isinstance_python(self._text(depth, is_folded=False))
        wanted = key.strip() if case_sensitive else key.strip().casefold()
        if not wanted:
            return False
        text = self._text(depth, is_folded=not case_sensitive)
        if not whole_words or len(wanted.split()) > 1:
            return wanted in text
        return _has_word(text, wanted)

    def _text(self, depth: int, *, is_folded: bool) -> str:
        name = (depth, is_folded, len(self._extra))
        if name not in self._texts:
            lines = [*self._lines[max(len(self._lines) - depth, 0) :], *self._extra]
            text = "\n".join(f"\x01{line}" for line in lines)[-MAX_SCANNED:]
            self._texts[name] = text.casefold() if is_folded else text
        return self._texts[name]


@functools.lru_cache(maxsize=8192)
def regex_of(key: str, *, is_regex: bool = False) -> str | None:
    """A key's regular expression; None where it is plain words.

    Args:
        key: `/pattern/flags`, or words.
        is_regex: it is a pattern even without slashes.
    """
    slashed = _SLASHED.fullmatch(key.strip())
    if slashed and set(slashed[2]) <= _FLAGS:
        flags = "".join(sorted({"i", "m", "s"} & set(slashed[2])))
        start = r"\A" if "y" in slashed[2] else ""
        return (f"(?{flags})" if flags else "") + start + _in_rust(slashed[1])
    return _in_rust(key) if is_regex else None


def pattern_problem(key: str, *, is_regex: bool = False) -> str:
    """Why a key's regular expression never matches; empty where it may."""
    pattern = regex_of(key, is_regex=is_regex)
    found = _compiled(pattern) if pattern is not None else ""
    return found if isinstance(found, str) else ""


@functools.lru_cache(maxsize=MAX_PATTERNS)
def _compiled(pattern: str) -> SchemaValidator | str:
    """The search, or what is wrong with the pattern."""
    if len(pattern) > _MAX_PATTERN:
        return f"longer than {_MAX_PATTERN} characters"
    repeats = 1
    for count in _COUNTED.finditer(pattern):
        repeats *= max(int(count[2] or count[1]), 1)
    if repeats > _MAX_REPEATS:
        return f"counts more than {_MAX_REPEATS} repetitions"
    if repeats * len(re.findall(r"\\[pP]", pattern)) > _MAX_SCRIPTS:
        return f"names scripts (\\p) more than {_MAX_SCRIPTS} times"
    if len(_WIDE_RANGE.findall(pattern)) > _MAX_RANGES:
        return f"has more than {_MAX_RANGES} ranges beyond ASCII"
    try:
        return SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex"))
    except SchemaError as error:
        return str(error).strip().splitlines()[-1].removeprefix("error: ").strip()


def _in_rust(pattern: str) -> str:
    r"""JavaScript's spelling in Rust's: \w, \d and \b are ASCII; within [...] the signs [ & ~ mean themselves."""
    pieces, is_in_class = [], False
    for piece in re.findall(r"\\.|.", pattern, re.DOTALL):
        if is_in_class:
            pieces.append("\\" + piece if piece in "[&~" else _IN_CLASS.get(piece, piece))
            is_in_class = piece != "]"
        else:
            pieces.append(_ASCII.get(piece, piece))
            is_in_class = piece == "["
    return "".join(pieces)


def _has_word(text: str, word: str) -> bool:
    start = text.find(word)
    while start >= 0:
        end = start + len(word)
        before, after = text[start - 1 : start], text[end : end + 1]
        if not (_joins(before) and _joins(word[0])) and not (_joins(after) and _joins(word[-1])):
            return True
        start = text.find(word, start + 1)
    return False


def _joins(character: str) -> bool:
    """Whether letters beside it belong to the same word."""
    if not character or not (character.isalnum() or character == "_"):
        return False
    return unicodedata.east_asian_width(character) not in ("W", "F")
