"""Ranks a database's passages for a line, by words and by meaning, within what one may know."""

import dataclasses
import json
import math
import sqlite3
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from understudy.errors import LoreError
from understudy.retrieval.query import match_expression, query_words
from understudy.retrieval.scopes import read_name

__all__ = ["ALL_KNOWING", "Found", "Index"]

ALL_KNOWING = "*"
_NUM_CANDIDATES = 50
_WEIGHTS = "2.0, 2.0, 1.0"  # of title, keys and text
_MAX_MATCHES = 2500
_FEW = 10
_MAX_KNOWN_WORDS = 20_000
# Who may know what is said here alone; no text leaves the database but by a query that holds this.
_KNOWN_SCOPES = """SELECT id FROM lore_scopes WHERE is_public OR :all
    UNION SELECT scope FROM lore_known_to WHERE name = :name"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """A passage and why it was taken.

    Attributes:
        id: for citation.
        title: path of headings.
        text: what it says.
        document: the file that it stands in.
        line: where it begins there, from 1.
        score: BM25 by the sum of the words' weights: 0 without any of them, 1 and more with all.
        similarity: cosine of its vector and the line's, from -1 to 1; None if that was not looked at.
    """

    id: str
    title: str
    text: str
    document: str
    line: int
    score: float
    similarity: float | None = None

    @property
    def context(self) -> str:
        """What the model is shown: the text, after its heading where the text does not name what it is about."""
        subject = self.title.rpartition(" > ")[2].strip()
        is_named = not subject or set(query_words(subject)) <= set(query_words(self.text))
        return self.text if is_named else f"{subject}: {self.text}"

    @property
    def reason(self) -> str:
        """One line for people."""
        return f"words {self.score:.2f}" + (f", meaning {self.similarity:.2f}" if self.similarity is not None else "")


@dataclasses.dataclass(frozen=True)
class _Vectors:
    """All vectors of a database, in memory.

    Attributes:
        numbers: [N] of the passages.
        scopes: [N] of the passages.
        matrix: [N, D], rows of length 1.
    """

    numbers: NDArray[np.int64]
    scopes: NDArray[np.int64]
    matrix: NDArray[np.float32]


class Index:
    """What is known of an open database; for one thread at a time. Rankings are by the passages' numbers."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Read nothing yet.

        Args:
            connection: to a database with lore.
        """
        self._connection = connection
        self._generation = ""
        self._num_with: dict[str, int] = {}
        self._vectors: _Vectors | None = None

    def refresh(self) -> None:
        """Forget what was counted before another build."""
        row = self._connection.execute("SELECT value FROM lore_facts WHERE name = 'generation'").fetchone()
        if row[0] != self._generation:
            self._generation, self._num_with, self._vectors = row[0], {}, None

    def by_words(self, words: Sequence[str], character: str) -> dict[int, float]:
        """Scores by BM25, best first."""
        num_all = self._count("")
        if num_all < _FEW:
            return self._by_share(words, character)
        num_with = {word: self._count(word) for word in words}
        total = sum(math.log(1 + (num_all - n + 0.5) / (n + 0.5)) for n in num_with.values())
        used: list[str] = []
        num_matches = 0
        for word in sorted((word for word in words if num_with[word]), key=lambda word: num_with[word]):
            num_matches += num_with[word]
            if used and num_matches > _MAX_MATCHES:
                break  # what stands in so many passages tells little, and costs the most
            used.append(word)
        if not used:
            return {}
        rows = self._connection.execute(
            f"SELECT t.rowid, -bm25(lore_text, {_WEIGHTS}) AS score FROM lore_text t "
            f"JOIN lore_passages p ON p.number = t.rowid WHERE lore_text MATCH :words AND p.scope IN ({_KNOWN_SCOPES}) "
            f"ORDER BY score DESC, t.rowid LIMIT {_NUM_CANDIDATES}",
            {**_reader(character), "words": match_expression(used)},
        )
        return {number: score / total for number, score in rows}

    def _by_share(self, words: Sequence[str], character: str) -> dict[int, float]:
        """Share of the words that a passage holds: among so few passages, counts say nothing of a word's weight."""
        shares: dict[int, float] = {}
        for word in words:
            rows = self._connection.execute(
                "SELECT t.rowid FROM lore_text t JOIN lore_passages p ON p.number = t.rowid "
                f"WHERE lore_text MATCH :words AND p.scope IN ({_KNOWN_SCOPES})",
                {**_reader(character), "words": match_expression([word])},
            )
            for (number,) in rows:
                shares[number] = shares.get(number, 0.0) + 1 / len(words)
        return dict(sorted(shares.items(), key=lambda item: (-item[1], item[0])))

    def by_meaning(self, vector: NDArray[np.float32], character: str) -> dict[int, float]:
        """Cosines with a vector [D] of length 1, best first.

        Raises:
            LoreError: the vectors are of another width, or there are none.
        """
        stored = self._vectors = self._vectors or self._load_vectors()
        if stored.matrix.shape[1] != len(vector):
            raise LoreError(
                f"The embedder gives {len(vector)} numbers, the lore was built with {stored.matrix.shape[1]}. "
                "It is another model now: build the lore again, to a new file."
            )
        allowed = [row[0] for row in self._connection.execute(_KNOWN_SCOPES, _reader(character))]
        rows = np.flatnonzero(np.isin(stored.scopes, allowed))
        cosines = (stored.matrix @ vector)[rows]
        best = np.argsort(-cosines, kind="stable")[:_NUM_CANDIDATES]
        return {int(stored.numbers[rows[at]]): float(cosines[at]) for at in best}

    def fetch(self, passing: Mapping[int, tuple[float, float | None]], character: str) -> list[Found]:
        """The passages of these numbers, in their order, each with score and similarity."""
        rows = self._connection.execute(
            "SELECT p.number, p.id, t.title, t.text, d.name, p.line FROM json_each(:numbers) n "
            "JOIN lore_passages p ON p.number = n.value JOIN lore_text t ON t.rowid = p.number "
            f"JOIN lore_documents d ON d.id = p.document WHERE p.scope IN ({_KNOWN_SCOPES}) ORDER BY n.key",
            {**_reader(character), "numbers": json.dumps(list(passing))},
        )
        return [
            Found(
                id=row[1],
                title=row[2],
                text=row[3],
                document=row[4],
                line=row[5],
                score=passing[row[0]][0],
                similarity=passing[row[0]][1],
            )
            for row in rows
        ]

    def _count(self, word: str) -> int:
        """Passages with a word; "": all."""
        if word not in self._num_with:
            if len(self._num_with) >= _MAX_KNOWN_WORDS:
                self._num_with.clear()
            where, values = ("WHERE lore_text MATCH ?", (match_expression([word]),)) if word else ("", ())
            row = self._connection.execute(f"SELECT count(*) FROM lore_text {where}", values).fetchone()
            self._num_with[word] = row[0]
        return self._num_with[word]

    def _load_vectors(self) -> _Vectors:
        found = self._connection.execute(
            "SELECT p.number, p.scope, v.vector FROM lore_passages p JOIN lore_vectors v ON v.digest = p.digest "
            "WHERE v.embedder = (SELECT value FROM lore_facts WHERE name = 'embedder') ORDER BY p.number"
        ).fetchall()
        if not found or len({len(row[2]) for row in found}) > 1 or len(found[0][2]) % 4:
            raise LoreError("The lore has no vectors, or damaged ones. Build it again with the embedder.")
        return _Vectors(
            numbers=np.array([row[0] for row in found], dtype=np.int64),
            scopes=np.array([row[1] for row in found], dtype=np.int64),
            matrix=np.frombuffer(b"".join(row[2] for row in found), dtype=np.float32).reshape(len(found), -1),
        )


def _reader(character: str) -> dict[str, object]:
    return {"name": read_name(character), "all": character == ALL_KNOWING}
