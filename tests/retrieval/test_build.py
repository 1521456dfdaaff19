import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from understudy.errors import LoreError
from understudy.retrieval import ALL_KNOWING, Document, Lore, Passage, build_lore, read_folder


def texts(path: Path) -> set[str]:
    with sqlite3.connect(path) as connection:
        found = {row[0] for row in connection.execute("SELECT text FROM lore_text")}
    connection.close()
    return found


def test_only_what_changed_is_read(lore_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    first = build_lore(path, read_folder(lore_folder).documents)
    assert (first.num_documents, first.num_passages, first.num_read, first.num_removed) == (5, 6 + 1, 5, 0)
    (lore_folder / "inn.txt").write_text("The inn burned down.")
    (lore_folder / "people.json").unlink()
    second = build_lore(path, read_folder(lore_folder).documents)
    assert (second.num_documents, second.num_passages, second.num_read, second.num_removed) == (4, 6, 1, 1)
    assert "The inn burned down." in texts(path)
    assert not [text for text in texts(path) if "Hettie" in text or "Pym" in text]
    assert build_lore(path, read_folder(lore_folder).documents).num_read == 0


def test_an_open_lore_sees_the_next_build(lore_folder: Path, tmp_path: Path) -> None:
    build_lore(tmp_path / "l.db", read_folder(lore_folder).documents)
    with Lore.open(tmp_path / "l.db") as lore:
        assert lore.search("dragon", character="x") == []
        (lore_folder / "inn.txt").write_text("A dragon sleeps in the cellar.")
        build_lore(tmp_path / "l.db", read_folder(lore_folder).documents)
        assert [one.id for one in lore.search("dragon", character="x")] == ["inn.txt#1"]


def document(name: str, *ids: str) -> Document:
    return Document(name=name, digest="1", read=lambda: [Passage(id=i, text=f"text {i}") for i in ids])


def test_a_build_that_fails_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    build_lore(path, [document("a", "1", "2")])
    with pytest.raises(LoreError, match="c: the id '1' comes twice"):
        build_lore(path, [document("a", "1", "2"), document("b", "3"), document("c", "1")])
    with pytest.raises(LoreError, match="no text"):
        build_lore(path, [document("d")])
    with pytest.raises(LoreError, match="no lore"):
        build_lore(path, [])
    assert texts(path) == {"text 1", "text 2"}


def test_a_build_that_is_killed_changes_nothing(tmp_path: Path) -> None:
    """In the midst of its one transaction, which is larger than SQLite's cache, so that pages are on the disk."""
    path = tmp_path / "l.db"
    build_lore(path, [document("a", "1", "2")])
    code = """
import sys, time
from pathlib import Path
from understudy.retrieval import Document, Passage, build, build_lore
def wait(*arguments):
    print("now", flush=True)
    time.sleep(60)
build._finish = wait
passages = [Passage(id=f"new {n}", text=f"new {n} " * 100) for n in range(2500)]
build_lore(Path(sys.argv[1]), [Document(name="b", digest="1", read=lambda: passages)])
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "now\n"
        assert path.with_name("l.db-journal").stat().st_size > 0
        process.send_signal(signal.SIGKILL)
    with Lore.open(path) as lore:
        assert [one.id for one in lore.search("text 2", character=ALL_KNOWING)] == ["2", "1"]
        assert lore.stats().num_passages == 2


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("not a database, but long enough to be one")
    (tmp_path / "damaged.db").write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)
    sqlite3.connect(tmp_path / "other.db").execute("CREATE TABLE t(x)").connection.close()
    build_lore(tmp_path / "newer.db", [document("a", "1")])
    with sqlite3.connect(tmp_path / "newer.db") as connection:
        connection.execute("UPDATE understudy_parts SET version = 99")
    connection.close()
    for name, words in {
        "text.db": "no SQLite",
        "damaged.db": "damaged",
        "other.db": "holds no lore",
        "newer.db": "version 99; this program reads version 1. Build it again",
        "nope.db": "understudy lore build",
    }.items():
        with pytest.raises(LoreError, match=words):
            Lore.open(tmp_path / name)
    with pytest.raises(LoreError, match="version 99"):
        build_lore(tmp_path / "newer.db", [document("a", "1")])
    with pytest.raises(LoreError, match="no folder"):
        build_lore(tmp_path / "none" / "l.db", [document("a", "1")])


def test_two_builds_at_once(tmp_path: Path) -> None:
    path = tmp_path / "l.db"

    def other_build(what: str, done: int, total: int) -> None:
        if what == "reading" and done == total and not path.with_suffix(".done").exists():
            path.with_suffix(".done").touch()
            build_lore(path, [document("b", "2")])

    with pytest.raises(LoreError, match="Another build"):
        build_lore(path, [document("a", "1")], on_progress=other_build)
    assert texts(path) == {"text 2"}


def test_progress_goes_up(lore_folder: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    build_lore(tmp_path / "l.db", read_folder(lore_folder).documents, on_progress=lambda *step: told.append(step))
    assert told[0] == ("reading", 0, 5)
    assert told[-1] == ("writing", 1, 1)
    assert [done for what, done, _ in told if what == "reading"] == [0, 1, 2, 3, 4, 5]


def test_a_thousand_files_take_seconds(tmp_path: Path) -> None:
    documents = [document(str(n), str(n)) for n in range(1000)]
    began = time.process_time()
    build_lore(tmp_path / "l.db", documents)
    assert time.process_time() - began < 5
