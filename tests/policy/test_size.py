"""A file fits a sitting, a function fits a screen."""

import ast
from pathlib import Path

MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60


def test_files_are_short(texts: dict[Path, str]) -> None:
    code = {name: text for name, text in texts.items() if name.suffix in (".py", ".js", ".css", ".html")}
    long = {str(name): text.count("\n") for name, text in code.items() if text.count("\n") > MAX_FILE_LINES}
    assert long == {}


def test_functions_are_short(python: dict[Path, ast.Module]) -> None:
    long = {}
    for name, tree in python.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MAX_FUNCTION_LINES:
                    long[f"{name}:{node.name}"] = lines
    assert long == {}
