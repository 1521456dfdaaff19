"""Against a real server on loopback; its vectors count letters."""

import contextlib
import http.server
import json
import sqlite3
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from understudy.errors import LoreError
from understudy.retrieval import ALL_KNOWING, Lore, build_lore, open_embedder, read_folder
from understudy.retrieval.embedder import EndpointEmbedder, FolderEmbedder, embed_texts


class Server(http.server.ThreadingHTTPServer):
    """Counts letters, or answers as it is told."""

    answer: bytes | None = None
    status = 200
    asked: list[dict[str, Any]]
    keys: list[str | None]


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append({**question, "path": self.path})
        self.server.keys.append(self.headers["Authorization"])
        vectors = [[text.lower().count(c) + 0.01 for c in "abcdefghijklmnopqrstuvwxyz"] for text in question["input"]]
        data = [{"object": "embedding", "index": n, "embedding": v} for n, v in enumerate(vectors)]
        body = self.server.answer or json.dumps({"object": "list", "data": data[::-1], "model": "letters"}).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (its name)
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as server:
        server.asked, server.keys = [], []
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def url(server: Server) -> str:
    return f"http://127.0.0.1:{server.server_port}/v1"


def test_what_is_sent_and_how_it_comes_back(server: Server) -> None:
    embedder = open_embedder(f"{url(server)}#letters", api_key="k1")
    assert embedder
    vectors = embed_texts(embedder, ["ab", "zz"])
    assert server.asked == [
        {"model": "letters", "input": ["ab", "zz"], "encoding_format": "float", "path": "/v1/embeddings"}
    ]
    assert server.keys == ["Bearer k1"]
    assert vectors.shape == (2, 26)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1)
    assert [int(row.argmax()) for row in vectors] == [0, 25]


@pytest.mark.parametrize(
    ("status", "answer", "words"),
    [
        (500, b"out of\nmemory", "refused, status 500: out of memory"),
        (200, b"<html>", "no list of embeddings"),
        (200, b'{"data": [{"index": 1, "embedding": [1]}]}', "no list of embeddings"),
        (200, b'{"data": [{"index": 0, "embedding": ["x"]}]}', "no list of embeddings"),
        (200, b'{"data": [{"index": 0, "embedding": [0, 0]}]}', "zero or not finite"),
        (200, b'{"data": [{"index": 0, "embedding": [NaN]}]}', "zero or not finite"),
        (200, b'{"data": [{"index": 0, "embedding": []}]}', "shape"),
        (200, b'{"data": [{"index": 0, "embedding": 5}]}', "shape"),
    ],
)
def test_strange_answers(server: Server, status: int, answer: bytes, words: str) -> None:
    server.status, server.answer = status, answer
    with pytest.raises(LoreError, match=words):
        embed_texts(EndpointEmbedder(url(server), "letters"), ["ab"])


def test_nobody_there() -> None:
    with pytest.raises(LoreError, match=r"does not answer.*Is it running"):
        EndpointEmbedder("http://127.0.0.1:9/v1", "letters", timeout_s=2).embed(["a"])


@pytest.mark.parametrize(
    "spec",
    [
        "http://127.0.0.1:1/v1",
        "ftp://x/v1#m",
        "file:///etc/passwd#m",
        "http://[::1/v1#m",
        "http://host:port/v1#m",
        "http://:80/v1#m",
    ],
)
def test_no_address(spec: str) -> None:
    with pytest.raises(LoreError, match="no address of an embedder"):
        open_embedder(spec)


def test_a_host_or_a_key_that_cannot_be_sent() -> None:
    with pytest.raises(LoreError, match="does not answer"):
        EndpointEmbedder(f"http://{'a' * 70}.invalid/v1", "letters").embed(["a"])
    with pytest.raises(LoreError, match="line break"):
        open_embedder("http://127.0.0.1:9/v1#letters", api_key="secret\n")


def test_no_folder_or_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_embedder("none") is None
    with pytest.raises(LoreError, match="no folder"):
        open_embedder(str(tmp_path / "nope"))
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(LoreError, match="pip install sentence-transformers"):
        FolderEmbedder(tmp_path)


def test_words_and_meaning_are_fused(server: Server, lore_folder: Path, tmp_path: Path) -> None:
    """No word of the line stands in the passage; its letters do."""
    embedder = EndpointEmbedder(url(server), "letters")
    build_lore(tmp_path / "l.db", read_folder(lore_folder).documents, embedder=embedder)
    with Lore.open(tmp_path / "l.db", embedder=embedder) as lore:
        found = lore.search("gelt chawt spym ehade", character=ALL_KNOWING, min_similarity=0.8)
        assert "pym" in [one.id for one in found]
        assert all(one.score == 0 and one.similarity and one.similarity >= 0.8 for one in found)
        both = lore.search("the watch of Pym", character=ALL_KNOWING)[0]
        assert (both.id, both.score > 0.3, (both.similarity or 0) > 0.5) == ("pym", True, True)
        secret = lore.search("The ferrymen owe the crown nine swans.", character="pym", min_score=0, min_similarity=-1)
        assert len(secret) == 4
        assert not [one for one in secret if "ferrymen" in one.text]


def test_damaged_vectors(server: Server, lore_folder: Path, tmp_path: Path) -> None:
    embedder = EndpointEmbedder(url(server), "letters")
    build_lore(tmp_path / "l.db", read_folder(lore_folder).documents, embedder=embedder)
    with contextlib.closing(sqlite3.connect(tmp_path / "l.db")) as connection, connection:
        connection.execute("UPDATE lore_vectors SET vector = x'00' WHERE rowid = 1")
    with Lore.open(tmp_path / "l.db", embedder=embedder) as lore, pytest.raises(LoreError, match="damaged"):
        lore.search("the watch of Pym", character=ALL_KNOWING)


def test_an_embedder_that_fails_leaves_the_words(
    server: Server, lore_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    embedder = EndpointEmbedder(url(server), "letters")
    build_lore(tmp_path / "l.db", read_folder(lore_folder).documents, embedder=embedder)
    with Lore.open(tmp_path / "l.db", embedder=embedder) as lore:
        server.status, num_asked = 500, len(server.asked)
        for _ in range(3):
            (found,) = lore.search("captain Pym", character="x")
            assert (found.id, found.similarity) == ("pym", None)
    assert len(server.asked) == num_asked + 1
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_another_embedder_is_told(server: Server, lore_folder: Path, tmp_path: Path) -> None:
    path, documents = tmp_path / "l.db", read_folder(lore_folder).documents
    letters, other = EndpointEmbedder(url(server), "letters"), EndpointEmbedder(url(server), "other")
    build_lore(path, documents)
    with pytest.raises(LoreError, match="built with no embedder, not with endpoint letters"):
        Lore.open(path, embedder=letters)
    assert build_lore(path, documents, embedder=letters).num_embedded == 7
    assert build_lore(path, documents, embedder=letters).num_embedded == 0
    with pytest.raises(LoreError, match=r"built with endpoint letters, not with endpoint other. Build it again"):
        Lore.open(path, embedder=other)
    assert build_lore(path, documents, embedder=other).num_embedded == 7
    server.answer = b'{"data": [{"index": 0, "embedding": [1, 2]}]}'
    (lore_folder / "inn.txt").write_text("New.")
    with pytest.raises(LoreError, match="build to a new file"):
        build_lore(path, read_folder(lore_folder).documents, embedder=other)


def test_a_stopped_build_keeps_its_vectors(server: Server, tmp_path: Path) -> None:
    for n in range(70):
        (tmp_path / f"{n}.txt").write_text(f"Text number {n}.")
    documents, embedder = read_folder(tmp_path).documents, EndpointEmbedder(url(server), "letters")

    def stop(what: str, done: int, total: int) -> None:
        if what == "embedding" and done == 64:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_lore(tmp_path / "l.db", documents, embedder=embedder, on_progress=stop)
    assert build_lore(tmp_path / "l.db", documents, embedder=embedder).num_embedded == 6


def test_a_model_in_a_folder(tmp_path: Path) -> None:
    """Runs where sentence-transformers is installed."""
    st = pytest.importorskip("sentence_transformers")
    modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
    words = modules.BoW(vocab=["bell", "toll", "eel"])
    st.SentenceTransformer(modules=[words]).save(str(tmp_path / "bow"))
    embedder = open_embedder(str(tmp_path / "bow"))
    assert embedder
    assert embedder.name.startswith("folder bow ")
    assert embed_texts(embedder, ["bell", "eel toll"]).tolist() == [
        [1, 0, 0],
        pytest.approx([0, 0.7071, 0.7071], abs=1e-3),
    ]
    with pytest.raises(LoreError, match="no sentence-transformers model"):
        FolderEmbedder(tmp_path)
