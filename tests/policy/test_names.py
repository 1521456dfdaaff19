"""Names say what a thing is for."""

import ast
import re
from pathlib import Path

EMPTY_WORDS = {"common", "helper", "helpers", "manager", "misc", "util", "utils"}


def words(name: str) -> list[str]:
    return [word.lower() for part in name.split("_") for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", part)]


def test_no_empty_words(sources: dict[Path, ast.Module]) -> None:
    bad = []
    for path, tree in sources.items():
        names = [part.removesuffix(".py") for part in path.parts]
        names += [
            n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        ]
        bad += [f"{path}: {n}" for n in names if EMPTY_WORDS & set(words(n)) or words(n)[:1] == ["base"]]
    assert bad == []


def test_words_of_a_name() -> None:
    assert words("LoRAManager") == ["lo", "ra", "manager"]
    assert words("_read_utils") == ["read", "utils"]
