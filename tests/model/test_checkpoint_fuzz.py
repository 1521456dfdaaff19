"""Damaged files: each loads or raises ModelFileError, nothing else."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from understudy.errors import ModelFileError
from understudy.model.checkpoint import load_model
from understudy.model.gguf_writer import write_gguf
from understudy.model.safetensors_file import read_safetensors
from understudy.model.torch_file import read_torch_file
from understudy.testing import byte_tokenizer

HEADER = 8192
MANY = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
INTERESTING = st.sampled_from(
    [b"\0" * 8, b"\xff" * 8, b"\xff" * 4, b"\x7f", b"\x80", b"\0", b"\xff\xff\xff\xff\xff\xff\xff\x7f"]
)
DAMAGE = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.one_of(INTERESTING, st.binary(min_size=1, max_size=8))),
    min_size=0,
    max_size=3,
)


def damaged(data: bytes, damage: list[tuple[float, bytes]], keep: float, span: range) -> bytes:
    out = bytearray(data)
    for at, new in damage:
        start = span.start + int(at * len(span))
        out[start : start + len(new)] = new
    return bytes(out[: int(len(out) * keep)])


def loads_or_refuses(load: Any, path: Path) -> None:
    try:
        load(path)
    except ModelFileError as error:
        assert len(str(error)) > 20


KEEP = st.one_of(st.just(1.0), st.floats(0, 1))


@pytest.fixture(scope="module")
def gguf_bytes(tmp_path_factory: pytest.TempPathFactory, config, tensors) -> bytes:
    path = tmp_path_factory.mktemp("fuzz") / "x.gguf"
    write_gguf(path, config, tensors, byte_tokenizer().definition, "template", file_type="q8_0")
    return path.read_bytes()


@MANY
@given(damage=DAMAGE, keep=KEEP, is_header=st.booleans())
@example(damage=[], keep=0.0, is_header=True)
def test_gguf(tmp_path: Path, gguf_bytes: bytes, damage: Any, keep: float, is_header: bool) -> None:
    tensors_at = gguf_bytes.index(b"token_embd.weight")
    span = range(4, 900) if is_header else range(tensors_at, tensors_at + 2000)
    path = tmp_path / "x.gguf"
    path.write_bytes(damaged(gguf_bytes, damage, keep, span))
    loads_or_refuses(load_model, path)


@MANY
@given(damage=DAMAGE, keep=KEEP)
def test_safetensors(tmp_path: Path, save_folder: Any, damage: Any, keep: float) -> None:
    path = save_folder() / "model.safetensors"
    path.write_bytes(damaged(path.read_bytes(), damage, keep, range(HEADER // 4)))
    loads_or_refuses(load_model, path.parent)
    loads_or_refuses(read_safetensors, path)


@MANY
@given(damage=DAMAGE, keep=KEEP, where=st.sampled_from(["pickle", "front", "back"]))
def test_torch(tmp_path: Path, save_folder: Any, damage: Any, keep: float, where: str) -> None:
    path = save_folder("bin") / "pytorch_model.bin"
    data = path.read_bytes()
    pickle_at = data.index(b"\x80\x02")
    spans = {
        "pickle": range(pickle_at, pickle_at + 2000),
        "front": range(64),
        "back": range(len(data) - 3000, len(data)),
    }
    path.write_bytes(damaged(data, damage, keep, spans[where]))
    loads_or_refuses(read_torch_file, path)
    loads_or_refuses(load_model, path.parent)
