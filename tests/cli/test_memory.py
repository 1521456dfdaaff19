import json
from pathlib import Path
from typing import TYPE_CHECKING

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
