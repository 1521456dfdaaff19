"""`understudy card`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from understudy.npc.card import Card
from understudy.npc.png import encode_rgb

if TYPE_CHECKING:
    from conftest import Run

CARD = {
    "spec": "chara_card_v3",
    "spec_version": "3.0",
    "data": {
        "name": "Ada",
        "description": "A smith with [red] hair.",
        "first_mes": "Hello, {{user}}.",
        "alternate_greetings": ["Go away."],
        "creator_notes": "Be nice.",
        "creator_notes_multilingual": {"de": "Sei nett."},
        "unknown": {"龍": 1},
        "character_book": {"entries": [{"keys": ["well"], "content": "Deep {{time}}.", "secondary_keys": ["dry"]}]},
    },
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "ada.json"
    path.write_text(json.dumps(CARD))
    return path


def test_show(run: "Run", file: Path) -> None:
    result = run("card", "show", file, "--language", "de")
    assert (result.code, result.err) == (0, "")
    for shown in ("Ada", "V3", "[red] hair", "greeting 1", "Go away.", "Sei nett.", "well"):
        assert shown in result.out


def test_convert_through_all_files_and_versions(run: "Run", file: Path, tmp_path: Path) -> None:
    picture = tmp_path / "red.png"
    picture.write_bytes(encode_rgb([b"\xff\0\0" * 4] * 4))
    png, archive, last = (tmp_path / f"ada.{ending}" for ending in ("png", "charx", "last.json"))
    assert run("card", "convert", file, png, "--picture", picture, "--to", "v1").out.strip() == f"{png}: Ada, V1"
    assert run("card", "convert", png, archive).out.strip() == f"{archive}: Ada, V3"
    result = run("card", "convert", archive, last, "--to", "v2")
    assert (result.code, result.err) == (0, "")
    assert "neither the picture" in result.out
    card = Card.load(last)
    assert (card.version, card.description, card.raw["data"]["unknown"]) == (
        "v2",
        "A smith with [red] hair.",
        {"龍": 1},
    )
    assert Card.load(archive).picture == picture.read_bytes()


def test_check(run: "Run", file: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "fine.json").write_text(json.dumps({"name": "Bo", "description": "A miller.", "first_mes": "Yes?"}))
    assert run("card", "check", tmp_path / "fine.json").code == 0
    result = run("card", "check", file, tmp_path / "broken.json", tmp_path / "fine.json")
    assert result.code == 2
    for shown in ("without selective", "{{time}}", "demands personality", "no valid JSON", "fine.json: nothing found"):
        assert shown in result.out
    assert "2 of 3 files have problems" in result.err


def test_mistakes(run: "Run", file: Path, tmp_path: Path) -> None:
    assert "Give a PNG picture" in run("card", "convert", file, tmp_path / "ada.png").err
    assert "Choose one of v1, v2, v3" in run("card", "convert", file, tmp_path / "a.json", "--to", "v9").err
    assert "name it .json, .png" in run("card", "convert", file, tmp_path / "ada.txt").err
    assert "cannot be read" in run("card", "show", tmp_path / "none.png").err
