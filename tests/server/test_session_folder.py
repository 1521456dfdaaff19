"""A folder of saved characters: bounds, owners, ids that are no paths."""

from collections.abc import Callable
from pathlib import Path

import pytest

from understudy.errors import ServeError
from understudy.server.problem import Problem
from understudy.server.session_folder import SessionFolder


def writes(content: bytes) -> Callable[[Path], int]:
    def write(path: Path) -> int:
        return path.write_bytes(content)

    return write


def test_kept_told_and_deleted(tmp_path: Path) -> None:
    folder = SessionFolder(tmp_path / "a" / "b")
    kept = folder.keep("Ada", {"player": "Mara"}, writes(b"xy"), num_bytes=9)
    assert (kept["bytes"], kept["player"], kept["object"]) == (2, "Mara", "npc.session")
    assert folder.all_of("Ada") == [kept]
    assert folder.path("Ada", kept["id"]).read_bytes() == b"xy"
    again = folder.keep("Ada", {"player": "Jon"}, writes(b"xyz"), num_bytes=9, session_id=kept["id"])
    assert (again["id"], again["bytes"], again["player"]) == (kept["id"], 3, "Jon")
    folder.remove("Ada", kept["id"])
    assert folder.all_of("Ada") == []
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_nobody_finds_what_is_anothers(tmp_path: Path) -> None:
    folder = SessionFolder(tmp_path)
    kept = folder.keep("Ada", {}, writes(b"x"), num_bytes=1)
    (tmp_path / "secret.npc").write_bytes(b"s")
    for owner in ("ada", "Bo", ""):
        assert folder.all_of(owner) == []
        with pytest.raises(Problem, match="no saved session"):
            folder.remove(owner, kept["id"])
    for name in (
        "../secret",
        "..",
        "",
        kept["id"][:-1],
        f"../x/{kept['id']}",
        "session_" + "0" * 32,
        "a\0b",
        "x" * 999,
    ):
        with pytest.raises(Problem) as caught:
            folder.path("Ada", name)
        assert caught.value.status == 404
    with pytest.raises(Problem):
        folder.keep("Bo", {}, writes(b"x"), num_bytes=1, session_id=kept["id"])


def test_it_is_bounded(tmp_path: Path) -> None:
    folder = SessionFolder(tmp_path, max_sessions=2, max_bytes=10)
    first = folder.keep("Ada", {}, writes(b"x" * 4), num_bytes=4)
    with pytest.raises(Problem, match="There is room for 2") as caught:
        folder.keep("Ada", {}, writes(b"never"), num_bytes=7)
    assert (caught.value.status, caught.value.code) == (413, "sessions_full")
    folder.keep("Ada", {}, writes(b"x"), num_bytes=1)
    with pytest.raises(Problem):
        folder.keep("Ada", {}, writes(b"never"), num_bytes=1)
    folder.keep("Ada", {}, writes(b"x" * 9), num_bytes=9, session_id=first["id"])  # in the place of the old one
    folder.keep("Bo", {}, writes(b"x"), num_bytes=1)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ServeError, match="cannot be made"):
        SessionFolder(tmp_path / "file" / "folder")
