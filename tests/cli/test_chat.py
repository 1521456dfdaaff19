import json
import sys
import zipfile
from collections.abc import Generator
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from understudy.engine import Chunk

if TYPE_CHECKING:
    from conftest import Run

GREETING = "Boots on the rack, love"


def test_one_line_one_answer(run: "Run", model_file: Path) -> None:
    command = ("chat", "--model", model_file, "--say", "Good evening!", "--max-tokens", 8, "--temperature", 2)
    first, again, other = [run(*command, "--seed", seed) for seed in (1, 1, 2)]
    assert (first.code, first.err) == (0, "")
    assert first.out == again.out != other.out
    assert GREETING not in first.out
    assert len(first.out.strip()) <= 8


def test_a_conversation(run: "Run", model_file: Path, tmp_path: Path) -> None:
    saved = tmp_path / "evening.npc"
    typed = [
        "/help",
        "",
        "Tell me about the Dry Boot.",
        "/why",
        f"/save {saved}",
        "/reset",
        f"/load {saved}",
        "/load",
        "/dance",
        "/quit",
        "never said",
    ]
    result = run(
        "chat", "--model", model_file, "--seed", 1, "--max-tokens", 6, "--player", "Bren", typed="\n".join(typed)
    )
    assert (result.code, result.err) == (0, "")
    for fragment in (
        f"Hettie Marlpit: {GREETING}",
        "/reset        forget",
        "Dry Boot inn: kept, matched ",
        " tokens; 0 exchanges before this one",
        "Saved to ",
        "Forgotten.",
        "Going on with Hettie Marlpit, 2 lines so far.",
        "/load needs a file name",
        "There is no command /dance",
        "Bren: ",
    ):
        assert fragment in result.out
    with zipfile.ZipFile(saved) as archive:
        assert json.loads(archive.read("session.json"))["history"][0]["content"] == "Tell me about the Dry Boot."
    assert "\x1b[" not in result.out


def test_the_end_of_the_input_leaves(run: "Run", model_file: Path) -> None:
    result = run("chat", "--model", model_file, "--card", "gunna", typed="")
    assert (result.code, result.err) == (0, "")
    assert "Mind the sparks" in result.out


def test_cards_may_be_pictures(run: "Run", model_file: Path) -> None:
    by_name = run("chat", "--model", model_file, "--character", "minnow", typed="")
    cards = resources.files("understudy.npc") / "harrowmere" / "cards"
    by_file = run("chat", "--model", model_file, "--card", cards / "minnow.png", typed="")
    assert (by_name.code, by_name.err, by_name.out) == (0, "", by_file.out)
    assert "Minnow: " in by_name.out


def test_ctrl_c_stops_the_answer_only(run: "Run", model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: object) -> Generator[Chunk]:
        yield Chunk("I was say", (), None)
        raise KeyboardInterrupt

    monkeypatch.setattr("understudy.engine.Generation.__iter__", interrupted)
    result = run("chat", "--model", model_file, typed="Hi\n/why\n")
    assert result.code == 0
    assert "I was say (stopped)" in result.out
    assert "0 exchanges before this one" in result.out


def test_mistakes_do_not_end_the_conversation(run: "Run", model_file: Path, tmp_path: Path) -> None:
    typed = f"{'long ' * 2000}\n/load {tmp_path / 'none.json'}\n/save {tmp_path}/no/such/folder\n/load [/b]\n/why\n"
    result = run("chat", "--model", model_file, "--max-tokens", 5, typed=typed)
    assert result.code == 0
    for fragment in (
        "maximum context length",
        "Say it shorter",
        "Cannot read",
        "Cannot save",
        "[/b]",
        "Nothing was said yet",
    ):
        assert fragment in result.out


def test_odd_names_and_letters(run: "Run", model_file: Path) -> None:
    result = run("chat", "--model", model_file, "--max-tokens", 3, "--player", "[/b] :smile:", typed=b"na\xefve \xff\n")
    assert (result.code, result.err) == (0, "")
    assert "[/b] :smile:: " in result.out


def test_a_limit_beyond_the_context(run: "Run", small_context_file: Path, tmp_path: Path) -> None:
    card = tmp_path / "smith.json"
    card.write_text(json.dumps({"name": "Tam", "description": "A smith."}))
    command = ("chat", "--model", small_context_file, "--card", card, "--max-tokens", 100_000, "--seed", 4)
    result = run(*command, "--say", "Hello there!")
    assert (result.code, result.err) == (0, "")
    assert result.out.strip()


def test_cards_and_worlds_of_ones_own(run: "Run", model_file: Path, tmp_path: Path) -> None:
    card = tmp_path / "smith.json"
    card.write_text(json.dumps({"name": "Tam", "description": "A smith.", "first_mes": "Hello, {{user}}."}))
    assert "Tam: Hello, Bo." in run("chat", "--model", model_file, "--card", card, "--player", "Bo").out
    world = {"world.json": {"id": "hill", "name": "The Hill"}, "tools.json": [], "characters.json": [{"name": "Ada"}]}
    for name, value in world.items():
        (tmp_path / name).write_text(json.dumps(value))
    result = run("chat", "--model", model_file, "--world", tmp_path, "--say", "Hi", "--max-tokens", 2)
    assert (result.code, result.err) == (0, "")
    book = tmp_path / "book.json"
    book.write_text('{"entries": [{"keys": ["ferry"], "content": "It leaves at dawn."}]}')
    result = run("chat", "--model", model_file, "--world", book, "--max-tokens", 2, typed="The ferry?\n/why\n")
    assert 'lorebook 0: kept, key "ferry"' in result.out
    assert "lorebook" in run("chat", "--model", model_file, "--world", tmp_path / "none.json", "--say", "Hi").err
    twice = run("chat", "--model", model_file, "--world", tmp_path, "--world", tmp_path, "--say", "Hi")
    assert f"{tmp_path} is a second world folder" in twice.err


def test_calls_and_results_are_shown(
    run: "Run", model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "inn.py").write_text("def ring(times: int) -> str:\n    return 'ding ' * times\n")
    (tmp_path / "tools.json").write_text('[{"name": "open_gate"}]')
    lines = [
        'Wait. <toolcall> {"name": "ring", "arguments": {"times": 2}} </toolcall>',
        "There.",
        '<toolcall> {"name": "ring", "arguments": {}} </toolcall>',
        "Hm.",
        '<toolcall> {"name": "open_gate", "arguments": {"side": "[/b]"}} </toolcall>',
    ]

    def said(self: object) -> Generator[Chunk]:
        yield Chunk(lines.pop(0), (), "stop")

    monkeypatch.setattr("understudy.engine.Generation.__iter__", said)
    monkeypatch.setattr("sys.path", list(sys.path))
    given = ("--tools", f"{tmp_path / 'inn.py'}:ring", "--tools", tmp_path / "tools.json")
    result = run("chat", "--model", model_file, "--max-tokens", 2, *given, typed="Hi\nHo\nHa\n/why\n")
    assert (result.code, result.err) == (0, "")
    for shown in (
        'Hettie Marlpit: Wait.\n  ring {"times": 2}\n  -> ding ding\nThere.\n',
        '  -> invalid: {"ok":false,"reason":"times: Field required"}\nHm.\n',
        '  open_gate {"side": "[/b]"}\n  not run: open_gate\n',
    ):
        assert shown in result.out


@pytest.mark.parametrize("spec", ["nowhere.json", "no_such_module:f", "nowhere.py:f"])
def test_tools_that_are_not_there(run: "Run", model_file: Path, monkeypatch: pytest.MonkeyPatch, spec: str) -> None:
    monkeypatch.setattr("sys.path", list(sys.path))
    result = run("chat", "--model", model_file, "--tools", spec, "--say", "Hi")
    assert result.code != 0
    assert spec.rsplit(":", 1)[0] in result.err
