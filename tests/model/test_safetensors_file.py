"""Reading safetensors: what the format's own library refuses, and what it does not."""

import json
from pathlib import Path
from typing import Any

import pytest

from understudy.errors import ModelFileError
from understudy.model.safetensors_file import read_safetensors


def write(path: Path, header: Any, body: bytes = bytes(16), length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + body)
    return path


def entry(**changes: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16], **changes}


def test_a_good_file(tmp_path: Path) -> None:
    path = write(tmp_path / "x", {"__metadata__": {"format": "pt"}, "a": entry()})
    assert read_safetensors(path)["a"].dense().shape == (2, 2)


@pytest.mark.parametrize(
    "header",
    [
        [],
        b"\xff\xfe",
        b'{"a": {}, "a": {}}',
        {"a": None},
        {"a": entry(dtype="F64")},
        {"a": entry(dtype=["F32"])},
        {"a": entry(shape=[2, 3])},
        {"a": entry(shape=[-2, -2])},
        {"a": entry(shape=[2.0, 2])},
        {"a": entry(shape=[True, 4])},
        {"a": entry(shape=[1 << 40, 1 << 40])},
        {"a": entry(shape=[1] * 9)},
        {"a": entry(shape=None)},
        {"a": entry(data_offsets=[0])},
        {"a": entry(data_offsets=[16, 0])},
        {"a": entry(data_offsets=[8, 24])},
        {"a": entry(data_offsets=[-16, 0])},
        {"a": entry(data_offsets=[10**30, 10**30 + 16])},
        {"a": entry(data_offsets="0,16")},
    ],
)
def test_malformed_headers_are_refused(tmp_path: Path, header: Any) -> None:
    with pytest.raises(ModelFileError, match=r"[:;]"):
        read_safetensors(write(tmp_path / "x", header))


@pytest.mark.parametrize("length", [0, 1, 1000, 1 << 40, (1 << 64) - 1])
def test_wrong_header_lengths_are_refused(tmp_path: Path, length: int) -> None:
    with pytest.raises(ModelFileError):
        read_safetensors(write(tmp_path / "x", {"a": entry()}, length=length))
