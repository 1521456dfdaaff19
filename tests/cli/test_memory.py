import json
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from understudy.npc.memory import Memory

if TYPE_CHECKING:
    from conftest import Run


def test_list_edit_delete_export(run: "Run", tmp_path: Path) -> None:
    file = tmp_path / "game.db"
    with Memory.open(file) as memory:
        memory.observe("Mara", "hettie", "I owe you three herons. I love eels.")
        memory.observe("Jon", "hettie", "I hate snakes.")
    assert '"I love eels."' in run("memory", "list", file, "--player", "mara").out
    assert run("memory", "edit", file, 1, "Mara paid her debt.").out == "1: Mara paid her debt.\n"
    assert run("memory", "delete", file, 2).out == "2: forgotten\n"
    facts = json.loads(run("memory", "export", file).out)
    assert [(fact["id"], fact["player"], fact["text"]) for fact in facts] == [
        (1, "mara", "Mara paid her debt."),
        (3, "jon", "I hate snakes."),
    ]
    assert run("memory", "list", file, "--player", "Eve").out == "Nothing is remembered.\n"


def test_slips(run: "Run", tmp_path: Path) -> None:
    assert "there is no file" in run("memory", "list", tmp_path / "no.db").err
    Memory.open(tmp_path / "m.db").close()
    result = run("memory", "delete", tmp_path / "m.db", 5)
    assert (result.code, result.err) == (
        2,
        "understudy: There is no fact 5. `understudy memory list` shows their numbers.\n",
    )
    assert "cannot be used" in run("memory", "delete", tmp_path / "m.db", 10**20).err


@pytest.mark.parametrize("verb", [("list",), ("export",), ("edit", 1, "Words."), ("delete", 1)])
def test_a_file_that_is_no_memory_stays_as_it_is(run: "Run", tmp_path: Path, verb: tuple[object, ...]) -> None:
    other, text, empty = tmp_path / "other.db", tmp_path / "notes.txt", tmp_path / "empty.db"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE sales(day TEXT)")
    connection.close()
    text.write_text("Not a database, but long enough to look at.")
    empty.write_bytes(b"")
    for file, problem in ((other, "holds no memory"), (text, "is no SQLite database"), (empty, "holds no memory")):
        before = file.read_bytes()
        result = run("memory", verb[0], file, *verb[1:])
        assert (result.code, problem in result.err) == (2, True), result.err
        assert "Memory.open" in result.err
        assert file.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.db", "notes.txt", "other.db"]


def test_a_list_writes_nothing(run: "Run", tmp_path: Path) -> None:
    file = tmp_path / "game.db"
    with Memory.open(file) as memory:
        memory.observe("Mara", "hettie", "I love eels.")
    before = file.read_bytes()
    assert '"I love eels."' in run("memory", "list", file).out
    assert json.loads(run("memory", "export", file).out)[0]["text"] == "I love eels."
    assert file.read_bytes() == before
