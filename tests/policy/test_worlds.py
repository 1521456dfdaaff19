"""The worlds keep their format, and their data card its word."""

import importlib.util
import json
import shutil
import struct
import sys
import zlib
from pathlib import Path
from types import ModuleType

import pytest

from understudy.npc.card import Card
from understudy.npc.world import default_world

WORLDS = Path(__file__).parents[2] / "worlds"
FOLDERS = sorted(path.parent.name for path in WORLDS.glob("*/dialogues.jsonl"))


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"worlds_{name}", WORLDS / f"{name}.py")
    assert spec
    assert spec.loader
    module = sys.modules[f"worlds_{name}"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def checker() -> ModuleType:
    return script("check")


def test_all_folders_are_here() -> None:
    assert len(FOLDERS) == 15


@pytest.mark.parametrize("name", FOLDERS)
def test_folder_has_no_problem(checker: ModuleType, name: str) -> None:
    assert checker.check(checker.read_folder(WORLDS / name)) == []


def test_card_counts_what_is_there(checker: ModuleType) -> None:
    assert checker.table() in (WORLDS / "README.md").read_text()


def test_package_ships_the_sample_world() -> None:
    package = Path(__file__).parents[2] / "src" / "understudy" / "npc" / "harrowmere"
    for part in ("world.json", "characters.json", "tools.json"):
        assert json.loads((package / part).read_text()) == json.loads((WORLDS / "harrowmere" / part).read_text())


def test_package_ships_the_sample_worlds_cards() -> None:
    """Pictures are compared by their pixels: how they are packed depends on the version of zlib."""
    portraits = script("portraits")
    for card in default_world().characters:
        path = portraits.PACKAGED / "cards" / f"{card.id}.png"
        shipped = Card.load(path)
        assert shipped == card, "run worlds/portraits.py"
        assert path.stat().st_size < 30_000
        assert pixels(shipped.picture) == pixels(portraits.portrait(card)), "run worlds/portraits.py"


def pixels(picture: bytes) -> bytes:
    start = picture.index(b"IDAT")
    (length,) = struct.unpack_from(">I", picture, start - 4)
    return zlib.decompress(picture[start + 4 : start + 4 + length])


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"character": "nobody"}, "unknown character 'nobody'"),
        ({"context": ["No such text."]}, "a context text is not a lore entry"),
        ({"tools": ["fly"]}, "unknown tool fly"),
        ({"turns": [{"role": "user", "content": "Hello?"}]}, "does not end on a line of the character"),
        ({"system": " "}, "no system prompt"),
    ],
)
def test_checker_sees_mistakes(checker: ModuleType, tmp_path: Path, change: dict[str, object], problem: str) -> None:
    world = tmp_path / "harrowmere"
    shutil.copytree(WORLDS / "harrowmere", world)
    lines = (world / "dialogues.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    (world / "dialogues.jsonl").write_text("\n".join([json.dumps({**first, **change}), *lines[1:]]))
    assert any(problem in found for found in checker.check(checker.read_folder(world)))
