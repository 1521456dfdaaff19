"""Modules state what they offer, and do nothing when they are imported."""

import ast
import subprocess
import sys
from pathlib import Path

RUNTIME = ("engine", "errors.py", "kernels", "model", "npc", "prompt", "server", "tokenizer")
WORKSHOP = ("matplotlib", "safetensors", "torch", "transformers", "understudy.data", "understudy.training", "zstandard")
READING = {"load", "loads", "open", "read_bytes", "read_json", "read_text"}


def exported(tree: ast.Module) -> list[str] | None:
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    return None


def test_all_lists_every_public_definition(sources: dict[Path, ast.Module]) -> None:
    wrong = {}
    for path, tree in sources.items():
        kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
        public = {node.name for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")}
        missing = public - set(exported(tree) or [])
        if missing:
            wrong[str(path)] = sorted(missing)
    assert wrong == {}


def defines(statement: ast.stmt, path: Path) -> bool:
    definitions = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    if isinstance(statement, (*definitions, ast.Assign, ast.AnnAssign)):
        return True
    text = ast.unparse(statement)
    if isinstance(statement, ast.Expr):
        docstring = isinstance(statement.value, ast.Constant)
        return docstring or (path.parts[0] == "cli" and text.startswith("app.")) or path.name == "__main__.py"
    return text.startswith(("if TYPE_CHECKING:", "if typing.TYPE_CHECKING:"))


def test_top_level_only_defines(sources: dict[Path, ast.Module]) -> None:
    wrong = [
        f"{path}:{statement.lineno}: {ast.unparse(statement).splitlines()[0]}"
        for path, tree in sources.items()
        for statement in tree.body
        if not defines(statement, path)
    ]
    assert wrong == []


def test_no_file_is_read_at_import(sources: dict[Path, ast.Module]) -> None:
    wrong = []
    for path, tree in sources.items():
        for statement in tree.body:
            if isinstance(statement, ast.Assign | ast.AnnAssign):
                calls = [node for node in ast.walk(statement) if isinstance(node, ast.Call)]
                reads = [c for c in calls if ast.unparse(c.func).split(".")[-1] in READING]
                wrong += [f"{path}:{call.lineno}: {ast.unparse(call)}" for call in reads]
    assert wrong == []


def test_the_runtime_needs_no_workshop(sources: dict[Path, ast.Module]) -> None:
    paths = [p.with_suffix("") for p in sources if p.parts[0] in RUNTIME or p.parent == Path("cli")]
    names = [".".join(("understudy", *p.parts)).removesuffix(".__init__") for p in paths if p.name != "__main__"]
    code = f"""
import importlib, sys
for name in {sorted(names)!r}:
    importlib.import_module(name)
print([name for name in {WORKSHOP!r} if name in sys.modules])
"""
    run = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (run.stdout.strip(), run.stderr) == ("[]", "")
