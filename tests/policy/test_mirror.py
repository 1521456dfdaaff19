"""The tests stand where their modules stand."""

import ast
from pathlib import Path

BESIDE = {"benchmarks", "browser", "clients", "golden", "integration", "policy"}


def test_every_test_file_names_a_module(python: dict[Path, object], sources: dict[Path, object]) -> None:
    """`model/test_gguf.py` may stand for `model/gguf_reader.py`, `test_engine_cancel.py` for `engine.py`."""
    modules = {path.with_suffix("") for path in sources} | {path.parent for path in sources}
    strays = []
    for path in python:
        if path.parts[0] != "tests" or not path.name.startswith("test_") or path.parts[1] in BESIDE:
            continue
        folder, stem = path.relative_to("tests").parent, path.stem.removeprefix("test_")
        beside = [module.name for module in modules if module.parent == folder]
        if not any(f"{stem}_".startswith(f"{name}_") or name.startswith(f"{stem}_") for name in beside):
            strays.append(str(path))
    assert strays == []


def test_every_package_has_tests(python: dict[Path, object], sources: dict[Path, ast.Module]) -> None:
    code = {path.parts[0] for path, tree in sources.items() if len(path.parts) > 1 and tree.body}
    tested = {path.parts[1] for path in python if path.parts[0] == "tests" and path.name.startswith("test_")}
    assert code - tested - {"testing"} == set()
