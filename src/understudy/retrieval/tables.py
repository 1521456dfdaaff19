"""JSON and CSV: each entry or row becomes a passage."""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from typing import Any

from understudy.errors import LoreError

__all__ = ["read_csv", "read_json", "row_fields"]

_TEXTS = ("text", "content", "body")
_TITLES = ("title", "name", "comment")
_LISTS = ("lore", "entries", "items", "passages")
_NOT_SHOWN = {"id", "uid", "keys", "key", "known_to", "enabled", "disable"}
_MAX_FIELDS = 200


def read_json(text: str, where: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Entries of a JSON document: a list, an object of entries, or one that holds them ("lore", "entries", ...).

    Args:
        text: the document.
        where: what to call it in errors.

    Yields:
        A name for the entry if the document has one, and its fields.

    Raises:
        LoreError: no JSON, or an entry is no object or text.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LoreError(f"{where} is no valid JSON: {error}. Mend it there.") from error
    if isinstance(document, dict):
        if isinstance(document.get("data"), dict) and "spec" in document:
            document = document["data"]  # a stand-alone lorebook
        document = next((document[key] for key in _LISTS if isinstance(document.get(key), list | dict)), document)
    if isinstance(document, dict) and any(isinstance(document.get(key), str) for key in _TEXTS):
        document = [document]
    if isinstance(document, dict):
        entries = list(document.items())
    elif isinstance(document, list):
        entries = [("", entry) for entry in document]
    else:
        raise LoreError(f"{where} must hold a list or an object of entries.")
    for number, (name, entry) in enumerate(entries):
        if isinstance(entry, str):
            yield name, {"text": entry}
        elif isinstance(entry, dict):
            yield ("" if name.isdigit() else name), entry
        elif entry is not None:
            raise LoreError(f"{where}: entry {name or number} must be an object {{...}} or a text.")


def read_csv(text: str, where: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Rows of a CSV file whose first row names the columns; divided by commas, semicolons or tabs.

    Yields:
        The line that a row begins in, and its fields.

    Raises:
        LoreError: no names, a row with too many cells, or broken quotes.
    """
    head = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=head.count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        names = [name.strip() for name in next(rows, [])]
        if not all(names) or len(set(names)) < len(names):
            raise LoreError(f"{where}: the first row must name every column, each by a name of its own.")
        line = rows.line_num + 1
        for row in rows:
            if len(row) > len(names):
                raise LoreError(f"{where}, line {line}: {len(row)} cells under {len(names)} names. Quote the text.")
            if any(cell.strip() for cell in row):
                yield line, dict(zip(names, row, strict=False))
            line = rows.line_num + 1
    except csv.Error as error:
        raise LoreError(f"{where}, line {rows.line_num}: {error}. Mend it there.") from error


def row_fields(fields: Mapping[str, Any], name: str = "") -> tuple[str, str, tuple[str, ...]]:
    """Title, text and keys of an entry.

    The text is the field "text", "content" or "body"; without one, all fields as "name: value." in their order.
    """
    lower = {str(key).strip().casefold(): value for key, value in fields.items()}
    title = next((str(lower[key]) for key in _TITLES if isinstance(lower.get(key), str | int) and lower[key]), name)
    keys = lower.get("keys", lower.get("key", ()))
    words = keys.split(",") if isinstance(keys, str) else keys if isinstance(keys, list) else ()
    found = next((lower[key] for key in _TEXTS if isinstance(lower.get(key), str)), None)
    if found is None:
        shown = list(_flat({key: value for key, value in fields.items() if str(key).casefold() not in _NOT_SHOWN}))
        found = " ".join(f"{key}: {value}." for key, value in shown[:_MAX_FIELDS])
    return title.strip(), found, tuple(word.strip() for word in words if isinstance(word, str) and word.strip())


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Fields within fields, by the names above them; lists of plain values as one."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{name} {key}".strip())
    elif isinstance(value, list) and any(isinstance(inner, Mapping | list) for inner in value):
        for inner in value:
            yield from _flat(inner, name)
    elif isinstance(value, list):
        yield name, ", ".join(_shown(inner) for inner in value)
    elif value not in (None, ""):
        yield name, _shown(value)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(str(value).split()).rstrip(".")
