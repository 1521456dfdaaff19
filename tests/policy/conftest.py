"""What the policies look at."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_FOLDERS = ("src", "tests", "benchmarks", "recipes", "docs", "examples", "worlds", ".ci")


def _files() -> list[Path]:
    skipped = {"__pycache__", "node_modules"}
    nested = [p for folder in _FOLDERS for p in (ROOT / folder).rglob("*") if skipped.isdisjoint(p.parts)]
    return sorted(p for p in [*ROOT.iterdir(), *nested] if p.is_file())


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def texts() -> dict[Path, str]:
    """Every text file of the repository by its path from the root."""
    endings = {".py", ".toml", ".md", ".js", ".css", ".html", ".json", ".jsonl", ".txt", ""}
    found = {p.relative_to(ROOT): p for p in _files() if p.suffix in endings}
    return {name: p.read_text("utf-8") for name, p in found.items() if name.name != ".git"}


@pytest.fixture(scope="session")
def python(texts: dict[Path, str]) -> dict[Path, ast.Module]:
    """Every Python file, parsed."""
    return {name: ast.parse(text, str(name)) for name, text in texts.items() if name.suffix == ".py"}


@pytest.fixture(scope="session")
def sources(python: dict[Path, ast.Module]) -> dict[Path, ast.Module]:
    """The package's own modules, parsed, by their path inside the package."""
    package = Path("src/understudy")
    return {name.relative_to(package): tree for name, tree in python.items() if name.is_relative_to(package)}
