"""Who may know what: groups, and rules for the files of a lore folder."""

import dataclasses
import fnmatch
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

from understudy.errors import LoreError

__all__ = ["EVERYBODY", "SCOPES_FILE", "Scopes", "read_name", "read_names", "read_scopes"]

EVERYBODY = "everybody"
SCOPES_FILE = "scopes.toml"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scopes:
    """The rules of `scopes.toml`.

    Attributes:
        groups: name of a group to the characters in it.
        rules: pattern of paths to those who may know what stands there, in the file's order; the last that fits wins.
    """

    groups: Mapping[str, frozenset[str]] = dataclasses.field(default_factory=dict)
    rules: tuple[tuple[str, frozenset[str]], ...] = ()

    def of_file(self, name: str) -> frozenset[str] | None:
        """Those who may know a file, by a rule or by a folder `@name` above it; None: everybody.

        Args:
            name: path relative to the lore folder, with forward slashes.
        """
        for pattern, names in reversed(self.rules):
            if fnmatch.fnmatchcase(name, pattern):
                return self.expand(names)
        folders = [part for part in PurePosixPath(name).parent.parts if part.startswith("@")]
        if not folders:
            return None
        return self.expand(frozenset(read_name(part) for part in folders[-1][1:].split("+") if part.strip()))

    def expand(self, names: frozenset[str]) -> frozenset[str] | None:
        """Put in each group's characters; None if everybody is among them."""
        if EVERYBODY in names:
            return None
        return frozenset().union(names, *(self.groups[name] for name in names if name in self.groups))


def read_name(name: str) -> str:
    """A character's or group's name as it is compared: without case and outer spaces."""
    return " ".join(name.split()).casefold().encode("utf-8", "replace").decode()  # no halves of surrogate pairs


def read_names(value: Any, where: str) -> frozenset[str]:
    """Names from a list, or a text with commas.

    Raises:
        LoreError: it is neither, or names nobody.
    """
    given: Iterable[Any] = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else ()
    names = frozenset(read_name(name) for name in given if isinstance(name, str) and name.strip())
    if not names or len(names) < len(list(given)):
        raise LoreError(f'{where} must name characters or groups, e.g. ["smith", "guards"], or "{EVERYBODY}".')
    return names


def read_scopes(content: bytes, where: str) -> Scopes:
    """Read `scopes.toml`: a table `[groups]` of names, a table `[files]` of patterns.

    Raises:
        LoreError: it is no TOML, or says something else.
    """
    try:
        document = tomllib.loads(content.decode("utf-8-sig"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise LoreError(f"{where} is no valid TOML: {error}. Mend it there.") from error
    unknown = sorted(document.keys() - {"groups", "files"})
    tables = [document.get(key, {}) for key in ("groups", "files")]
    if unknown or not all(isinstance(table, dict) for table in tables):
        raise LoreError(f"{where} must hold the tables [groups] and [files] only{_instead(unknown)}.")
    groups, files = tables
    return Scopes(
        groups={read_name(name): read_names(value, f"{where}: group {name!r}") for name, value in groups.items()},
        rules=tuple((pattern, read_names(value, f"{where}: {pattern!r}")) for pattern, value in files.items()),
    )


def _instead(unknown: list[str]) -> str:
    return f", not {', '.join(unknown)}" if unknown else ""
