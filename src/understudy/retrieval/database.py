"""The SQLite file: how it is opened, and how its parts know their version."""

import dataclasses
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from understudy.errors import LoreError

__all__ = ["Part", "open_database", "transaction"]

_WAIT_S = 10.0
_LEAST_VERSION = (3, 35)
_MAGIC = b"SQLite format 3\0"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """A set of tables that share a version; several parts may live in one file.

    Attributes:
        name: what errors and the file call it.
        version: of its tables.
        schema: the statements that create them.
        mend: what to do about a file of another version.
        maker: what makes a file that holds it.
    """

    name: str
    version: int
    schema: str
    mend: str
    maker: str


def open_database(path: Path | None, part: Part, *, create: bool, read_only: bool = False) -> sqlite3.Connection:
    """Open a file (None: one in memory) that holds a part.

    The connection may be used from any thread, by one at a time. A file on a read-only medium is opened for reading.

    Args:
        path: the file.
        part: whose tables are wanted.
        create: make the file and the tables where they are missing.
        read_only: nothing is ever written to the file.

    Raises:
        LoreError: no such file, no SQLite, the part is missing or of another version, or Python's SQLite is too old.
    """
    if sqlite3.sqlite_version_info < _LEAST_VERSION:
        raise LoreError(
            f"This Python has SQLite {sqlite3.sqlite_version}; lore and memory need 3.35. Use a newer Python."
        )
    if path is not None:
        _check_file(path, part, create=create)
    mode = "ro" if read_only else _mode(path, create)
    name = ":memory:" if path is None else f"{path.absolute().as_uri()}?mode={mode}"
    try:
        connection = sqlite3.connect(
            name, uri=path is not None, timeout=_WAIT_S, isolation_level=None, check_same_thread=False
        )
    except sqlite3.Error as error:
        raise LoreError(f"The database {path} cannot be opened: {error}. Check the folder and its rights.") from error
    try:
        _prepare(connection, path, part, create=create)
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection, path: Path | None) -> Iterator[None]:
    """All statements within, or none: an error, a kill or a power cut leaves what was there before.

    Raises:
        LoreError: the file cannot be written.
    """
    try:
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if connection.in_transaction:  # SQLite itself rolls back where the disk is full
                connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")
    except sqlite3.OperationalError as error:
        if connection.in_transaction:  # a COMMIT that found no room, say
            connection.execute("ROLLBACK")
        raise LoreError(
            f"The database {path} cannot be written: {error}. Check its rights and the room on the disk, "
            "and close other programs that write to it."
        ) from error


def _check_file(path: Path, part: Part, *, create: bool) -> None:
    try:
        with path.open("rb") as file:
            head = file.read(len(_MAGIC))
    except FileNotFoundError as error:
        if create and path.parent.is_dir():
            return
        if create:
            raise LoreError(f"There is no folder {path.parent} to make {path.name} in. Make it first.") from error
        raise LoreError(f"There is no database {path}. Give a file that {part.maker} made.") from error
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise LoreError(f"The database {path} cannot be read: {why}. Give the path of a file.") from error
    if head not in (b"", _MAGIC):
        raise LoreError(f"{path} is no SQLite database. Give a file that {part.maker} made.")


def _mode(path: Path | None, create: bool) -> str:
    if create or path is None:
        return "rwc"
    return "rw" if os.access(path, os.W_OK) and os.access(path.parent, os.W_OK) else "ro"


def _prepare(connection: sqlite3.Connection, path: Path | None, part: Part, *, create: bool) -> None:
    try:
        connection.execute("PRAGMA foreign_keys = ON")
        has_parts = connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'understudy_parts'").fetchone()
        found = _version(connection, part) if has_parts else None
        if found is None and create:
            with transaction(connection, path):
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS understudy_parts"
                    "(name TEXT PRIMARY KEY, version INTEGER NOT NULL) WITHOUT ROWID"
                )
                found = _version(connection, part)  # another process may have been quicker
                if found is None:
                    for statement in part.schema.split(";\n"):
                        connection.execute(statement)
                    connection.execute("INSERT INTO understudy_parts VALUES (?, ?)", (part.name, part.version))
                    found = part.version
    except sqlite3.DatabaseError as error:
        raise LoreError(f"The database {path} is damaged or in use: {error}. {part.mend}") from error
    if found is None:
        raise LoreError(f"{path} holds no {part.name}. Give a file that {part.maker} made.")
    if found != part.version:
        raise LoreError(
            f"{path} holds {part.name} of version {found}; this program reads version {part.version}. {part.mend}"
        )


def _version(connection: sqlite3.Connection, part: Part) -> int | None:
    row = connection.execute("SELECT version FROM understudy_parts WHERE name = ?", (part.name,)).fetchone()
    return int(row[0]) if row else None
