"""A folder of lore: which files are read, and how each becomes passages."""

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from understudy.errors import LoreError
from understudy.retrieval.markdown import plain, read_front_matter, read_sections
from understudy.retrieval.passages import MAX_WORDS, Document, Passage, split_text
from understudy.retrieval.scopes import SCOPES_FILE, Scopes, read_names, read_scopes
from understudy.retrieval.tables import read_csv, read_json, row_fields

__all__ = ["Folder", "read_folder"]

_FORMAT = 1  # of the passages that a file gives; raise it when that changes
_MAX_BYTES = 16 << 20
_MAX_FILES = 100_000
_ENDINGS = (".md", ".markdown", ".txt", ".json", ".csv")
_WORLD_FILES = ("characters.json", "tools.json")
_MIN_WORDS = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Folder:
    """What a lore folder holds.

    Attributes:
        documents: its files of lore, by name.
        skipped: files that hold something else, and why.
    """

    documents: tuple[Document, ...]
    skipped: tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _File:
    """One file of lore, read."""

    name: str
    where: str
    text: str
    known_to: frozenset[str] | None
    scopes: Scopes
    max_words: int


def read_folder(folder: Path, *, max_words: int = MAX_WORDS) -> Folder:
    """Read a folder of Markdown, text, JSON and CSV, with its sub-folders and `scopes.toml`.

    Names that begin with a dot are passed over, links to other places too.

    Args:
        folder: where it is.
        max_words: bound of a passage, in words.

    Raises:
        LoreError: no such folder, no lore in it, a file is too large or no UTF-8, or the bound is too small.
    """
    if max_words < _MIN_WORDS:
        raise LoreError(f"A passage of at most {max_words} words is too short to answer anything; allow {_MIN_WORDS}.")
    if not folder.is_dir():
        raise LoreError(f"There is no lore folder {folder}. Give a folder with .md, .txt, .json or .csv files.")
    paths = sorted(_walk(folder))
    scopes, rules = Scopes(), b""
    if (folder / SCOPES_FILE).is_file():
        rules = _read(folder / SCOPES_FILE)
        scopes = read_scopes(rules, str(folder / SCOPES_FILE))
    documents, skipped = [], []
    for path in paths:
        name = path.relative_to(folder).as_posix()
        content = _read(path)
        text = _decoded(content, path)
        if why := _foreign(path, text):
            skipped.append((name, why))
            continue
        seal = hashlib.sha256(f"{_FORMAT} {max_words} {len(rules)} ".encode() + rules + content)
        file = _File(
            name=name, where=str(path), text=text, known_to=scopes.of_file(name), scopes=scopes, max_words=max_words
        )
        documents.append(Document(name=name, digest=seal.hexdigest(), read=functools.partial(_passages, file)))
    if not documents:
        raise LoreError(
            f"There is no lore in {folder}: expected files that end in {', '.join(_ENDINGS)}. Put some there."
        )
    return Folder(documents=tuple(documents), skipped=tuple(skipped))


def _walk(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise LoreError(f"{error.filename} cannot be read: {error.strerror}. Check its rights.") from error

    num_files = 0
    for root, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(root, name)
            if name.startswith(".") or path.suffix.lower() not in _ENDINGS or path.is_symlink() or not path.is_file():
                continue
            num_files += 1
            if num_files > _MAX_FILES:
                raise LoreError(f"{folder} has more than {_MAX_FILES} files of lore. Give a folder of lore alone.")
            yield path


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise LoreError(f"{path} cannot be read: {error.strerror}. Check its rights.") from error
    if len(content) > _MAX_BYTES:
        raise LoreError(f"{path} is larger than 16 MiB. Divide it, or move it out of the lore folder.")
    return content


def _decoded(content: bytes, path: Path) -> str:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise LoreError(f"{path}, line {line}: this is no UTF-8 text. Save the file as UTF-8.") from error
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "")


def _foreign(path: Path, text: str) -> str:
    """Why a file is no lore; empty if it is."""
    if path.name in _WORLD_FILES and (path.parent / "world.json").is_file():
        return "belongs to a world; its lore is in world.json"
    if path.suffix.lower() == ".json" and "chara_card_v" in text[:_MAX_BYTES] and _is_card(text):
        return "is a character card, whose secrets are not lore"
    return ""


def _is_card(text: str) -> bool:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return False  # told when it is read as lore
    return isinstance(document, dict) and str(document.get("spec", "")).startswith("chara_card_v")


def _passages(file: _File) -> list[Passage]:
    ending = Path(file.name).suffix.lower()
    if ending == ".json":
        entries = [(1, name, fields) for name, fields in read_json(file.text, file.where)]
        return [p for n, (line, name, fields) in enumerate(entries, 1) for p in _entry(file, n, line, fields, name)]
    if ending == ".csv":
        rows = read_csv(file.text, file.where)
        return [p for n, (line, fields) in enumerate(rows, 1) for p in _entry(file, n, line, fields, "")]
    return _prose(file, is_markdown=ending != ".txt")


def _entry(file: _File, number: int, line: int, fields: Mapping[str, Any], name: str) -> Iterator[Passage]:
    """The passages of an entry or row: one, unless it is too long."""
    if fields.get("enabled") is False or fields.get("disable") is True:
        return
    title, text, keys = row_fields(fields, name)
    lower = {str(key).casefold(): value for key, value in fields.items()}
    known_to = file.known_to
    if lower.get("known_to"):
        known_to = file.scopes.expand(read_names(lower["known_to"], f'{file.where}: "known_to" of entry {number}'))
    own = lower.get("id")
    base = str(own).strip() if isinstance(own, str) and own.strip() else f"{file.name}#{number}"
    pieces = [(at, piece) for at, piece in split_text(text, first_line=line, max_words=file.max_words)]
    for part, (_, piece) in enumerate(pieces, 1):
        yield Passage(
            id=base if len(pieces) == 1 else f"{base}.{part}",
            title=title,
            text=piece,
            keys=keys,
            line=line,
            known_to=known_to,
        )


def _prose(file: _File, *, is_markdown: bool) -> list[Passage]:
    fields, num_lines = read_front_matter(file.text, file.where) if is_markdown else ({}, 0)
    known_to = file.known_to
    if "known_to" in fields:
        known_to = file.scopes.expand(read_names(fields["known_to"], f'{file.where}: "known_to"'))
    body = "\n".join(file.text.split("\n")[num_lines:])
    sections = read_sections(body, num_lines + 1) if is_markdown else iter([((), 1, body)])
    title = str(fields.get("title") or Path(file.name).stem.replace("_", " ").replace("-", " "))
    keys = fields.get("keys", "")
    words = keys if isinstance(keys, list) else str(keys or "").split(",")
    found = [
        (" > ".join(headings) or title, line, piece)
        for headings, first_line, section in sections
        for line, piece in split_text(
            plain(section) if is_markdown else section, first_line=first_line, max_words=file.max_words
        )
    ]
    return [
        Passage(
            id=f"{file.name}#{number}",
            title=heading,
            text=piece,
            keys=tuple(word.strip() for word in words if word.strip()),
            line=line,
            known_to=known_to,
        )
        for number, (heading, line, piece) in enumerate(found, 1)
    ]
