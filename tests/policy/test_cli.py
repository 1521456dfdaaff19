"""Few options a verb, and a page that lists them."""

from pathlib import Path

import pytest
import typer
from typer.main import get_command

from understudy.cli.app import app

MAX_OPTIONS = 10


@pytest.fixture(scope="module")
def verbs() -> dict[str, object]:
    """By name; those of a group as "group verb"."""
    verbs = {}
    for name, verb in get_command(app).commands.items():
        inner = getattr(verb, "commands", None)
        verbs |= {f"{name} {n}": v for n, v in inner.items()} if inner else {name: verb}
    return verbs


def test_few_options_a_verb(verbs: dict[str, object]) -> None:
    options = {name: [p.name for p in verb.params if p.name != "help"] for name, verb in verbs.items()}
    assert {name: o for name, o in options.items() if len(o) > MAX_OPTIONS} == {}


def test_every_option_is_explained(verbs: dict[str, object]) -> None:
    silent = [f"{name} {p.name}" for name, verb in verbs.items() for p in verb.params if not getattr(p, "help", None)]
    assert silent == []


def test_the_page_of_commands_is_complete(root: Path, verbs: dict[str, object]) -> None:
    page = (root / "docs" / "cli.md").read_text()
    expected = [f"`understudy {name}`" for name in verbs]
    expected += [p.opts[0] for verb in verbs.values() for p in verb.params if p.opts[0].startswith("--")]
    assert [text for text in expected if text not in page] == [], "run `make docs`"


def test_the_app_is_typers() -> None:
    assert isinstance(app, typer.Typer)
