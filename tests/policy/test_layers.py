"""The layers hold, and no package stands outside them."""

import logging
import tomllib
from pathlib import Path

import pytest
from importlinter import configuration
from importlinter.application.use_cases import lint_imports

PROJECT = Path(__file__).parents[2] / "pyproject.toml"
RUNTIME = {
    "engine",
    "errors",
    "kernels",
    "model",
    "npc",
    "playground",
    "prompt",
    "retrieval",
    "server",
    "tokenizer",
    "tools",
}
OUTSIDE = {"testing"}


@pytest.fixture(scope="module")
def contracts() -> list[dict[str, list[str]]]:
    return tomllib.loads(PROJECT.read_text())["tool"]["importlinter"]["contracts"]


@pytest.fixture(scope="module")
def packages(sources: dict[Path, object]) -> set[str]:
    return {path.parts[0].removesuffix(".py") for path in sources} - {"__init__", "__main__"}


def test_imports_keep_the_contracts(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    # Not by its command: that configures logging, which switches off every logger that exists by then.
    logger = logging.getLogger("understudy")
    monkeypatch.chdir(PROJECT.parent)
    monkeypatch.syspath_prepend(PROJECT.parent)
    configuration.configure()
    is_kept = lint_imports(config_filename="pyproject.toml", cache_dir=None)
    assert is_kept, capsys.readouterr().out
    assert not logger.disabled


def test_every_package_stands_in_a_layer(contracts: list[dict[str, list[str]]], packages: set[str]) -> None:
    layers = {name.strip(" ()") for layer in contracts[0]["layers"] for name in layer.split("|")}
    assert packages - layers - OUTSIDE == set()


def test_the_runtime_contract_names_all_that_a_game_ships(
    contracts: list[dict[str, list[str]]], packages: set[str]
) -> None:
    assert set(contracts[1]["source_modules"]) == {f"understudy.{name}" for name in packages & RUNTIME}


@pytest.mark.parametrize("number", [2, 3, 4])
def test_the_other_contracts_leave_no_package_out(
    number: int, contracts: list[dict[str, list[str]]], packages: set[str]
) -> None:
    free = [{"server"}, {"cli"}, set()][number - 2] | {"errors"} | OUTSIDE
    assert set(contracts[number]["source_modules"]) == {f"understudy.{name}" for name in packages - free}
