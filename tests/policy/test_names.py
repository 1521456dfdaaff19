"""Names say what a thing is for."""

import ast
import re
from pathlib import Path

EMPTY_WORDS = {"helper", "helpers", "manager", "misc", "util", "utils"}
EMPTY_MODULES = {"common", "utilities"}


def words(name: str) -> list[str]:
    return [word.lower() for part in name.split("_") for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", part)]


def test_no_empty_words(sources: dict[Path, ast.Module]) -> None:
    bad = [str(path) for path in sources if EMPTY_MODULES & {*path.parts, path.stem} or path.stem.startswith("base")]
    for path, tree in sources.items():
        nodes = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)]
        names = [part.removesuffix(".py") for part in path.parts] + [node.name for node in nodes]
        bad += [f"{path}: {name}" for name in names if EMPTY_WORDS & set(words(name))]
        bad += [f"{path}: {n.name}" for n in nodes if isinstance(n, ast.ClassDef) and words(n.name)[0] == "base"]
    assert bad == []


def test_words_of_a_name() -> None:
    assert words("LoRAManager") == ["lo", "ra", "manager"]
    assert words("_read_utils") == ["read", "utils"]
