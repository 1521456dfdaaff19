"""An open database of lore: which passages answer what was just said."""

import dataclasses
import logging
import sqlite3
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from understudy.errors import LoreError
from understudy.retrieval.build import LORE, fill_lore
from understudy.retrieval.database import open_database
from understudy.retrieval.embedder import Embedder
from understudy.retrieval.index import Found, Index
from understudy.retrieval.passages import Document
from understudy.retrieval.patience import PatientEmbedder
from understudy.retrieval.query import query_words

__all__ = ["MIN_SCORE", "MIN_SIMILARITY", "LookUp", "Lore", "LoreStats"]

# Measured (docs/lore.md): keeps 98 % of the right passages that are found at all, and gives nothing to seven of ten
# questions about another tale.
MIN_SCORE = 0.3
MIN_SIMILARITY = 0.5

_LOG = logging.getLogger(__name__)
_NUM_BEFORE = 4
_MAX_CHARACTERS = 10_000
_RANK_OFFSET = 60  # of reciprocal rank fusion: Cormack, Clarke and Büttcher, SIGIR 2009
_MEANING_SHARE = 0.3  # measured (docs/lore.md): as much as the words, it drives out what they find
_RETRY_S = 30.0
_FAIR_WAIT_S = 1.0  # an embedder that was given less time may still be fast enough for the next line
_LEAST_SHARE = 0.5  # of the best score: a quarter fewer tokens for a loss of 1 % of the right passages


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoreStats:
    """What a database holds.

    Attributes:
        num_documents: files.
        num_passages: pieces of them.
        num_public: pieces that everybody may know.
        num_known_to: pieces that each named character or group may know beside those.
        embedder: name of what made the vectors; empty without.
        embedder_spec: how to open it again.
        num_bytes: size of the file.
    """

    num_documents: int
    num_passages: int
    num_public: int
    num_known_to: Mapping[str, int]
    embedder: str
    embedder_spec: str
    num_bytes: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class LookUp:
    """What a search found.

    Attributes:
        found: passages, best first.
        note: what it had to do without; empty where nothing was missing.
    """

    found: tuple[Found, ...]
    note: str = ""


class Lore:
    """An open database of lore; safe from any thread."""

    def __init__(self, connection: sqlite3.Connection, path: Path | None, embedder: Embedder | None) -> None:
        """See `open` and `from_documents`."""
        self._connection, self._path = connection, path
        self._embedder = PatientEmbedder(embedder) if embedder else None
        self._index = Index(connection)
        self._lock = threading.Lock()
        self._silent_until_s = 0.0

    @classmethod
    def open(cls, path: str | Path, *, embedder: Embedder | None = None) -> Self:
        """Open what `build_lore` made.

        Args:
            path: the file.
            embedder: the one that it was built with; None: words alone, whatever it was built with.

        Raises:
            LoreError: the file is missing, foreign, of another version, or built with another embedder.
        """
        path = Path(path)
        lore = cls(open_database(path, LORE, create=False), path, embedder)
        try:
            built_with = lore.stats().embedder
            if embedder and embedder.name != built_with:
                raise LoreError(
                    f"{path} was built with {built_with or 'no embedder'}, not with {embedder.name}. "
                    "Build it again with this embedder, or open it without one."
                )
        except BaseException:
            lore.close()
            raise
        return lore

    @classmethod
    def from_documents(cls, documents: Sequence[Document]) -> Self:
        """Build in memory, for words alone; for lore of a few hundred passages.

        Raises:
            LoreError: there is none, or an id comes twice.
        """
        connection = open_database(None, LORE, create=True)
        try:
            fill_lore(connection, None, documents)
        except BaseException:
            connection.close()
            raise
        return cls(connection, None, None)

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

    def search(
        self,
        line: str,
        *,
        character: str,
        history: Sequence[str] = (),
        limit: int = 4,
        min_score: float = MIN_SCORE,
        min_similarity: float = MIN_SIMILARITY,
    ) -> list[Found]:
        """Find the passages that answer a line, best first; none where none scores enough.

        With a history, the line is also asked together with the words before it ("and how old is it?"); what that
        finds comes after what the line finds alone, and may always take one place.

        Args:
            line: what the player said; any text.
            character: who is asked: a name, or `ALL_KNOWING`.
            history: what was said before by both, oldest first.
            limit: most passages.
            min_score: a passage passes by its words from here on, if it has half of the best one's; 0: near misses too.
            min_similarity: or by its meaning.

        Raises:
            LoreError: the database is damaged, in use, or closed.
        """
        looked = self.look_up(
            line,
            character=character,
            history=history,
            limit=limit,
            min_score=min_score,
            min_similarity=min_similarity,
        )
        return list(looked.found)

    def look_up(
        self,
        line: str,
        *,
        character: str,
        history: Sequence[str] = (),
        limit: int = 4,
        min_score: float = MIN_SCORE,
        min_similarity: float = MIN_SIMILARITY,
        wait_s: float | None = None,
    ) -> LookUp:
        """Like `search`, and tell where words alone had to do.

        Args:
            line: as of `search`.
            character: as of `search`.
            history: as of `search`.
            limit: as of `search`.
            min_score: as of `search`.
            min_similarity: as of `search`.
            wait_s: longest wait for the embedder; None for as long as it takes.

        Raises:
            LoreError: the database is damaged, in use, or closed.
        """
        texts = [line, " ".join([*history[-_NUM_BEFORE:], line])] if history else [line]
        vectors, note = self._embed(texts, wait_s)
        passing: dict[int, tuple[float, float | None]] = {}
        try:
            with self._lock:
                self._index.refresh()
                hits = [
                    self._passing(text, vector, character, min_score, min_similarity)
                    for text, vector in zip(texts, vectors, strict=True)
                ]
                rooms = [max(1, limit - 1), limit, limit] if history else [limit]
                for hit, room in zip([*hits, hits[0]], rooms, strict=False):
                    for number, why in hit.items():
                        if len(passing) < min(room, limit):
                            passing.setdefault(number, why)
                return LookUp(found=tuple(self._index.fetch(passing, character)), note=note)
        except sqlite3.Error as error:
            raise LoreError(f"The lore in {self._path or 'memory'} cannot be searched: {error}.") from error

    def stats(self) -> LoreStats:
        """Count what is there.

        Raises:
            LoreError: the database is damaged, in use, or closed.
        """
        try:
            with self._lock:
                return self._stats()
        except sqlite3.Error as error:
            raise LoreError(f"The lore in {self._path or 'memory'} cannot be read: {error}.") from error

    def _stats(self) -> LoreStats:
        one = self._connection.execute
        facts = dict(one("SELECT name, value FROM lore_facts"))
        num_known_to = one(
            "SELECT k.name, count(*) FROM lore_known_to k JOIN lore_passages p ON p.scope = k.scope "
            "GROUP BY k.name ORDER BY k.name"
        )
        num_public = one("SELECT count(*) FROM lore_passages p JOIN lore_scopes s ON s.id = p.scope WHERE s.is_public")
        return LoreStats(
            num_documents=one("SELECT count(*) FROM lore_documents").fetchone()[0],
            num_passages=one("SELECT count(*) FROM lore_passages").fetchone()[0],
            num_public=num_public.fetchone()[0],
            num_known_to=dict(num_known_to),
            embedder=facts["embedder"],
            embedder_spec=facts["embedder_spec"],
            num_bytes=self._path.stat().st_size if self._path else 0,
        )

    def _embed(self, texts: Sequence[str], wait_s: float | None) -> tuple[Sequence[NDArray[np.float32] | None], str]:
        """The vectors of what was said; None without an embedder, and for a while after it failed, with the reason."""
        nothing = [None] * len(texts)
        if self._embedder is None or not texts[0].strip():
            return nothing, ""
        if time.monotonic() < self._silent_until_s:
            return nothing, f"The embedder {self._embedder.name} failed a while ago; lore was found by words alone."
        try:
            return list(self._embedder.embed([text[-_MAX_CHARACTERS:] for text in texts], wait_s=wait_s)), ""
        except LoreError as error:
            if wait_s is None or wait_s >= _FAIR_WAIT_S:
                _LOG.warning("%s For %d s, lore is found by words alone.", error, _RETRY_S)
                self._silent_until_s = time.monotonic() + _RETRY_S
            return nothing, f"{error} Lore was found by words alone."

    def _passing(
        self,
        text: str,
        vector: NDArray[np.float32] | None,
        character: str,
        min_score: float,
        min_similarity: float,
    ) -> dict[int, tuple[float, float | None]]:
        """Score and similarity of the passages that pass, best first: both rankings fused by reciprocal rank."""
        scores = self._index.by_words(query_words(text), character)
        cosines = {} if vector is None else self._index.by_meaning(vector, character)
        fused: dict[int, float] = {}
        for ranking, share in ((scores, 1.0), (cosines, _MEANING_SHARE)):
            for rank, number in enumerate(ranking, 1):
                fused[number] = fused.get(number, 0.0) + share / (_RANK_OFFSET + rank)
        least = max(min_score, _LEAST_SHARE * max(scores.values(), default=0.0)) if min_score else 0.0
        return {
            number: (scores.get(number, 0.0), cosines.get(number))
            for number in sorted(fused, key=lambda number: (-fused[number], number))
            if scores.get(number, -1.0) >= least or cosines.get(number, -1.0) >= min_similarity
        }
