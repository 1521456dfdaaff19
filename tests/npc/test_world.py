import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from understudy.errors import CardError
from understudy.npc.world import World, default_world, load_world

Change = Callable[[Any], Any]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files = {
        "world.json": {"id": "hill", "name": "Hill", "lore": [{"id": "l1", "title": "T", "keys": ["k"], "text": "x"}]},
        "characters.json": [{"id": "ada", "name": "Ada Fell", "knowledge": ["l1"], "tools": ["ring"]}],
        "tools.json": [{"type": "function", "function": {"name": "ring"}}],
    }
    for name, value in files.items():
        (tmp_path / name).write_text(json.dumps(value))
    return tmp_path


def test_sample_world(harrowmere: World) -> None:
    assert (harrowmere.id, harrowmere.name) == ("harrowmere", "Harrowmere")
    assert harrowmere.characters[0].name == "Hettie Marlpit"
    assert len(harrowmere.characters) == 12
    assert len(harrowmere.lore) >= 30
    assert harrowmere.tools
    assert default_world() == harrowmere


def test_folder_is_read(folder: Path) -> None:
    world = load_world(folder)
    assert world.lore[0].keys == ("k",)
    assert world.characters[0].knowledge == ("l1",)
    assert world.genre == ""


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(CardError, match=r"no world folder .*nowhere.*world\.json"):
        load_world(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["world.json", "characters.json", "tools.json"])
@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "is missing"),
        ("{", "no valid JSON"),
        ("7", "must hold"),
        ("[" * 99999, "no valid JSON"),
        (b"\xff", "JSON"),
    ],
)
def test_bad_files_are_named(folder: Path, name: str, content: str | bytes | None, problem: str) -> None:
    path = folder / name
    path.unlink()
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CardError, match=problem) as caught:
        load_world(folder)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "change", "problem"),
    [
        ("world.json", lambda w: {**w, "id": ""}, 'needs "id"'),
        ("world.json", lambda w: {**w, "name": 3}, 'needs "name"'),
        ("world.json", lambda w: {**w, "lore": {}}, '"lore" must be a list'),
        ("world.json", lambda w: {**w, "lore": [3]}, 'entry 0 of "lore" must be an object'),
        ("world.json", lambda w: {**w, "lore": w["lore"] * 2}, "lore id 'l1' comes twice"),
        ("world.json", lambda w: {**w, "lore": [{**w["lore"][0], "keys": "k"}]}, '"keys" must be a list'),
        ("world.json", lambda w: {**w, "lore": []}, "Ada Fell knows 'l1', which is not in world.json"),
        ("characters.json", lambda c: [], "no characters"),
        ("characters.json", lambda c: c * 2, "character 'ada' comes twice"),
        ("characters.json", lambda c: [{**c[0], "name": ""}], "entry 0 has no name"),
        ("tools.json", lambda t: [], "may call 'ring', which is not in tools.json"),
        ("tools.json", lambda t: [*t, {"function": {}}], "entry 1: A tool needs a name"),
        ("tools.json", lambda t: [*t, 5], "entry 1 must be a function's schema"),
    ],
)
def test_bad_values_are_named(folder: Path, name: str, change: Change, problem: str) -> None:
    path = folder / name
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(CardError, match=problem):
        load_world(folder)
