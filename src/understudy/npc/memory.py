"""What characters remember of a player: facts in the SQLite file, one list a player and character."""

import contextlib
import dataclasses
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from understudy.errors import LoreError
from understudy.npc.memory_facts import KINDS, extract_facts
from understudy.retrieval.database import Part, open_database, transaction
from understudy.retrieval.query import query_words
from understudy.retrieval.scopes import read_name

__all__ = ["Fact", "Memory", "recollection"]

_MAX_FACTS = 200
_MAX_TEXT = 300
_NEWEST_ONLY = ("name", "home", "trade")
_LASTING = ("promise", "debt")
_MEMORY = Part(
    name="memory",
    version=1,
    mend="Use the program that wrote it, or give another file.",
    maker="`Memory.open` or `understudy chat`",
    schema="""CREATE TABLE memory_facts(
    id INTEGER PRIMARY KEY AUTOINCREMENT, player TEXT NOT NULL, character TEXT NOT NULL, kind TEXT NOT NULL,
    text TEXT NOT NULL, is_quote INTEGER NOT NULL, UNIQUE (player, character, kind, text, is_quote))""",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fact:
    """One thing that a character remembers of a player.

    Attributes:
        id: its number in the file; the later it was learned, the larger.
        player: whom it is about.
        character: who remembers it.
        kind: one of `KINDS`.
        text: the player's own words; or, of a note, the game's.
        is_quote: the player said it; the game does not vouch for it.
    """

    id: int
    player: str
    character: str
    kind: str
    text: str
    is_quote: bool

    def as_told(self, player: str) -> str:
        """A sentence for the prompt; what a player said stays between quotation marks, whatever it claims.

        Args:
            player: what the character calls the player.
        """
        name = " ".join(player.replace('"', "").split())
        return f'{name} said: "{self.text}"' if self.is_quote else self.text


class Memory:
    """An open file of memories, which may be the lore's own; safe from any thread, for many sessions at once."""

    def __init__(self, connection: sqlite3.Connection, path: Path | None) -> None:
        """See `open`."""
        self._connection, self._path = connection, path
        self._lock = threading.Lock()

    @classmethod
    def open(cls, path: str | Path | None, *, create: bool = True, read_only: bool = False) -> Self:
        """Open a file; None: in memory, gone with the program.

        Args:
            path: the file.
            create: make the file, or its tables in a file of lore, where there are none.
            read_only: write nothing to it, and hence make nothing either.

        Raises:
            LoreError: the file is missing or holds no memory (and none shall be made), is foreign, damaged, of
                another version, or cannot be written.
        """
        path = None if path is None else Path(path)
        connection = open_database(path, _MEMORY, create=create and not read_only, read_only=read_only)
        connection.execute("PRAGMA secure_delete = ON")  # what is deleted leaves no trace in the file
        return cls(connection, path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def observe(self, player: str, character: str, line: str, *, remember: bool = True) -> list[Fact]:
        """Keep what the player told of himself in a line.

        Args:
            player: who said it.
            character: who heard it.
            line: what was said; any text.
            remember: False: leave no trace.

        Returns:
            The facts that were new.

        Raises:
            LoreError: the file cannot be written.
        """
        found = extract_facts(line) if remember else []
        if not found:
            return []
        return self._add(player, character, [(kind, text, True) for kind, text in found])

    def note(self, player: str, character: str, text: str, *, kind: str = "note") -> Fact | None:
        """Keep what the game itself knows, e.g. from a function's result; shown as it is.

        Args:
            player: whom it is about.
            character: who shall remember it.
            text: a sentence of the game's; never a player's words.
            kind: one of `KINDS`.

        Returns:
            The fact; None if it was known.

        Raises:
            LoreError: the text is empty or too long, the kind unknown, or the file cannot be written.
        """
        if kind not in KINDS:
            raise LoreError(f"There is no kind of fact {kind!r}; choose from {', '.join(KINDS)}.")
        added = self._add(player, character, [(kind, _checked(text), False)])
        return added[0] if added else None

    def recall(self, player: str, character: str, line: str = "", *, limit: int = 6) -> list[Fact]:
        """Choose what the character shall have in mind: who the player is, then what the line touches, then what lasts.

        Of several names, homes or trades, the newest counts. The same file and line give the same answer.

        Args:
            player: who speaks.
            character: who is spoken to.
            line: what was just said.
            limit: most facts.
        """
        words = set(query_words(line))
        seen: set[str] = set()
        ranked: list[tuple[tuple[int, int, int, int], Fact]] = []
        for fact in reversed(self.facts(player, character)):
            if fact.kind in _NEWEST_ONLY and fact.kind in seen:
                continue
            seen.add(fact.kind)
            num_shared = len(words & set(query_words(fact.text)))
            ranked.append(((-(fact.kind == "name"), -num_shared, -(fact.kind in _LASTING), -fact.id), fact))
        return [fact for _, fact in sorted(ranked, key=lambda one: one[0])][: max(0, limit)]

    def fact(self, fact_id: int) -> Fact | None:
        """One fact by its number; None if there is none."""
        with self._reading():
            row = self._connection.execute(
                "SELECT id, player, character, kind, text, is_quote FROM memory_facts WHERE id = ?", (fact_id,)
            ).fetchone()
        return _fact(row) if row else None

    def count(self) -> int:
        """How many facts there are, of all players."""
        with self._reading():
            return int(self._connection.execute("SELECT count(*) FROM memory_facts").fetchone()[0])

    def facts(self, player: str | None = None, character: str | None = None, *, player_prefix: str = "") -> list[Fact]:
        """List facts, oldest first; of all players or characters where none is given.

        Args:
            player: whom they are about.
            character: who remembers them.
            player_prefix: only of players whose names, as they are kept, begin so.
        """
        where = {"player": player, "character": character}
        given = {key: read_name(value) for key, value in where.items() if value is not None}
        clauses = [f"{key} = :{key}" for key in given]
        if player_prefix:
            clauses.append("substr(player, 1, length(:prefix)) = :prefix")
            given["prefix"] = player_prefix
        clause = " AND ".join(clauses) or "1"
        with self._reading():
            rows = self._connection.execute(
                f"SELECT id, player, character, kind, text, is_quote FROM memory_facts WHERE {clause} ORDER BY id",
                given,
            ).fetchall()
        return [_fact(row) for row in rows]

    def edit(self, fact_id: int, text: str) -> Fact:
        """Put the game's words in place of a fact's; it is a quotation no longer.

        Raises:
            LoreError: there is no such fact, the text is empty or too long, or the file cannot be written.
        """
        text = _checked(text)
        with self._writing():
            row = self._connection.execute(
                "UPDATE OR REPLACE memory_facts SET text = ?, is_quote = 0 WHERE id = ? "
                "RETURNING id, player, character, kind, text, is_quote",
                (text, fact_id),
            ).fetchone()
        if row is None:
            raise LoreError(f"There is no fact {fact_id}. `understudy memory list` shows their numbers.")
        return _fact(row)

    def delete(self, fact_id: int) -> None:
        """Forget one fact.

        Raises:
            LoreError: there is no such fact, or the file cannot be written.
        """
        with self._writing():
            done = self._connection.execute("DELETE FROM memory_facts WHERE id = ?", (fact_id,)).rowcount
        if not done:
            raise LoreError(f"There is no fact {fact_id}. `understudy memory list` shows their numbers.")

    def forget(self, player: str, character: str | None = None) -> int:
        """Forget a player, with one character or (None) with all; how many facts that was."""
        values = [read_name(player)] + ([read_name(character)] if character is not None else [])
        clause = " AND character = ?" if character is not None else ""
        with self._writing():
            return self._connection.execute(f"DELETE FROM memory_facts WHERE player = ?{clause}", values).rowcount

    def export(self, player: str | None = None, character: str | None = None) -> list[dict[str, Any]]:
        """All facts as plain values, for JSON."""
        return [dataclasses.asdict(fact) for fact in self.facts(player, character)]

    def _add(self, player: str, character: str, found: Sequence[tuple[str, str, bool]]) -> list[Fact]:
        who = (read_name(player), read_name(character))
        with self._writing():
            added = []
            for kind, text, is_quote in found:
                row = self._connection.execute(
                    "INSERT OR IGNORE INTO memory_facts(player, character, kind, text, is_quote) "
                    "VALUES (?, ?, ?, ?, ?) RETURNING id, player, character, kind, text, is_quote",
                    (*who, kind, text, is_quote),
                ).fetchone()
                if row:
                    added.append(_fact(row))
            self._connection.execute(
                "DELETE FROM memory_facts WHERE player = ?1 AND character = ?2 AND id NOT IN (SELECT id FROM "
                f"memory_facts WHERE player = ?1 AND character = ?2 ORDER BY id DESC LIMIT {_MAX_FACTS})",
                who,
            )
        return added

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        with self._reading(), transaction(self._connection, self._path):
            yield

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            with self._lock:
                yield
        except (sqlite3.Error, OverflowError) as error:  # a number beyond 64 bits
            raise LoreError(f"The memories in {self._path or 'memory'} cannot be used: {error}.") from error


def recollection(facts: Sequence[Fact], player: str) -> str:
    """One text for the prompt's `<context>`; empty without facts.

    Args:
        facts: what `recall` chose.
        player: what the character calls the player.
    """
    return " ".join(fact.as_told(player) for fact in sorted(facts, key=lambda fact: fact.id))


def _checked(text: str) -> str:
    text = " ".join(text.split())
    if not 0 < len(text) <= _MAX_TEXT or not text.isprintable():
        raise LoreError(f"A fact must be a sentence of 1 to {_MAX_TEXT} printable characters, not {len(text)}.")
    return text


def _fact(row: tuple[Any, ...]) -> Fact:
    return Fact(id=row[0], player=row[1], character=row[2], kind=row[3], text=row[4], is_quote=bool(row[5]))
