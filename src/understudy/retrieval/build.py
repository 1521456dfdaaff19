"""From documents to the database: what changed is read again, in one transaction."""

import dataclasses
import hashlib
import json
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from understudy.errors import LoreError
from understudy.retrieval.database import Part, open_database, transaction
from understudy.retrieval.embedder import Embedder, embed_texts
from understudy.retrieval.passages import Document, Passage

__all__ = ["LORE", "BuildReport", "build_lore", "fill_lore"]

_BATCH = 32
# Ids are the database's own; a passage's text stands in lore_text, under the same number.
LORE = Part(
    name="lore",
    version=1,
    mend="Build it again with this program, to a new file.",
    maker="`understudy lore build`",
    schema="""CREATE TABLE lore_facts(name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE lore_scopes(id INTEGER PRIMARY KEY, is_public INTEGER NOT NULL, names TEXT NOT NULL UNIQUE);
CREATE TABLE lore_known_to(
    name TEXT NOT NULL, scope INTEGER NOT NULL REFERENCES lore_scopes, PRIMARY KEY (name, scope)) WITHOUT ROWID;
CREATE TABLE lore_documents(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, digest TEXT NOT NULL);
CREATE TABLE lore_passages(
    number INTEGER PRIMARY KEY, scope INTEGER NOT NULL REFERENCES lore_scopes,
    document INTEGER NOT NULL REFERENCES lore_documents, line INTEGER NOT NULL, id TEXT NOT NULL UNIQUE,
    digest TEXT NOT NULL);
CREATE INDEX lore_passages_of ON lore_passages(document);
CREATE TABLE lore_vectors(
    embedder TEXT NOT NULL, digest TEXT NOT NULL, vector BLOB NOT NULL, PRIMARY KEY (embedder, digest));
CREATE VIRTUAL TABLE lore_text USING fts5(title, keys, text, tokenize = 'porter unicode61 remove_diacritics 2');
INSERT INTO lore_facts VALUES ('generation', '0'), ('embedder', ''), ('embedder_spec', '')""",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuildReport:
    """What a build did.

    Attributes:
        num_documents: in the database now.
        num_passages: in the database now.
        num_read: documents that were new or had changed.
        num_removed: documents that were gone.
        num_embedded: vectors that were made.
    """

    num_documents: int
    num_passages: int
    num_read: int
    num_removed: int
    num_embedded: int


def build_lore(
    path: Path,
    documents: Sequence[Document],
    *,
    embedder: Embedder | None = None,
    embedder_spec: str = "",
    on_progress: Callable[[str, int, int], None] | None = None,
) -> BuildReport:
    """Bring a database up to date with documents: what changed is read, what is gone is removed.

    Until the end, and after a kill, the file answers as before; vectors that were made are kept for the next try.

    Args:
        path: the file; made where there is none.
        documents: all that it shall hold.
        embedder: makes vectors; None: words alone.
        embedder_spec: how to open the embedder again (`open_embedder`); never put a key into it.
        on_progress: is told what is done ("reading", "embedding", "writing"), how many are done, and of how many.

    Raises:
        LoreError: no documents or passages, an id comes twice, or the file or the embedder fails.
    """
    with closing(open_database(path, LORE, create=True)) as connection:
        try:
            return fill_lore(
                connection, path, documents, embedder=embedder, embedder_spec=embedder_spec, on_progress=on_progress
            )
        except sqlite3.DatabaseError as error:
            raise LoreError(f"The database {path} cannot be used: {error}. Build it to a new file.") from error


def fill_lore(
    connection: sqlite3.Connection,
    path: Path | None,
    documents: Sequence[Document],
    *,
    embedder: Embedder | None = None,
    embedder_spec: str = "",
    on_progress: Callable[[str, int, int], None] | None = None,
) -> BuildReport:
    """`build_lore` on an open database."""
    if not documents:
        raise LoreError("There is no lore to build from.")
    tell = on_progress or (lambda *_: None)
    generation = _fact(connection, "generation")
    stored: dict[str, str] = dict(connection.execute("SELECT name, digest FROM lore_documents"))
    changed = [document for document in documents if stored.get(document.name) != document.digest]
    gone = sorted(stored.keys() - {document.name for document in documents})
    passages: list[tuple[Document, list[Passage]]] = []
    for done, document in enumerate(changed):
        tell("reading", done, len(changed))
        passages.append((document, [_whole(passage) for passage in document.read()]))
    tell("reading", len(changed), len(changed))
    stale = [*gone, *(document.name for document in changed)]
    num_embedded = 0
    if embedder:
        texts = _texts_to_embed(connection, embedder.name, passages, stale)
        num_embedded = len(texts)
        _embed(connection, path, embedder, texts, tell)
    with transaction(connection, path):
        if _fact(connection, "generation") != generation:
            raise LoreError(f"Another build of {path} ended meanwhile. Build again.")
        tell("writing", 0, 1)
        _remove(connection, stale)
        for document, found in passages:
            _insert(connection, document, found)
        num_passages = connection.execute("SELECT count(*) FROM lore_passages").fetchone()[0]
        if not num_passages:
            raise LoreError("The lore has no text: every file is empty.")
        _finish(connection, embedder.name if embedder else "", embedder_spec if embedder else "")
    tell("writing", 1, 1)
    return BuildReport(
        num_documents=len(documents),
        num_passages=num_passages,
        num_read=len(changed),
        num_removed=len(gone),
        num_embedded=num_embedded,
    )


def _fact(connection: sqlite3.Connection, name: str) -> str:
    return str(connection.execute("SELECT value FROM lore_facts WHERE name = ?", (name,)).fetchone()[0])


def _shown(passage: Passage) -> str:
    """What is embedded."""
    return f"{passage.title}\n{passage.text}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _texts_to_embed(
    connection: sqlite3.Connection,
    embedder_name: str,
    passages: Sequence[tuple[Document, Sequence[Passage]]],
    stale: Sequence[str],
) -> dict[str, str]:
    """Texts without a vector of this embedder, by digest."""
    texts = {_digest(_shown(p)): _shown(p) for _, found in passages for p in found}
    kept = connection.execute(
        "SELECT p.digest, t.title || char(10) || t.text FROM lore_passages p JOIN lore_text t ON t.rowid = p.number "
        "WHERE p.document NOT IN (SELECT d.id FROM lore_documents d JOIN json_each(?) s ON d.name = s.value)",
        (json.dumps(list(stale)),),
    )
    texts.update(kept)
    there = {
        row[0] for row in connection.execute("SELECT digest FROM lore_vectors WHERE embedder = ?", (embedder_name,))
    }
    return {digest: text for digest, text in texts.items() if digest not in there}


def _embed(
    connection: sqlite3.Connection,
    path: Path | None,
    embedder: Embedder,
    texts: dict[str, str],
    tell: Callable[[str, int, int], None],
) -> None:
    """Make vectors and keep each batch at once: a build that is stopped goes on where it was."""
    digests = list(texts)
    for start in range(0, len(digests), _BATCH):
        tell("embedding", start, len(digests))
        batch = digests[start : start + _BATCH]
        vectors = embed_texts(embedder, [texts[digest] for digest in batch])
        _check_width(connection, embedder.name, vectors.shape[1])
        with transaction(connection, path):
            connection.executemany(
                "INSERT OR REPLACE INTO lore_vectors VALUES (?, ?, ?)",
                [(embedder.name, digest, vector.tobytes()) for digest, vector in zip(batch, vectors, strict=True)],
            )
    tell("embedding", len(digests), len(digests))


def _check_width(connection: sqlite3.Connection, embedder_name: str, num_dimensions: int) -> None:
    row = connection.execute(
        "SELECT length(vector) / 4 FROM lore_vectors WHERE embedder = ? LIMIT 1", (embedder_name,)
    ).fetchone()
    if row and row[0] != num_dimensions:
        raise LoreError(
            f"The embedder {embedder_name} gives {num_dimensions} numbers; the database has {row[0]} of the same name. "
            "It is another model now: build to a new file."
        )


def _remove(connection: sqlite3.Connection, names: Sequence[str]) -> None:
    doomed = [(name,) for name in names]
    of = "(SELECT number FROM lore_passages WHERE document = (SELECT id FROM lore_documents WHERE name = ?))"
    connection.executemany(f"DELETE FROM lore_text WHERE rowid IN {of}", doomed)
    connection.executemany(f"DELETE FROM lore_passages WHERE number IN {of}", doomed)
    connection.executemany("DELETE FROM lore_documents WHERE name = ?", doomed)


def _insert(connection: sqlite3.Connection, document: Document, passages: Sequence[Passage]) -> None:
    key = connection.execute(
        "INSERT INTO lore_documents(name, digest) VALUES (?, ?)", (document.name, document.digest)
    ).lastrowid
    for passage in passages:
        scope = _scope(connection, passage.known_to)
        try:
            number = connection.execute(
                "INSERT INTO lore_passages(scope, document, line, id, digest) VALUES (?, ?, ?, ?, ?)",
                (scope, key, passage.line, passage.id, _digest(_shown(passage))),
            ).lastrowid
        except sqlite3.IntegrityError as error:
            raise LoreError(
                f"{document.name}: the id {passage.id!r} comes twice in the lore. Rename one of them."
            ) from error
        connection.execute(
            "INSERT INTO lore_text(rowid, title, keys, text) VALUES (?, ?, ?, ?)",
            (number, passage.title, "\n".join(passage.keys), passage.text),
        )


def _whole(passage: Passage) -> Passage:
    """Without halves of surrogate pairs, which JSON may hold and a database may not."""
    texts = {name: getattr(passage, name).encode("utf-8", "replace").decode() for name in ("id", "title", "text")}
    keys = tuple(key.encode("utf-8", "replace").decode() for key in passage.keys)
    return dataclasses.replace(passage, keys=keys, **texts)


def _scope(connection: sqlite3.Connection, known_to: frozenset[str] | None) -> int:
    names = json.dumps(None if known_to is None else sorted(known_to))
    row = connection.execute("SELECT id FROM lore_scopes WHERE names = ?", (names,)).fetchone()
    if row:
        return int(row[0])
    scope = connection.execute(
        "INSERT INTO lore_scopes(is_public, names) VALUES (?, ?)", (known_to is None, names)
    ).lastrowid
    connection.executemany("INSERT INTO lore_known_to VALUES (?, ?)", [(name, scope) for name in known_to or ()])
    return int(scope or 0)


def _finish(connection: sqlite3.Connection, embedder_name: str, embedder_spec: str) -> None:
    connection.execute("DELETE FROM lore_known_to WHERE scope NOT IN (SELECT scope FROM lore_passages)")
    connection.execute("DELETE FROM lore_scopes WHERE id NOT IN (SELECT scope FROM lore_passages)")
    connection.execute(
        "DELETE FROM lore_vectors WHERE embedder != ? OR digest NOT IN (SELECT digest FROM lore_passages)",
        (embedder_name,),
    )
    connection.execute("UPDATE lore_facts SET value = ? WHERE name = 'embedder'", (embedder_name,))
    connection.execute("UPDATE lore_facts SET value = ? WHERE name = 'embedder_spec'", (embedder_spec,))
    connection.execute("UPDATE lore_facts SET value = value + 1 WHERE name = 'generation'")
    connection.execute("INSERT INTO lore_text(lore_text) VALUES ('optimize')")
