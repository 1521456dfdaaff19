"""The tests stand where their modules stand."""

import ast
from pathlib import Path

BESIDE = {"benchmarks", "golden", "integration", "policy"}


def test_every_test_file_names_a_module(python: dict[Path, object], sources: dict[Path, object]) -> None:
    modules = {path.with_suffix("") for path in sources} | {path.parent for path in sources}
    strays = []
    for path in python:
        if path.parts[0] != "tests" or not path.name.startswith("test_") or path.parts[1] in BESIDE:
            continue
        folder, words = path.relative_to("tests").parent, path.stem.removeprefix("test_").split("_")
        names = {folder / "_".join(words[:n]) for n in range(1, len(words) + 1)}
        if not names & modules:
            strays.append(str(path))
    assert strays == []


def test_every_package_has_tests(python: dict[Path, object], sources: dict[Path, ast.Module]) -> None:
    code = {path.parts[0] for path, tree in sources.items() if len(path.parts) > 1 and tree.body}
    tested = {path.parts[1] for path in python if path.parts[0] == "tests" and path.name.startswith("test_")}
    assert code - tested - {"testing"} == set()
