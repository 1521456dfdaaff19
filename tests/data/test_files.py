import io
import json
import tarfile
from pathlib import Path

import pytest
import zstandard

from understudy.data.files import read_bytes, read_json_lines, read_tar_texts
from understudy.errors import DataError


def test_a_packed_file_stands_in_for_a_missing_one(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(b'{"n": 1}\n\n{"n": 2}\n'))
    assert [r["n"] for r in read_json_lines(tmp_path / "a.jsonl")] == [1, 2]
    assert read_bytes(tmp_path / "a.jsonl.zst") == read_bytes(tmp_path / "a.jsonl")
    (tmp_path / "a.jsonl").write_bytes(b'{"n": 3}')
    assert [r["n"] for r in read_json_lines(tmp_path / "a.jsonl")] == [3]


def test_texts_of_an_archive_come_in_order(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "books.tar", "w") as archive:
        for name, text in (("books/b.txt", "B"), ("books/cover.png", "x"), ("books/a.txt", "A")):
            info = tarfile.TarInfo(name)
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    packed = zstandard.compress((tmp_path / "books.tar").read_bytes())
    (tmp_path / "books.tar.zst").write_bytes(packed)
    assert list(read_tar_texts(tmp_path / "books.tar.zst")) == [("b.txt", "B"), ("a.txt", "A")]


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "--data FOLDER"), (b"{}\nnonsense", "line 2: not JSON"), (b"[1]", "line 1: expected an object")],
)
def test_bad_files_say_what_is_wrong(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "x.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        list(read_json_lines(path))


def test_a_damaged_packed_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.json.zst").write_bytes(zstandard.compress(json.dumps([1] * 999).encode())[:20] + b"damage")
    with pytest.raises(DataError, match=r"x\.json\.zst is damaged|cannot be read"):
        read_bytes(tmp_path / "x.json")
