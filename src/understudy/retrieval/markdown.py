"""Markdown and plain text: front matter, headings, and the passages under them."""

import re
from collections.abc import Iterator
from typing import Any

from understudy.errors import LoreError

__all__ = ["plain", "read_front_matter", "read_sections"]

_FENCE = re.compile(r"^ {0,3}(```|~~~)")
_HEADING = re.compile(r"^ {0,3}(#{1,6})[ \t]+(\S.*)$")
_UNDERLINE = re.compile(r"^ {0,3}(=+|-{2,})[ \t]*$")
_LINK = re.compile(r"(!?)\[([^\[\]\n]*)\]\([^()\n]*\)")
_EMPHASIS = re.compile(r"(\*\*|__)(?=\S)([^\n*_]+)(?<=\S)\1")


def read_front_matter(text: str, where: str) -> tuple[dict[str, Any], int]:
    """Fields between a first line `---` and the next one, of the form `key: value`, `key: [a, b]` or `- item` lines.

    Args:
        text: the document.
        where: what to call it in errors.

    Returns:
        The fields, and how many lines they take; no fields, 0 lines where the text begins otherwise.

    Raises:
        LoreError: it does not end, or has another kind of line.
    """
    lines = text.split("\n")
    if lines[0].strip() != "---":
        return {}, 0
    fields: dict[str, Any] = {}
    key = ""
    for number, line in enumerate(lines[1:], 2):
        stripped = line.strip()
        if stripped == "---":
            return fields, number
        if not stripped or stripped.startswith("#"):
            continue
        if stripped.startswith("- ") and key:
            fields[key] = [*(fields[key] or []), _unquoted(stripped[2:])]
            continue
        key, colon, value = stripped.partition(":")
        if not colon or not key.strip():
            raise LoreError(f'{where}, line {number}: expected "key: value" or the closing line "---".')
        key = key.strip().casefold()
        fields[key] = _value(value.strip())
    raise LoreError(f'{where}: the front matter has no closing line "---". Add it, or take the first line out.')


def read_sections(text: str, first_line: int) -> Iterator[tuple[tuple[str, ...], int, str]]:
    """Divide Markdown at its headings.

    Yields:
        The headings above a stretch, outermost first; its first line; its text. Comments and fences are left out.
    """
    path: list[tuple[int, str]] = []
    lines: list[str] = []
    began, fence = first_line, ""
    for number, line in enumerate(_without_comments(text).split("\n"), first_line):
        mark = _FENCE.match(line)
        if mark and fence in ("", mark[1]):
            fence = "" if fence else mark[1]
        heading = None if fence else _heading(line, lines)
        if heading is None:
            lines.append("" if mark else line)
            continue
        level, title, num_used = heading
        yield tuple(t for _, t in path), began, "\n".join(lines[: len(lines) - num_used])
        path = [(n, t) for n, t in path if n < level] + [(level, plain(title).strip())]
        lines, began = [], number + 1
    yield tuple(t for _, t in path), began, "\n".join(lines)


def plain(text: str) -> str:
    """Without the signs of links, pictures and strong words, which a character would read aloud."""
    text = _LINK.sub(lambda match: "" if match[1] else match[2], text)
    return _EMPHASIS.sub(r"\2", text)


def _heading(line: str, before: list[str]) -> tuple[int, str, int] | None:
    """Level, title, and how many lines before belong to it."""
    if match := _HEADING.match(line):
        return len(match[1]), match[2].rstrip("# \t") or match[2], 0
    is_alone = bool(before) and bool(before[-1].strip()) and (len(before) == 1 or not before[-2].strip())
    if is_alone and (match := _UNDERLINE.match(line)):
        return 1 if match[1][0] == "=" else 2, before[-1].strip(), 1
    return None


def _without_comments(text: str) -> str:
    """Take `<!-- ... -->` out; the lines stay, so that numbers fit."""
    kept, at = [], 0
    while (start := text.find("<!--", at)) >= 0 and (end := text.find("-->", start)) >= 0:
        kept += [text[at:start], "\n" * text.count("\n", start, end)]
        at = end + 3
    return "".join([*kept, text[at:]])


def _value(text: str) -> Any:
    if text.startswith("[") and text.endswith("]"):
        return [_unquoted(item) for item in text[1:-1].split(",") if item.strip()]
    return _unquoted(text)


def _unquoted(text: str) -> str:
    text = text.strip()
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text
